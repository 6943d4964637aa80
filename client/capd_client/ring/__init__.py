"""The files of a ring, through its index."""
