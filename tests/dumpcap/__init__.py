"""capd-dumpcap beside dumpcap."""
