"""Packets chosen and changed: the same as editcap and reordercap make of them."""

import random
import subprocess
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from capd_client import Batch, InvalidArgument, Packet, UnsupportedError, editing, read, split, write
from capd_protocol.batches.model import FileInterface
from capd_protocol.formats import pcapng
from tests.cli.calling import called
from tests.reading import full
from tests.reading.test_metadata import everything
from tests.reading.test_writing import rows
from tests.support.tools import capinfos, tshark_fields

START_NS = 1_790_000_000_123_456_000
INTERFACES = [FileInterface("a", 1, 0, 10**9), FileInterface("b", 1, 0, 10**9)]


def some(path: Path, count: int = 3000, *, goes_back: bool = False) -> Path:
    """Write packets of which many are there twice, some seconds apart; in some the time goes back."""
    chance = random.Random(count)
    contents = [chance.randbytes(chance.choice((0, 1, 5, 14, 20, 60, 61, 300))) for _ in range(40)]
    packets: list[Packet] = []
    at_ns = START_NS
    for number in range(count):
        at_ns += chance.randrange(-3 if goes_back else 0, 12) * 100_000_000
        data = chance.choice(contents) if number % 3 else chance.randbytes(30)
        packets.append(Packet(at_ns, None, number % 2, len(data) + number % 4, memoryview(data), number % 3))
    write(path, packets, INTERFACES)
    return path


def edited(source: Path, *options: str | Path, program: str = "editcap") -> Path:
    target = source.with_name("theirs.pcapng")
    words = [*options, source, target] if program == "editcap" else [source, target]
    subprocess.run([program, *words[:-2], source, target], check=True, capture_output=True, timeout=60)
    return target


