"""Capture filters: compiled with libpcap, joined as classic BPF programs. For daemon and worker."""
