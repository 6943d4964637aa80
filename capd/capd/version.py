"""The software's name and version: in files, in the greeting, for ``--version``."""

from capd_protocol.version import VERSION

SOFTWARE = f"capd {VERSION}"
