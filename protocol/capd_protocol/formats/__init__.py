"""What lies on disks: pcapng files, link-layer types, and a ring's index."""
