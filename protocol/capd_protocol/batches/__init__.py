"""Packets in capture files as numpy arrays: pcap and pcapng, whole or growing, parsed into batches, and filtered."""
