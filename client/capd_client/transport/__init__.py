"""The way to the daemon: its socket, a private daemon, and the files that it passes."""
