"""Other processes that are forked for the daemon: one closes descriptors, one passes files."""
