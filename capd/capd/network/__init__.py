"""Which network interfaces there are, their state, counters, drivers and capabilities."""
