"""What tshark says of fields, and what is said here, value by value."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from capd_client.reading import read
from capd_protocol.batches.progress import Progress
from capd_protocol.fields.columns import FieldColumns

#: As documented: each packet by itself.
PREFERENCES = (
    "ip.defragment:FALSE",
    "ipv6.defragment:FALSE",
    "tcp.desegment_tcp_streams:FALSE",
    "tcp.relative_sequence_numbers:FALSE",
)


def said_by_tshark(path: Path, names: Sequence[str]) -> list[list[str]]:
    """Return all values of fields, for each packet and field a text with commas between them."""
    command = ["tshark", "-n", "-r", str(path), "-T", "fields", "-E", "occurrence=a", "-E", "aggregator=,"]
    for preference in PREFERENCES:
        command += ["-o", preference]
    for name in names:
        command += ["-e", name]
    ended = subprocess.run(command, capture_output=True, check=True, env={**os.environ, "TZ": "UTC"})
    return [line.split("\t") for line in ended.stdout.decode().split("\n")[:-1]]


def said_here(path: Path, names: Sequence[str], occurrence: str) -> list[tuple[str, ...]]:
    """Return the same of ``columns``."""
    columns = FieldColumns(names, "all" if occurrence == "all" else "first")
    progress = Progress()
    rows: list[tuple[str, ...]] = []
    with read(path) as packets:
        for batch in packets.batches():
            found = columns.of(batch, packets.interfaces, progress)
            progress.note(batch)
            rows += zip(*(found[name].texts() for name in names), strict=True)
    return rows


class Difference(NamedTuple):
    """A value that is not the same.

    Attributes:
        path: of the file.
        packet: its number.
        name: of the field.
        theirs: values of tshark.
        ours: values of ours, all.
        first: the first one of ours.
    """

    path: Path
    packet: int
    name: str
    theirs: str
    ours: str
    first: str


def differences(path: Path, names: Sequence[str]) -> Iterator[Difference | int]:
    """Give what differs, in all occurrences or in the first; and how many values were compared."""
    theirs = said_by_tshark(path, names)
    ours, first = said_here(path, names, "all"), said_here(path, names, "first")
    assert len(theirs) == len(ours) == len(first)
    values = 0
    for packet, (their_row, our_row, first_row) in enumerate(zip(theirs, ours, first, strict=True), 1):
        if their_row == list(our_row) and [each.split(",")[0] for each in their_row] == list(first_row):
            values += sum(map(bool, their_row))
            continue
        for name, their, our, one in zip(names, their_row, our_row, first_row, strict=True):
            values += bool(their)
            commas = name == "frame.time"
            if their != our or (their if commas else their.split(",")[0]) != one:
                yield Difference(path, packet, name, their, our, one)
    yield values
