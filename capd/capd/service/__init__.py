"""The daemon as a service: its sockets, what systemd hands over and hears, the log, how processes are started."""
