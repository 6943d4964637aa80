"""Display filters: Wireshark's language for packets by their fields, worked out by numpy for whole batches."""
