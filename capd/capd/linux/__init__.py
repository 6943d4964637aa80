"""Interfaces of the system that daemon and worker share: packet sockets and rings, privileges, libpcap, file modes."""
