"""Commands beside the daemon: checking a configuration, installing the service."""
