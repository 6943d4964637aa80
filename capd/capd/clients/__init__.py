"""The clients of the daemon's socket: admission, requests, and the events of their captures."""
