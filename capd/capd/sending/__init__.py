"""The clients that send packets, from grant to end, and how they are kept from it."""
