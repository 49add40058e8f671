"""What a run comes to: tokens, operations and memory, counted as it goes and estimated before."""
