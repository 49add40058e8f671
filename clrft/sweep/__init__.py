"""Many cells: which there are, how they stand, and what executes them (this machine, Ray)."""
