"""Wireshark's programs as children: found, started without rights, given packets, ended with their owner."""
