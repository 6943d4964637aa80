"""The command ``capctl``."""
