"""A second look at the tables of an analysis, on the disk: what those hold that pass."""
