"""Packets as lines of text, as people know them from tcpdump, or as JSON."""
