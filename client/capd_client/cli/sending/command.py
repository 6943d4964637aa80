"""The command itself: its options, its progress, its end."""

import argparse
import math
import signal
import sys
from typing import IO

from capd_client.blocking.injector import Injector
from capd_client.cli.output import draw, show, show_json
from capd_client.cli.sending.shown import fields_of, progress, summary
from capd_client.cli.signals import end_by
from capd_client.cli.typed import decimal, whole_number
from capd_client.conversation.sending import SendReport

#: Some packets were not sent.
_EXIT_REFUSED = 1
#: As a shell has it.
_INTERRUPTED = 128 + signal.SIGINT
_STANDARD_INPUT = "-"


class _Told(KeyboardInterrupt):
    """A signal that is no Ctrl-C ends the command."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``capctl send``."""
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("file", metavar="FILE", help="pcapng or pcap; - is standard input")
    add("-i", "--interface", required=True, metavar="NAME", help="send on this interface")
    when = parser.add_mutually_exclusive_group()
    when.add_argument("--rate", type=decimal, metavar="PPS", help="so many packets a second")
    when.add_argument(
        "--speed", type=decimal, metavar="X", help="so many times as fast as they were captured (default: 1)"
    )
    when.add_argument("--topspeed", action="store_true", help="as fast as the interface takes them")
    add("--loop", type=whole_number, default=1, metavar="N", help="send all of them so often (default: 1)")
    add("-c", "--count", type=whole_number, metavar="N", help="at most so many packets")
    add("--json", action="store_true", help="print an object of JSON")


def run(options: argparse.Namespace) -> int:
    """Send the packets of a file, and show what has become of them; 1 where some were not sent."""
    source: str | IO[bytes] = sys.stdin.buffer if options.file == _STANDARD_INPUT else options.file
    speed = math.inf if options.topspeed else 1.0 if options.speed is None else options.speed
    is_live = sys.stderr.isatty() and not options.json
    end_by(_tell)
    with Injector(options.interface, socket_path=options.socket) as injector:

        def show_progress(report: SendReport) -> None:
            draw(progress(injector.interface, report))

        status = 0
        try:
            report = injector.replay(
                source,
                speed=speed,
                rate=options.rate,
                count=options.count,
                loop=options.loop,
                progress=show_progress if is_live else None,
            )
            status = _EXIT_REFUSED if report.refused else 0
        except KeyboardInterrupt as interrupt:
            injector.stop()
            status = _EXIT_REFUSED if isinstance(interrupt, _Told) else _INTERRUPTED
        except Exception:
            if injector.report.sent or injector.report.refused:
                _show(injector, options)
            raise
        finally:
            if is_live:
                draw("")
        _show(injector, options)
    return status


def _tell() -> None:
    raise _Told


def _show(injector: Injector, options: argparse.Namespace) -> None:
    if options.json:
        show_json(fields_of(injector.interface, injector.report), flush=True)
    else:
        show(*summary(injector.interface, injector.report), flush=True)
