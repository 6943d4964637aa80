"""The flight recorder: the last packets in memory, written as snapshots."""
