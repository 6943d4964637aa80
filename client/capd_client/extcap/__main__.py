"""``capd-extcap``: what Wireshark runs to have capd in its list of interfaces."""

import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from capd_client.completion import complete
from capd_client.conversation.message_stream import MessageStream
from capd_client.errors import CaptureError, InvalidArgument
from capd_client.extcap.configuration import (
    HOST,
    PROGRAM,
    Action,
    Words,
    completion_tree,
    configuration_sentences,
    parse,
)
from capd_client.extcap.controls import control_sentences
from capd_client.extcap.offers import Kind, Limits, Offer, limits_of, meant, offers
from capd_client.extcap.sentences import sentence
from capd_client.transport.listening import DEFAULT_SOCKET, SOCKET_VARIABLE
from capd_protocol.messages import (
    Capabilities,
    CaptureList,
    GetCapabilities,
    InterfaceList,
    ListCaptures,
    ListInterfaces,
    Message,
    Permissions,
    Request,
    WhoAmI,
)
from capd_protocol.text import escaped
from capd_protocol.version import VERSION

if TYPE_CHECKING:
    from capd_client.extcap.hosts import Host

_Answer = TypeVar("_Answer", bound=Message)
_EXIT_DONE, _EXIT_FAILED = 0, 1
#: How long the daemon may take for all that is asked. Chosen: Wireshark waits for it at each start.
_ANSWER_S = 1.5
_RECEIVE_BYTES = 65_536
#: As Wireshark shows of what an extcap program has said (extcap.c).
_MAX_SAID_BYTES = 1000
#: The link-layer type where nobody says another one: its number, its name, and for people.
_ETHERNET = (1, "EN10MB", "Ethernet")

