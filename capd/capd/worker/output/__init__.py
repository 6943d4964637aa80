"""Where packets go: the files of a capture, and what the daemon is told of them."""
