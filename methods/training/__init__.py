"""The training of one task: the TRL trainers, optimizers, the state of a training."""
