"""``capctl dissect`` and ``capctl decode``: what Wireshark knows of packets, as lines, CSV or JSON."""

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from capd_client.cli.output import complain, show
from capd_client.cli.read import EXIT_CUT, STANDARD_INPUT, check_count, source_of
from capd_client.cli.typed import whole_number
from capd_client.errors import InvalidArgument
from capd_client.reading import read
from capd_protocol.formats import pcapng

if TYPE_CHECKING:
    from capd_client.dissection.frames import Frame, WholeFrame
    from capd_client.dissection.options import DissectionArguments
    from capd_client.dissection.pdml import Item

_INDENT: Final = "    "
_ETHERNET: Final = 1
#: No packet is longer.
_MOST_BYTES: Final = 262_144
#: Between bytes, as they are copied from elsewhere.
_BETWEEN: Final = str.maketrans("", "", " \t\r\n:,-")


def add_dissect_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``capctl dissect``."""
    parser.set_defaults(run=_dissect)
    add = parser.add_argument
    add("file", metavar="FILE", help="a capture file; - is standard input")
    add("field", nargs="*", metavar="FIELD", help="show these fields only, by Wireshark's names, such as dns.qry.name")
    add("-c", "--count", type=whole_number, metavar="N", help="at most so many frames")
    add("-f", "--filter", metavar="TEXT", help="only packets that match, see pcap-filter(7)")
    add("-Y", "--display-filter", metavar="TEXT", help="only frames that match, see wireshark-filter(4)")
    form = parser.add_mutually_exclusive_group().add_argument
    form("--csv", action="store_true", help="print comma-separated values (of fields)")
    form("--json", action="store_true", help="print a line of JSON for each frame")
    _add_engine_arguments(parser)


def add_decode_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``capctl decode``."""
    parser.set_defaults(run=_decode)
    add = parser.add_argument
    add("hex", metavar="HEX", help="its bytes in hexadecimal, together or apart; - is standard input")
    add(
        "-y",
        "--linktype",
        dest="decoded_linktype",
        type=whole_number,
        default=_ETHERNET,
        metavar="NUMBER",
        help="what it begins with, as a LINKTYPE_ number, such as 101 for IP (default: 1, Ethernet)",
    )
    add("--json", action="store_true", help="print an object of JSON")
    _add_engine_arguments(parser)


def _add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("-o", "--preference", action="append", default=[], metavar="NAME:VALUE", help="set a preference of Wireshark's")
    add("--decode-as", action="append", default=[], metavar="WHAT,PROTOCOL", help="such as tcp.port==8888,http")
    add("--keylog-file", metavar="PATH", help="TLS keys, as browsers write them where SSLKEYLOGFILE is set")
    add("--profile", metavar="NAME", help="use this profile of your own configuration of Wireshark")


def _arguments(options: argparse.Namespace) -> "DissectionArguments":
    return {
        "preferences": _pairs(options.preference, ":", "preference"),
        "decode_as": _pairs(options.decode_as, ",", "decode_as"),
        "keylog_file": options.keylog_file,
        "profile": options.profile,
    }


def _pairs(words: Iterable[str], between: str, argument: str) -> dict[str, str]:
    """Return pairs that were typed as one word each."""
    found: dict[str, str] = {}
    for word in words:
        name, has_both, value = word.partition(between)
        if not has_both:
            raise InvalidArgument(f"{argument} {word!r} has no {between!r}", argument=argument)
        found[name] = value
    return found


# Files ----------------------------------------------------------------------------------------------------------------


def _dissect(options: argparse.Namespace) -> int:
    if options.csv and not options.field:
        raise InvalidArgument("--csv is of fields: name some", argument="csv")
    check_count(options.count)
    arguments: DissectionArguments = {**_arguments(options), "display_filter": options.display_filter}
    with read(source_of(options.file)) as packets:
        if options.field:
            with packets.dissect(*options.field, capture_filter=options.filter, **arguments) as fields:
                _show_fields(fields, options)
                is_cut = fields.is_cut
        else:
            with packets.dissect(capture_filter=options.filter, **arguments) as whole:
                _show_whole(whole, options)
                is_cut = whole.is_cut
    if not is_cut or options.count is not None:
        return 0
    complain(f"{options.file}: the last record is not whole")
    return EXIT_CUT


def _show_fields(frames: "Iterable[Frame]", options: argparse.Namespace) -> None:
    names: Sequence[str] = options.field
    if options.csv:
        show(_csv_line(names))
    for frame in islice(frames, options.count):
        texts = [frame.texts(name) for name in names]
        if options.json:
            line = json.dumps(dict(zip(names, map(list, texts), strict=True)))
        else:
            cells = [",".join(each) for each in texts]
            line = _csv_line(cells) if options.csv else "  ".join(cells).rstrip()
        # What comes is shown as it comes.
        show(line, flush=True)


def _csv_line(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


def _show_whole(frames: "Iterable[WholeFrame]", options: argparse.Namespace) -> None:
    for number, frame in enumerate(islice(frames, options.count)):
        if options.json:
            show(json.dumps(_object(frame)), flush=True)
        else:
            show(*([""] if number else []), *_tree(frame), flush=True)


def _tree(frame: "WholeFrame") -> Iterator[str]:
    """Return the lines of a tree, as Wireshark shows them."""

    def lines(item: "Item", depth: int) -> Iterator[str]:
        if not item.is_hidden:
            yield _INDENT * depth + item.label.rstrip()
            for child in item.children:
                yield from lines(child, depth + 1)

    for layer in frame.layers:
        yield from lines(layer, 0)


def _object(frame: "WholeFrame") -> dict[str, Any]:
    def of(item: "Item") -> dict[str, Any]:
        fields = {"name": item.name, "label": item.label, "text": item.text}
        places = {"offset_bytes": item.offset_bytes, "size_bytes": item.size_bytes, "hex": item.raw.hex()}
        return {**fields, **places, "is_hidden": item.is_hidden, "children": list(map(of, item.children))}

    return {"number": frame.number, "layers": list(map(of, frame.layers))}


# One packet -----------------------------------------------------------------------------------------------------------


def _decode(options: argparse.Namespace) -> int:
    packet = _bytes_of(sys.stdin.read() if options.hex == STANDARD_INPUT else options.hex)
    if not 0 <= options.decoded_linktype < 1 << 16:
        raise InvalidArgument("a link-layer type is a number up to 65535", argument="link_layer_type")
    with os.fdopen(os.memfd_create("packet", os.MFD_CLOEXEC), "w+b", buffering=0) as file:
        file.write(pcapng.pcap_of_packet(packet, linktype=options.decoded_linktype))
        with read(file) as packets, packets.dissect(**_arguments(options)) as frames:
            for frame in frames:
                show(*([json.dumps(_object(frame))] if options.json else _tree(frame)))
    return 0


def _bytes_of(text: str) -> bytes:
    digits = text.translate(_BETWEEN).removeprefix("0x")
    try:
        packet = bytes.fromhex(digits)
    except ValueError:
        raise InvalidArgument("the packet is no hexadecimal: 02 00 5e, 02:00:5e or 02005e", argument="hex") from None
    if not 0 < len(packet) <= _MOST_BYTES:
        raise InvalidArgument(f"a packet has 1 to {_MOST_BYTES:,} bytes, not {len(packet):,}", argument="hex")
    return packet
