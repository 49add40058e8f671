"""What a sweep will take, told before anything runs: tokens, operations, memory, hours, disk."""
