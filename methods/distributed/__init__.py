"""Several processes of one run: ranks, and weights split among them."""
