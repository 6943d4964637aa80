"""Why a path cannot be opened, in words that say what to do: it is not there, or is another user's, or is no file."""

import errno
import os
import pwd

#: Of a path where that of a file is wanted.
IS_DIRECTORY = "it is a directory: name a file in it"

_TEXTS = {
    errno.ENOENT: "there is no such file",
    errno.ENOTDIR: "what should be its directory is a file",
    errno.EISDIR: IS_DIRECTORY,
    errno.ELOOP: "its links lead in a circle, or through too many others",
}


def obstacle(path: str | os.PathLike[str], error: OSError) -> str:
    """Return why a path could not be opened; of what this user may not read, whose it is, where that can be seen."""
    if not isinstance(error, PermissionError):
        return _TEXTS.get(error.errno or 0, f"the file cannot be opened: {error.strerror or error}")
    try:
        owner_id = os.stat(path).st_uid  # noqa: PTH116  # as it was given
    except OSError:
        return "you may not enter its directory"
    return "you may not read it" if owner_id == os.geteuid() else f"you may not read it: it is {_owner(owner_id)}'s"


def _owner(user_id: int) -> str:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return f"user {user_id}"
