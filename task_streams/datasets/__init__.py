"""One file for each published dataset, or form of a user's own: layout, classes, sizes, licence, citation."""
