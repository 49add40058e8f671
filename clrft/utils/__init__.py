"""Files that appear whole, locks, processes, progress, interrupts."""
