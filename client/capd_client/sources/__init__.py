"""Sources that this program runs: extcap programs, and capture files that are replayed."""
