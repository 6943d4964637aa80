"""Captures without a client: those of the configuration, and detached ones, over restarts."""
