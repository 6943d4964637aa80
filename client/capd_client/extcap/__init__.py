"""The command ``capd-extcap``: capd in Wireshark's own list of interfaces, and what is set and shown there."""
