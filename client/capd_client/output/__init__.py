"""Live output: the packets of a running capture to standard output, a FIFO or readers of a socket, as one stream."""
