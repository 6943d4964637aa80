"""``capctl send``: the packets of a file sent again, and what is shown of that."""
