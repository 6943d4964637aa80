"""Where packets come from: packet rings of network interfaces, and streams."""
