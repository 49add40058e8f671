"""Several processes on one run: who is which, what each computes, and weights that are split among them."""
