"""A sweep's cells as tasks of a Ray cluster."""
