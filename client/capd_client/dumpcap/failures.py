"""What has gone wrong, in dumpcap's words."""

import errno
import os
from typing import NamedTuple

from capd_client.dumpcap.command_line import CommandLine
from capd_client.errors import CaptureError, ChildError, DestinationError
from capd_protocol.messages import Failure, FailureCode

#: A sentence, and in brackets whose words are behind it.
_SIGNED = "{}\n({})"


class Words(NamedTuple):
    """Two paragraphs.

    Attributes:
        text: what is wrong.
        advice: what to do; may be empty.
    """

    text: str
    advice: str = ""


def words_of(error: CaptureError, line: CommandLine) -> Words:
    """Return what dumpcap would say of a failure; where it has no words for it, capd's stand in brackets."""
    failure = error.failure if isinstance(error, ChildError) else None
    if isinstance(error, DestinationError) and line.savefile is not None:
        what = f'The file to which the capture would be saved ("{line.savefile}") could not be opened: '
        return Words(f"{what}{_obstacle(line.savefile) or error}.")
    if failure is None:
        return Words(_SIGNED.format("The capture session could not be initiated.", error))
    return _words(failure, line)


def _words(failure: Failure, line: CommandLine) -> Words:
    name = failure.interface or ""
    in_monitor_mode = line.default.monitor_mode or any(each.monitor_mode for each in line.interfaces)
    match failure.code:
        case FailureCode.NO_SUCH_INTERFACE if name:
            return Words(_SIGNED.format(f'There is no device named "{name}".', "No such device exists"))
        case FailureCode.INTERFACE_DOWN:
            return Words(_SIGNED.format(f'Device "{name}" is not up.', "That device is not up"))
        case FailureCode.NOT_PERMITTED if name:
            what = f'You do not have permission to capture on device "{name}".'
            return Words(_SIGNED.format(what, failure.text))
        case FailureCode.UNSUPPORTED if in_monitor_mode:
            what = f'Capturing in monitor mode is not supported on device "{name}".'
            return Words(_SIGNED.format(what, "That device doesn't support monitor mode"))
        case FailureCode.UNSUPPORTED if failure.argument == "link_layer_type":
            return Words(f"Unable to set data link type on interface '{name}' ({failure.text}).")
        case FailureCode.INTERFACE_LOST:
            return Words(f'The network adapter "{name}" is no longer attached; the capture has stopped.')
        case FailureCode.DISK:
            what = f'The file to which the capture was being saved\n("{line.savefile}") could not be written to: '
            return Words(what + failure.text)
        case _ if name:
            what = f'The capture session could not be initiated on capture device "{name}".'
            return Words(_SIGNED.format(what, failure.text))
        case _:
            return Words(failure.text)


def _obstacle(path: str) -> str | None:
    """Return what the system says of opening a file to write to, without making one; None: nothing."""
    directory = os.path.dirname(path) or "."  # noqa: PTH120
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except FileNotFoundError as error:
        if os.path.isdir(directory):  # noqa: PTH112
            return None if os.access(directory, os.W_OK | os.X_OK) else os.strerror(errno.EACCES)
        return error.strerror
    except OSError as error:
        return error.strerror
    return None
