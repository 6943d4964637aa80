"""Compressed files: records wait in memory for a thread, which compresses them and writes the file."""
