"""A module's own process: lists its devices, describes one, or captures from it.

Started by ``capd_client.sources``, for a capture under a guardian. A failure is one sentence on standard error, and an
exit status that says of which kind it is (``contract.FAILURES``).
"""

import contextlib
import os
import sys
from collections.abc import Callable, Sequence

import msgspec

from capd_client.modules import granted
from capd_client.modules.asked import CAPTURE, DESCRIBE, LIST, Answer
from capd_client.modules.contract import ModuleFailed, Options
from capd_client.modules.opening import created, end_by_sigterm, opened, typed
from capd_client.modules.pump import Pump, ReaderGone
from capd_client.modules.registry import all_entries, loaded, module_of
from capd_protocol.devices import CAPTURE_GRANTED
from capd_protocol.messages import InterfaceRequest
from capd_protocol.text import escaped


def _capture(fifo: str, request: InterfaceRequest) -> None:
    name = request.name
    with typed(name), created(module_of(name), name) as capture:
        end_by_sigterm(capture)
        device = opened(capture, request)
        # Opened now, and not before: that is how the guardian knows that the capture runs.
        pipe_fd = os.open(fifo, os.O_WRONLY | os.O_CLOEXEC)
        with contextlib.suppress(ReaderGone):
            Pump(capture, pipe_fd, device.linktype, request.snaplen_bytes).run()


def _devices(prefix: str) -> Answer:
    with typed(prefix):
        module = next(loaded(each) for each in all_entries() if each.prefix == prefix)
        return Answer(devices=tuple(module.devices()))


def _description(name: str, options: Options) -> Answer:
    """Return what a device can do. It is activated where that shows it only, which may take privilege."""
    with typed(name), created(module_of(name), name) as capture:
        linktypes = () if options.monitor_mode else tuple(capture.link_types())
        if not linktypes:
            default = capture.activate(options)
            linktypes = tuple(capture.link_types()) or (default,)
        return Answer(linktypes=linktypes, has_monitor_mode=capture.has_monitor_mode())


def _answer(answer: Callable[[], Answer]) -> None:
    """Write an answer to standard output, where nothing else goes."""
    output_fd = os.dup(1)
    os.dup2(2, 1)
    try:
        found = answer()
    except ModuleFailed as error:
        found = Answer(code=error.code, text=escaped(str(error)))
    with os.fdopen(output_fd, "wb") as output:
        output.write(msgspec.json.encode(found))


def main(words: Sequence[str]) -> None:
    """Do what is asked for: ``capture FIFO REQUEST``, ``list PREFIX``, ``describe NAME OPTIONS``; or by the daemon."""
    match words:
        case [command, fifo, asked] if command == CAPTURE:
            try:
                _capture(fifo, msgspec.json.decode(asked, type=InterfaceRequest))
            except ModuleFailed as error:
                sys.stderr.write(escaped(str(error)))
                sys.exit(error.status)
        case [command, *rest] if command == CAPTURE_GRANTED:
            granted.main(rest)
        case [command, prefix] if command == LIST:
            _answer(lambda: _devices(prefix))
        case [command, name, options] if command == DESCRIBE:
            _answer(lambda: _description(name, msgspec.json.decode(options, type=Options)))
        case _:
            sys.exit("usage: python -m capd_client.modules capture|list|describe …")


if __name__ == "__main__":
    main(sys.argv[1:])
