"""What is run in a checkout of the repository, and not installed."""
