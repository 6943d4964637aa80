"""Where packets go: the files of a capture, and what is reported of them to the daemon."""
