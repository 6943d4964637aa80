"""The process that captures: one for each capture, with the rights of the user who asked for it."""
