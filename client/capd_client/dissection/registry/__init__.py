"""What Wireshark knows: protocols, fields, their types and the names of their values, kept for each version."""
