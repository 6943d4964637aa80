"""How much happens at once, and how often: turns, rates, threads."""
