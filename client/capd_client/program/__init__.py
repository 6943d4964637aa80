"""A program in the daemon's place: any that has dumpcap's command line and messages, as a child of this one."""
