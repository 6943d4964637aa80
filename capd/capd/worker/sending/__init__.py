"""The process that sends: one for each client that does, with the rights of its user."""
