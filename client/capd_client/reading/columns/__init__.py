"""Columns of fields, of what is read: numpy arrays, and what Arrow's programs take."""
