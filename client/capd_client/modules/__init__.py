"""Capture modules: devices that are no network interfaces, each module in a process of its own."""
