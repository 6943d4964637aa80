"""The configuration file: TOML to rules and captures, with all its faults at once."""
