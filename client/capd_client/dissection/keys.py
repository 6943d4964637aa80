"""Files of TLS keys, for an engine that may not be allowed to read them."""

import os
import shutil
import weakref
from collections.abc import Callable, Sequence
from typing import Final

from capd_client.errors import InvalidArgument
from capd_client.obstacles import obstacle

#: More is no file of keys. Chosen: a million sessions.
_MOST_BYTES: Final = 256 * 1024 * 1024


class KeyLog:
    """A file of keys: by its path, so that what is added is found too; or, where root reads, what is in it now.

    The engine is nobody then, who shall not be able to read root's files.
    """

    def __init__(self, path: str) -> None:
        """Look at a file.

        Raises:
            InvalidArgument: it cannot be read.
        """
        self.path = path
        self.descriptors: Sequence[int] = ()
        self._close: Callable[[], object] | None = None
        try:
            with open(path, "rb") as file:  # noqa: PTH123
                if os.geteuid() == 0:
                    copy = os.memfd_create("capd-keys", os.MFD_CLOEXEC)
                    self.descriptors = (copy,)
                    self._close = weakref.finalize(self, os.close, copy)
                    self.path = f"/proc/self/fd/{copy}"
                    with os.fdopen(os.dup(copy), "wb") as target:
                        shutil.copyfileobj(file, target)
        except (OSError, ValueError) as error:
            self.close()
            reason = obstacle(path, error) if isinstance(error, OSError) else str(error)
            raise InvalidArgument(f"keylog_file {path!r}: {reason}", argument="keylog_file") from error

    def close(self) -> None:
        """Let go of the copy."""
        if self._close is not None:
            self._close()
        self.descriptors = ()
