"""Display filters, against Wireshark's engine: the same packets, and the same filters refused."""

import random
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from capd_client import read
from tests.display_filters.grammar import NAMES, Grammar
from tests.display_filters.judge import CRASHED, Ours, Sharkd, difference
from tests.fields import zoo
from tests.fields.test_against_tshark import records

PICKED = (Path(__file__).parent / "picked.txt").read_text(encoding="utf-8").splitlines()


@pytest.fixture(scope="module", autouse=True)
def utc() -> Iterator[None]:
    """Have local times mean the same on both sides."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


def written(directory: Path, linktype: int, kinds: int, packets: int, seed: int = 1) -> Path:
    """Write a file with packets of some kinds of the zoo."""
    rng = random.Random(seed)
    chosen = [each for each in zoo.files() if each[1].linktype == linktype]
    made: list[zoo.Record] = []
    for name, link, network, is_ipv6 in rng.sample(chosen, min(kinds, len(chosen))):
        some = records(link, network, is_ipv6, 1, random.Random(name))
        made += rng.sample(some, min(packets, len(some)))
    path = directory / f"{linktype}-{seed}.pcap"
    zoo.write(path, linktype, made, rng)
    return path


def values_of(path: Path, rng: random.Random) -> dict[str, Sequence[str]]:
    """Return some values of each field in a file."""
    found: dict[str, Sequence[str]] = {}
    with read(path) as packets:
        columns = next(iter(packets.columns(*NAMES)))
    for name in NAMES:
        column = columns[name]
        assert column.valid is not None
        places = np.flatnonzero(column.valid).tolist()
        some = rng.sample(places, min(6, len(places)))
        texts = column._replace(values=column.values[some], valid=column.valid[some]).texts()
        found[name] = [f'"{each}"' for each in texts] if name == "frame.time" else texts
    return found


def differences(path: Path, filters: Sequence[str]) -> tuple[list[str], dict[str, int]]:
    """Compare filters; return what differs, and how many there were that found packets, none, or were refused."""
    ours = Ours(path)
    found: list[str] = []
    kinds: dict[str, int] = defaultdict(int)
    with Sharkd(path) as sharkd:
        for text in filters:
            theirs = sharkd.numbers(text)
            kinds[theirs if isinstance(theirs, str) else "some" if theirs else "none"] += 1
            # Where Wireshark crashes there is nothing to compare with.
            found.append("" if theirs == CRASHED else difference(text, theirs, ours.numbers(text)))
    return list(filter(None, found)), kinds


def test_picked_filters_find_what_wireshark_finds(tmp_path: Path) -> None:
    found, kinds = differences(written(tmp_path, 1, 60, 12), PICKED)
    assert found == []
    assert kinds["some"] > 150
    assert kinds["refused"] > 80


@pytest.mark.parametrize(("linktype", "seed"), [(1, 1), (1, 2), (101, 3), (113, 4), (276, 5), (0, 6)])
def test_filters_by_chance_find_what_wireshark_finds(tmp_path: Path, linktype: int, seed: int) -> None:
    path, rng = written(tmp_path, linktype, 25, 8, seed), random.Random(seed)
    values = values_of(path, rng)
    grammar = Grammar(rng, lambda name: values.get(name, ()))
    found, kinds = differences(path, [grammar.filter() for _ in range(40)])
    assert found == []
    assert kinds["some"] > 10


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_three_thousand_filters_find_what_wireshark_finds(tmp_path: Path) -> None:
    found: list[str] = []
    compared = 0
    for seed in range(10):
        path, rng = written(tmp_path, (1, 1, 1, 101, 113)[seed % 5], 60, 8, seed), random.Random(1000 + seed)
        values = values_of(path, rng)
        grammar = Grammar(rng, lambda name, values=values: values.get(name, ()))  # type: ignore[misc]  # bound now
        filters = [grammar.filter() for _ in range(300)]
        some, kinds = differences(path, filters)
        found += some
        compared += sum(kinds.values()) - kinds[CRASHED]
    # Four differ: a search in IPv6 goes on behind its payload length; of the other three the reason is not known.
    assert len(found) <= 4, "\n".join(found)
    assert compared >= 2_990
