"""Questions to libpcap and drivers about one interface. Each takes a while, and is asked beside the event loop."""

import subprocess
from functools import partial

import trio

from capd import limits
from capd.errors import RequestRefused, no_room
from capd.network.drivers import statistics_of
from capd.pacing.threads import in_thread, no_thread_as_oserror
from capd.service.processes import command, environment
from capd_protocol.errors import RemoteProtocolError
from capd_protocol.frames import FrameDecoder
from capd_protocol.messages import Capabilities, DriverCounters, FailureCode, Refused, decode


async def ask_libpcap(interface: str, *, monitor_mode: bool = False) -> Capabilities:
    """Return what libpcap says of an interface, which a process of its own asks it.

    Args:
        interface: of something that is there, since it goes on a command line.
        monitor_mode: what it says of the interface in monitor mode.

    Raises:
        RequestRefused: libpcap cannot open it, or does not answer, or there is no room for the process.
    """
    words = [interface, *(["monitor"] if monitor_mode else [])]
    try:
        with trio.move_on_after(limits.START_TIMEOUT_S), no_thread_as_oserror():
            done = await trio.run_process(
                command("capd.worker.probe", *words),
                capture_stdout=True,
                stdin=subprocess.DEVNULL,
                env=environment(),
                check=False,
            )
            return _answer_of(done.stdout, interface)
    except OSError as error:
        raise no_room(error) from error
    text = f"libpcap did not answer about {interface} in time"
    raise RequestRefused(FailureCode.WORKER_DIED, text, interface=interface)


def _answer_of(output: bytes, interface: str) -> Capabilities:
    decoder = FrameDecoder()
    decoder.feed(output)
    try:
        frame = decoder.next_frame()
        answer = decode(frame) if frame is not None else None
    except RemoteProtocolError:
        answer = None
    match answer:
        case Capabilities():
            return answer
        case Refused(failure=failure):
            raise RequestRefused(failure.code, failure.text, interface=interface)
        case _:
            text = f"the process that asks about {interface} died: see the daemon's log"
            raise RequestRefused(FailureCode.WORKER_DIED, text, interface=interface)


async def ask_driver(interface: str) -> DriverCounters:
    """Return an interface's own counters.

    Raises:
        OSError: there is no thread for it, or no descriptor.
    """
    return DriverCounters(counters=await in_thread(partial(statistics_of, interface)))
