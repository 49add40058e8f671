"""One cell: prepare, train, test, record; checkpoints, resume, forks."""
