"""The captures that run, from grant to end, whoever asked for them."""
