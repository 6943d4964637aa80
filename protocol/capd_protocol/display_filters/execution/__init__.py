"""Checked display filters, worked out for whole batches: values, what is calculated of them, and tests."""
