"""The daemon as a service: its sockets, what it gets from systemd and reports to it, the log, starting of processes."""