Edit = Callable[[Iterable[Batch]], Iterator[Batch]]
NS = 10**9
#: By editcap's words: ours.
EDITS: dict[str, Edit] = {
    "-r 1-10 25 2990-3000": lambda batches: editing.numbered(batches, [(1, 10), (25, 25), (2990, None)]),
    "1-10 25 700-5000": lambda batches: editing.numbered(batches, [(1, 10), (25, 25), (700, 5000)], leaves_out=True),
    "-s 20": lambda batches: editing.cut_to(batches, 20),
    "-s 20 -L": lambda batches: editing.cut_to(batches, 20, shortens_original=True),
    "-C 14": lambda batches: editing.without_bytes(batches, 14),
    "-C -14": lambda batches: editing.without_bytes(batches, -14),
    "-L -C 14": lambda batches: editing.without_bytes(batches, 14, shortens_original=True),
    "-C 12:4": lambda batches: editing.without_bytes(batches, 4, 12),
    "-L -C 12:4": lambda batches: editing.without_bytes(batches, 4, 12, shortens_original=True),
    "-C -8:-4": lambda batches: editing.without_bytes(batches, -4, -8),
    "-t 3600.25": lambda batches: editing.shifted(batches, 3600 * NS + NS // 4),
    "-t -3600.25": lambda batches: editing.shifted(batches, -3600 * NS - NS // 4),
    "-d": editing.without_duplicates,
    "-D 100": lambda batches: editing.without_duplicates(batches, window_packets=100),
    "-D 1": lambda batches: editing.without_duplicates(batches, window_packets=1),
    "-D 0": lambda batches: editing.without_duplicates(batches, window_packets=0),
    "-w 5": lambda batches: editing.without_duplicates(batches, window_s=5),
    "-w 0.25": lambda batches: editing.without_duplicates(batches, window_s=0.25),
    "-I 14 -D 50": lambda batches: editing.without_duplicates(batches, window_packets=50, ignored_bytes=14),
}


@pytest.mark.parametrize("words", EDITS)
def test_it_is_what_editcap_does(tmp_path: Path, words: str) -> None:
    source, ours = some(tmp_path / "source.pcapng"), tmp_path / "ours.pcapng"
    options = [each for each in words.split() if not each[0].isdigit() or words.split(maxsplit=1)[0] != "-r"]
    places = [each for each in words.split() if each not in options]
    if words[0].isdigit():
        options, places = [], words.split()
    theirs = tmp_path / "theirs.pcapng"
    subprocess.run(["editcap", *options, source, theirs, *places], check=True, capture_output=True, timeout=60)
    with read(source) as reader:
        count = write(ours, EDITS[words](reader.batches()), reader.interfaces)
    assert rows(ours) == rows(theirs)
    assert count == len(rows(theirs))
    fields = ("frame.number", "frame.len", "frame.cap_len", "frame.time_epoch", "frame.interface_name")
    assert tshark_fields(ours, *fields) == tshark_fields(theirs, *fields)


def test_packets_of_a_span_are_those_of_editcap(tmp_path: Path) -> None:
    source = some(tmp_path / "source.pcapng")
    first_s = START_NS // NS + 100
    theirs = edited(source, "-A", f"{first_s}.0", "-B", f"{first_s + 300}.5")
    with read(source) as reader:
        found = editing.in_span(reader.batches(), first_s * NS, (first_s + 300) * NS + NS // 2)
        write(tmp_path / "ours", found, reader.interfaces)
    assert rows(tmp_path / "ours") == rows(theirs) != []


def test_in_time_order_is_what_reordercap_does(tmp_path: Path) -> None:
    for source in (some(tmp_path / "a", 30_000, goes_back=True), some(tmp_path / "b", 3000)):
        theirs = edited(source, program="reordercap")
        with read(source) as reader:
            write(tmp_path / "ours", editing.in_time_order(reader.batches()), reader.interfaces)
        assert rows(tmp_path / "ours") == rows(theirs)
    shuffled = [full.packet("<", 0, at, bytes(at), [(1, str(at).encode())]) for at in (3, 1, 2)]
    (tmp_path / "c").write_bytes(full.section("<") + full.interface("<") + b"".join(shuffled))
    with read(tmp_path / "c") as reader:
        # Of two batches each is copied.
        batches = [each.chosen(slice(at, at + 1)) for each in reader.batches() for at in range(3)]
        write(tmp_path / "d", editing.in_time_order(batches), reader.interfaces)
    with read(tmp_path / "d") as reader:
        assert [(each.comments, len(each.data)) for each in reader] == [(("1",), 1), (("2",), 2), (("3",), 3)]


@pytest.mark.parametrize("order", ["<", ">"])
def test_comments_are_set_and_left_out(tmp_path: Path, order: str) -> None:
    source = everything(tmp_path / "source.pcapng", order)
    with read(source) as reader:
        write(tmp_path / "a", editing.commented(reader.batches(), {1: "more", 3: "new"}), reader.interfaces)
    with read(source) as reader:
        write(tmp_path / "b", editing.without_comments(reader.batches()), reader.interfaces)
    with read(tmp_path / "a") as reader:
        found = list(reader)
    assert [each.comments for each in found][:3] == [("of a packet", "and again", "more"), (), ("new",)]
    assert (found[0].queue, found[0].flags, found[1].flags) == (3, 5, 2)
    assert [each for (each,) in tshark_fields(tmp_path / "a", "frame.comment", display_filter="frame.comment")] == [
        "of a packet,and again,more",
        "new",
        "in the second section",
    ]
    with read(tmp_path / "b") as reader:
        assert next((each.comments, each.packet_id) for each in reader) == ((), 0x1122334455667788)


WRONG: dict[str, Callable[[], object]] = {
    "are no range": lambda: editing.numbered([], [(3, 2)]),
    "numbers from 1": lambda: editing.cut_to([], 0),
    "packets or seconds": lambda: editing.without_duplicates([], window_packets=1, window_s=1),
    "possible are 0 to 1000000": lambda: editing.without_duplicates([], window_packets=-1),
    "possible are 0 to 1e9": lambda: editing.without_duplicates([], window_s=-1),
    "cannot be ignored": lambda: editing.without_duplicates([], ignored_bytes=-1),
    "at least one character": lambda: editing.commented([], {1: ""}),
    "say what a file has": lambda: split("x", [], []),
    "max_packet_count is 0": lambda: split("x", [], [], max_packet_count=0),
    "need the interfaces": lambda: split("x", [], max_packet_count=1),
}


@pytest.mark.parametrize("words", WRONG)
def test_what_cannot_be_is_refused(words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        WRONG[words]()


def test_times_that_cannot_be_said_are_refused(tmp_path: Path) -> None:
    source = some(tmp_path / "a", 10)
    for offset_ns in (2**63, -(2**64), 10**30):
        with pytest.raises(InvalidArgument, match="choose a smaller one"), read(source) as reader:
            write(tmp_path / "b", editing.shifted(reader.batches(), offset_ns), reader.interfaces)
    earlier = editing.shifted(read(source).batches(), -2 * START_NS)
    with pytest.raises(UnsupportedError, match="write pcapng"):
        write(tmp_path / "b", earlier, INTERFACES, file_format="pcap")
    assert not (tmp_path / "b").exists()


# Several files --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "limits"),
    [
        (["-c", "700"], {"max_packet_count": 700}),
        (["-c", "3000"], {"max_packet_count": 3000}),
        (["-i", "60"], {"max_duration_s": 60}),
        (["-i", "0.5"], {"max_duration_s": 0.5}),
    ],
)
def test_split_files_are_those_of_editcap(tmp_path: Path, options: list[str], limits: dict[str, float]) -> None:
    source = some(tmp_path / "source.pcapng", 3000 if options != ["-i", "0.5"] else 40)
    for name in ("theirs", "ours"):
        (tmp_path / name).mkdir()
    theirs_base = tmp_path / "theirs" / "a.pcapng"
    subprocess.run(["editcap", *options, source, theirs_base], check=True, capture_output=True, timeout=60)
    theirs = sorted(theirs_base.parent.iterdir())
    with read(source) as reader:
        paths = split(tmp_path / "ours" / "a.pcapng", reader, **limits)  # type: ignore[arg-type]  # by name
    assert paths == sorted((tmp_path / "ours").iterdir())
    # editcap also makes files of times without packets.
    assert [rows(each) for each in paths] == [found for each in theirs if (found := rows(each))]
    if options[0] == "-c":
        assert [each.name for each in paths] == [each.name for each in theirs]
    assert [int(each.name[2:7]) for each in paths] == list(range(len(paths)))


def test_split_by_bytes_and_what_files_say(tmp_path: Path) -> None:
    source = some(tmp_path / "source.pcapng")
    with read(source) as reader:
        paths = split(tmp_path / "a.pcapng", reader, max_file_size_bytes=20_000)
    sizes = [each.stat().st_size for each in paths]
    assert max(sizes) <= 20_000
    assert min(sizes[:-1]) > 19_000
    assert [row for each in paths for row in rows(each)] == rows(source)
    with read(source) as reader:
        assert len(split(tmp_path / "b.pcap.gz", reader, max_file_size_bytes=1, file_format="nsecpcap")) == 3000
    assert capinfos(next(tmp_path.glob("b_00000_*.pcap.gz")), "-c")["Number of packets"] == "1"
    with read(everything(tmp_path / "c", "<")) as reader:
        paths = split(tmp_path / "d.pcapng", reader, max_packet_count=1)
    found: list[tuple[object, ...]] = []
    for path in paths:
        with read(path) as reader:
            names = [each.interface for each in reader]
            found.append((names, reader.comments, len(reader.secrets), len(reader.custom_blocks)))
    first = ("first section", "again")
    assert found == [
        (["eth0"], first, 1, 1),
        (["eth0"], first, 1, 0),
        (["eth0"], first, 1, 0),
        (["wlan0"], ("second section",), 1, 0),
    ]


def test_where_splitting_fails_whole_files_are_left(tmp_path: Path) -> None:
    source = some(tmp_path / "source.pcapng")
    source.write_bytes(source.read_bytes()[:-4] + b"\1\2\3\4")

    def failing() -> Iterator[Batch]:
        with read(source) as reader:
            for number, batch in enumerate(reader.batches()):
                yield batch.chosen(slice(100 * number, 150))
                raise KeyboardInterrupt

    (tmp_path / "out").mkdir()
    with pytest.raises(KeyboardInterrupt):
        split(tmp_path / "out" / "a.pcapng", failing(), INTERFACES, max_packet_count=100)
    (path,) = (tmp_path / "out").iterdir()
    assert len(rows(path)) == 100


# In the shell ---------------------------------------------------------------------------------------------------------


def test_cut_in_the_shell(tmp_path: Path) -> None:
    source, target = some(tmp_path / "source.pcapng", goes_back=True), tmp_path / "ours.pcapng"
    words = ("-n", "1-2000", "--leave-out", "7", "-s", "40", "-C", "2", "-L", "-t", "-3600", "-D", "20", "--sort")
    done = called("cut", source, "-w", target, *words, "--packet-comment", "9:here", "--comment", "of the file")
    assert (done.returncode, done.stderr) == (0, "")
    edited(source, "-r", "-s", "40", "-C", "2", "-L", "-t", "-3600", "-D", "20", "-a", "9:here")
    theirs = source.with_name("theirs.pcapng")
    chosen = [*map(str, range(1, 7)), *map(str, range(8, 2001))]
    options = ("-r", "-s", "40", "-C", "2", "-L", "-t", "-3600", "-D", "20", "-a", "9:here")
    places = ("1-6", "8-2000")
    subprocess.run(["editcap", *options, source, theirs, *places], check=True, capture_output=True, timeout=60)
    ordered = tmp_path / "ordered.pcapng"
    subprocess.run(["reordercap", theirs, ordered], check=True, capture_output=True, timeout=60)
    assert len(chosen) == 1999
    assert rows(target) == rows(ordered)
    fields = ("frame.comment", "frame.len")
    assert tshark_fields(target, *fields) == tshark_fields(ordered, *fields)
    assert done.stdout == f"{target}: {len(rows(target)):,} packets\n"
    with read(target) as reader:
        assert reader.comments == ("of the file",)
    done = called("cut", source, "-w", tmp_path / "s.pcap", "-F", "nsecpcap", "-c", "1500")
    assert [Path(each).name[:7] for each in done.stdout.splitlines()] == ["s_00000", "s_00001"]
    assert called("cut", source, "-w", target, "-f", "ip", "--from", "2026-09-21", "--overwrite").returncode == 0


@pytest.mark.parametrize(
    ("words", "status", "text"),
    [
        (("-n", "5-2"), 2, "no range"),
        (("-n", "x"), 2, "no range of packets"),
        (("-s", "0"), 2, "numbers from 1"),
        (("-C", "a:b"), 2, "OFFSET:COUNT"),
        (("-t", "soon"), 2, "no number of seconds"),
        (("-D", "5", "--duplicates-within", "3"), 2, "not both"),
        (("--packet-comment", "here"), 2, "NUMBER:TEXT"),
        (("-c", "0"), 2, "-c"),
        (("-f", "no such"), 1, "filter"),
    ],
)
def test_what_cannot_be_cut_is_one_sentence(tmp_path: Path, words: tuple[str, ...], status: int, text: str) -> None:
    done = called("cut", some(tmp_path / "a", 10), "-w", tmp_path / "b", *words)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (status, "", 1)
    assert text in done.stderr
    assert not (tmp_path / "b").exists()


def test_what_is_there_is_left_and_a_cut_file_is_told(tmp_path: Path) -> None:
    source = some(tmp_path / "a", 10)
    (tmp_path / "b").write_text("before")
    assert "say --overwrite" in called("cut", source, "-w", tmp_path / "b").stderr
    assert (tmp_path / "b").read_text() == "before"
    source.write_bytes(source.read_bytes() + pcapng.enhanced_packet(0, 1, b"abc", 3)[:-5])
    done = called("cut", source, "-w", tmp_path / "c")
    assert (done.returncode, "the last record is not whole" in done.stderr) == (1, True)
    assert len(rows(tmp_path / "c")) == 10
    assert called("cut", tmp_path / "nowhere", "-w", tmp_path / "d").returncode == 1
