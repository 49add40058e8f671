"""What a run needs of memory: estimated before it is trained, and for plans."""
