"""The conversation of client and daemon, without any input or output: bytes in, events out."""
