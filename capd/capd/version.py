"""Who we say we are: in files, in the greeting, to ``--version``."""

from importlib.metadata import version

SOFTWARE = f"capd {version('capd')}"
