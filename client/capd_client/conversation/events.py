"""Events of a capture as wirepy has them: pairs of a type, ``SP_…``, and a message."""

from typing import Any

#: A new file was opened, its header can be read; the message is its path.
SP_FILE = 70
#: So many packets more are in the file named last; the message is an int.
SP_PACKET_COUNT = 80
#: At the end, once for each interface: how many packets it lost in total; the message is an int.
SP_DROPS = 68
#: The capture has failed; the message is a sentence.
SP_ERROR_MSG = 69
#: The filter does not compile, there is no capture; the message is libpcap's.
SP_BAD_FILTER = 66
#: wirepy's; a request that is no capture was carried out. Never comes during one.
SP_SUCCESS = 83
#: Beyond wirepy. A file is complete; the message is a ``FileClosed`` whose name is the file's path.
SP_FILE_CLOSED = ord("f")
#: Beyond wirepy. A ring has deleted its oldest file; the message is a ``FileDeleted`` whose name is the file's path.
SP_FILE_DELETED = ord("d")
#: Beyond wirepy. An interface went away; the message is its name.
SP_INTERFACE_LOST = ord("i")
#: Beyond wirepy. An interface has come, or come back; the message is its name.
SP_INTERFACE_ATTACHED = ord("a")
#: Beyond wirepy. An interface that belongs to the capture cannot be in it; the message is a sentence.
SP_INTERFACE_SKIPPED = ord("k")
#: Beyond wirepy. A recorder runs, and has no file yet; the message is a ``Recording``.
SP_RECORDING = ord("r")
#: Beyond wirepy. A recorder begins with a snapshot of its own accord; the message is a ``Triggered``.
SP_TRIGGERED = ord("t")
#: Beyond wirepy. Such a snapshot was not written, or not all of it; the message is a sentence.
SP_SNAPSHOT_FAILED = ord("s")
#: Beyond wirepy. This program read too slowly; the message says how many events it will not get.
SP_LAGGED = ord("l")
#: Beyond wirepy. The capture has ended; the message is an ``EndReason``.
SP_ENDED = ord("z")

Event = tuple[int, Any]
