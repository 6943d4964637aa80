"""Metrics for Prometheus: their text, and where it is served."""
