"""The command ``capd-dumpcap``, which stands in dumpcap's place: its command line, and what it says to its parent."""
