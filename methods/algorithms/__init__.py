"""What learns by itself; one file each."""
