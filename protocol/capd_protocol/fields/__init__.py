"""Fields of packets by Wireshark's names, worked out for whole batches."""