USAGE = """\
Usage: capd-extcap --extcap-interfaces
       capd-extcap --extcap-interface NAME --extcap-dlts | --extcap-config
       capd-extcap --extcap-interface NAME --extcap-capture-filter FILTER
       capd-extcap --extcap-interface NAME --capture --fifo PATH [SETTING]...

Wireshark runs it: 'capctl install-extcap' puts it where Wireshark looks. See capd-extcap(1).
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    completed = complete(PROGRAM, completion_tree)
    if completed is not None:
        return completed
    words = parse(sys.argv[1:] if argv is None else argv)
    try:
        return _run(words)
    except CaptureError as error:
        return _complain(str(error))
    except BrokenPipeError:  # nobody reads the list any more
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return _EXIT_DONE
    except KeyboardInterrupt:
        return _EXIT_DONE


def _run(words: Words) -> int:
    match words.action:
        case Action.LIST_INTERFACES:
            _write(*_list())
        case Action.VERSION:
            _write(f"capd-extcap {VERSION}")
        case Action.HELP:
            _write(USAGE.rstrip())
        case Action.CLEAN_UP:
            pass
        case Action.LIST_LINK_TYPES:
            _write(*_link_types(_offer(words)))
        case Action.CONFIGURE:
            _write(*_configuration(_offer(words), words))
        case Action.CAPTURE:
            return _capture(words)
        case None if words.interface is not None and words.capture_filter is not None:
            _write(*_complaints(_offer(words), words.capture_filter))
        case None:
            sys.stderr.write(USAGE)
            return _EXIT_FAILED
    return _EXIT_DONE


def _write(*lines: str) -> None:
    """Write what Wireshark reads; sentences are escaped as they are made."""
    sys.stdout.write("".join(f"{each}\n" for each in lines))
    sys.stdout.flush()


def _complain(text: str) -> int:
    """Say what is wrong, as Wireshark shows it; return the exit status."""
    sys.stderr.write(f"{escaped(text)[:_MAX_SAID_BYTES]}\n")
    return _EXIT_FAILED


def _offer(words: Words) -> Offer:
    """Return what is meant.

    Raises:
        InvalidArgument: it is none of what there can be.
    """
    found = meant(words.interface or "")
    if found is None:
        raise InvalidArgument(f"there is no interface {escaped(words.interface or '')} here: see --extcap-interfaces")
    return found


# Asking ---------------------------------------------------------------------------------------------------------------


def _answers(*requests: Request) -> list[list[Message]]:
    """Return what the daemon says to each request: nothing where there is none, or it refuses, or takes too long."""
    path = os.environ.get(SOCKET_VARIABLE) or DEFAULT_SOCKET
    deadline_s = time.monotonic() + _ANSWER_S
    found: list[list[Message]] = []
    for request in requests:
        try:
            found.append(_answer(request, path, deadline_s))
        except (CaptureError, OSError):
            found.append([])
    return found


def _answer(request: Request, path: str, deadline_s: float) -> list[Message]:
    stream, found = MessageStream(request), list[Message]()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:

        def wait() -> None:
            connection.settimeout(max(0.001, deadline_s - time.monotonic()))

        wait()
        connection.connect(path)
        connection.sendall(stream.opening())
        while not found or not getattr(found[-1], "is_last", True):
            wait()
            found += stream.receive(connection.recv(_RECEIVE_BYTES))
    return found


def _first(kind: type[_Answer], messages: Sequence[Message]) -> _Answer | None:
    return next((each for each in messages if isinstance(each, kind)), None)


# Answering ------------------------------------------------------------------------------------------------------------


def _list() -> Iterator[str]:
    """Give what there is. Nothing here waits for long, nor for another host."""
    from capd_client.extcap.hosts import hosts_file, listed_hosts  # noqa: PLC0415  # only the list has them

    interfaces, captures, me = _answers(ListInterfaces(), ListCaptures(), WhoAmI())
    yield sentence("extcap", version=VERSION, display="capd")
    yield from control_sentences()
    who = _first(Permissions, me)
    found = offers(
        [each for part in interfaces if isinstance(part, InterfaceList) for each in part.interfaces],
        [each for part in captures if isinstance(part, CaptureList) for each in part.captures],
        who.permissions if who is not None else (),
        who.user_id if who is not None else os.getuid(),
        listed_hosts(hosts_file(os.environ)),
    )
    for each in found:
        yield sentence("interface", value=each.value, display=each.display)


def _link_types(offer: Offer) -> Iterator[str]:
    for number, name, display in _types_of(offer):
        yield sentence("dlt", number=number, name=name, display=display)


def _types_of(offer: Offer) -> list[tuple[int, str, str]]:
    if offer.kind is not Kind.INTERFACE:
        return [_ETHERNET]
    found = _first(Capabilities, *_answers(GetCapabilities(interface=offer.name)))
    layers = found.link_layers if found is not None else ()
    return [(each.dlt, each.name, each.description) for each in layers] or [_ETHERNET]


def _configuration(offer: Offer, words: Words) -> Iterator[str]:
    limits = Limits()
    if offer.kind is Kind.INTERFACE:
        me = _first(Permissions, *_answers(WhoAmI()))
        if me is not None:
            limits = limits_of(offer.name, me.permissions)
    loaded: Sequence[tuple[str, str]] = ()
    if words.reload is not None and offer.kind is Kind.HOST:
        from capd_client.extcap.hosts import interfaces_there  # noqa: PLC0415  # only where somebody waits for it

        loaded = interfaces_there(_host(offer, words))
    is_generic = not offer.name
    return configuration_sentences(offer.kind, is_generic=is_generic, limits=limits, reload=words.reload, loaded=loaded)


def _host(offer: Offer, words: Words) -> "Host":
    from capd_client.extcap.hosts import checked_host  # noqa: PLC0415  # as above

    return checked_host(offer.name or words.settings.get(HOST, ""))


def _complaints(offer: Offer, text: str) -> Iterator[str]:
    """Give what is wrong with a filter, if anything."""
    if not text:
        return
    if offer.kind in (Kind.CAPTURE, Kind.RECORDER):
        from capd_client.extcap.capture import OWN_FILTER  # noqa: PLC0415  # numpy

        yield OWN_FILTER
        return
    from capd_client.extcap.filters import complaint_about  # noqa: PLC0415  # ctypes and libpcap

    complaint = complaint_about(text, [number for number, *_ in _types_of(offer)])
    if complaint is not None:
        yield escaped(complaint)


def _capture(words: Words) -> int:
    from capd_client.extcap.watching import Signals, Told, Toolbar, open_fifo  # noqa: PLC0415

    signals = Signals()
    try:
        if words.fifo is None:
            raise InvalidArgument("there is no FIFO to write packets to: name one with --fifo")
        with signals.interrupting():
            # Wireshark waits for this, also where nothing comes of the capture.
            fifo = open_fifo(words.fifo)
        offer = _offer(words)
        toolbar = Toolbar(words.control_in, words.control_out)
        if offer.kind is Kind.HOST:
            from capd_client.extcap import hosts  # noqa: PLC0415

            said = hosts.run(_host(offer, words), words, fifo, toolbar, signals)
        else:
            from capd_client.extcap import capture  # noqa: PLC0415

            said = capture.run(offer, words, fifo, toolbar, signals)
    except Told:
        return _EXIT_DONE
    if said is not None:
        _complain(said)
    return _EXIT_DONE


def run() -> None:
    """Run the program, and end it."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    status = main()
    sys.stdout.flush()
    # Nothing is left to be done, and Wireshark waits for this.
    os._exit(status)


if __name__ == "__main__":
    run()
