"""The software's name and version: in files, in the greeting, for ``--version``."""

from importlib.metadata import version

SOFTWARE = f"capd {version('capd')}"
