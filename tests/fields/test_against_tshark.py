"""Every field, against tshark: equal in packets that are as they should be, or cut; never another in damaged ones."""

import random
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from capd_protocol.fields.registry import FIELDS
from tests.fields import zoo
from tests.fields.judge import Difference, differences

#: In pcap files tshark knows no interfaces.
IN_PCAPNG_ONLY = {"frame.interface_id", "frame.interface_name"}
NAMES = [name for name in FIELDS if name not in IN_PCAPNG_ONLY]

#: Each is a way through the walk; the whole set is for the long test.
SOME = {
    "vlan-ipv6-extensions",
    "mpls-3-ipv4-gre-eth",
    "cooked-2-ipv4-route",
    "raw-ipv6-ipv4",
    "ethernet-ipv4",
    "null-ipv6",
}


def records(link: zoo.Link, network: zoo.Layer, is_ipv6: bool, copies: int, rng: random.Random) -> list[zoo.Record]:
    made = [
        zoo.recorded(copy, rng)
        for upper in zoo.uppers(rng)
        for copy in zoo.copies(zoo.linked(link, network, is_ipv6, upper, rng), copies, rng)
    ]
    if link == zoo.LINKS["ethernet"]:
        made += [zoo.recorded(frame, rng) for _ in range(copies * 4) for frame in zoo.strangers(rng)]
    rng.shuffle(made)
    return made


def compared(path: Path) -> tuple[list[Difference], int]:
    """Return what differs in a file, and how many values were compared."""
    found = list(differences(path, NAMES))
    return [each for each in found if isinstance(each, Difference)], sum(
        each for each in found if isinstance(each, int)
    )


def files(directory: Path, wanted: set[str] | None, copies: int) -> Iterator[tuple[Path, int]]:
    """Write files; give each, and how many packets are in it."""
    for name, link, network, is_ipv6 in zoo.files():
        if wanted is None or name in wanted:
            rng = random.Random(name)
            made = records(link, network, is_ipv6, copies, rng)
            path = directory / f"{name}.pcap"
            zoo.write(path, link.linktype, made, rng)
            yield path, len(made)


def test_some_files_have_the_values_of_tshark(tmp_path: Path) -> None:
    count = 0
    for path, _ in files(tmp_path, SOME, 1):
        found, values = compared(path)
        assert found == []
        count += values
    assert count > 15_000


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_two_hundred_thousand_packets_of_all_kinds_have_the_values_of_tshark(tmp_path: Path) -> None:
    packets = values = number = 0
    found: list[Difference] = []
    for path, count in files(tmp_path, None, 14):
        differing, compared_values = compared(path)
        found += differing
        packets, values, number = packets + count, values + compared_values, number + 1
        path.unlink()
    assert found == []
    assert packets >= 200_000
    assert values >= 5_000_000
    assert number >= 150


def damaged(packet: bytes, rng: random.Random) -> bytes:
    """Return a packet with some bytes changed, most of them in its headers."""
    changed = bytearray(packet)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if changed:
            changed[rng.randrange(min(len(changed), rng.choice((40, 60, 100, 2000))))] = rng.choice(
                (0, 255, rng.randrange(256))
            )
    return bytes(changed)


def is_wrong(difference: Difference) -> bool:
    """Whether a value is another, and not only missing."""
    theirs, ours = difference.theirs.split(","), difference.ours.split(",")
    if difference.first not in ("", theirs[0]):
        return True
    rest = iter(theirs)
    return difference.ours != "" and not all(each in rest for each in ours)


@pytest.mark.parametrize("seed", range(2))
def test_damaged_packets_have_no_wrong_value(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    by_linktype: dict[int, list[zoo.Record]] = defaultdict(list)
    chosen = [
        each for each in zoo.files() if each[0].split("-")[0] in ("ethernet", "qinq", "mpls", "raw", "cooked", "null")
    ]
    for _, link, network, is_ipv6 in rng.sample(chosen, 24):
        for record in records(link, network, is_ipv6, 2, rng):
            by_linktype[link.linktype].append(zoo.Record(damaged(record.data, rng), record.size_bytes))
    assert sum(map(len, by_linktype.values())) > 2_500
    for linktype, made in by_linktype.items():
        path = tmp_path / f"{linktype}.pcap"
        zoo.write(path, linktype, made, rng)
        found, _ = compared(path)
        assert [each for each in found if is_wrong(each)] == []
