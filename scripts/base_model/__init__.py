"""The pretraining of the embedded model that ships in ``clrft/base_model/tiny``."""
