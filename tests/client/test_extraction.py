"""The packets of a span come out as they went in: all of them, nothing else, in time order."""

import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capd_client import BadFilterError, files, read
from capd_client.editing.extraction import Extraction
from capd_client.reading.filtering import compile_filter
from capd_client.reading.model import Packet
from capd_client.ring.files import Span
from tests.support.rings import Frame, opened_files, pcapng_bytes, write_ring
from tests.support.traffic import build_frames

T = 1_769_857_200 * 10**9
INTERFACES = ("eth0", "eth1", "wlan0")
EVERYTHING = Span()


def frames_of(packets: list[Packet]) -> list[Frame]:
    return [Frame(each.timestamp_ns, each.interface or "", bytes(each.data)) for each in packets]


def extracted(path: Path, span: Span = EVERYTHING, capture_filter: str | None = None) -> list[Frame]:
    return frames_of(list(Extraction(files(path), span, capture_filter)))


_frames = st.lists(
    st.builds(Frame, st.integers(0, 300).map(lambda ns: T + ns), st.sampled_from(INTERFACES), st.binary(max_size=40)),
    max_size=25,
)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    contents=st.lists(_frames, max_size=6),
    start_ns=st.none() | st.integers(0, 300),
    length_ns=st.none() | st.integers(0, 300),
    last_is_open=st.booleans(),
)
def test_what_comes_out_is_what_a_look_at_all_packets_finds(
    tmp_path_factory: pytest.TempPathFactory,
    contents: list[list[Frame]],
    start_ns: int | None,
    length_ns: int | None,
    last_is_open: bool,
) -> None:
    # However the files overlap, and whatever their order within.
    path = tmp_path_factory.mktemp("ring") / "a.pcapng"
    write_ring(path, contents, INTERFACES, last_is_open=last_is_open)
    start = None if start_ns is None else T + start_ns
    end = None if length_ns is None else (T if start is None else start) + length_ns
    if not contents:
        return
    found = extracted(path, Span(start, end))
    expected = [
        each
        for frames in contents
        for each in frames
        if (start is None or each.timestamp_ns >= start) and (end is None or each.timestamp_ns < end)
    ]
    assert [each.timestamp_ns for each in found] == sorted(each.timestamp_ns for each in expected)
    assert sorted(found) == sorted(expected)


def test_packets_of_one_time_stay_in_their_order(tmp_path: Path) -> None:
    contents = [[Frame(T, "eth0", bytes([number, each])) for each in range(5)] for number in range(3)]
    write_ring(tmp_path / "a.pcapng", contents, INTERFACES)
    assert [frame.data for frame in extracted(tmp_path / "a.pcapng")] == [
        bytes([number, each]) for number in range(3) for each in range(5)
    ]


def test_interfaces_are_those_of_the_files_each_once(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    write_ring(
        path, [[Frame(T, "eth0", b"1")], [Frame(T + 1, "eth1", b"2"), Frame(T + 2, "eth0", b"3")]], ["eth0", "eth1"]
    )
    other = tmp_path / "b.pcapng"
    other.write_bytes(pcapng_bytes([Frame(T + 3, "wlan0", b"4"), Frame(T + 4, "eth0", b"5")], ["wlan0", "eth0"]))
    extraction = Extraction([*files(path), *files(other)], EVERYTHING)
    packets = list(extraction)
    assert sorted(str(each.name) for each in extraction.interfaces) == ["eth0", "eth1", "wlan0"]
    assert [extraction.interfaces[each.interface_id].name for each in packets] == [
        "eth0",
        "eth1",
        "eth0",
        "wlan0",
        "eth0",
    ]


def test_only_files_that_may_have_packets_are_opened(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    contents = [[Frame(T + 10 * number + each, "eth0", b"x") for each in range(10)] for number in range(50)]
    written = write_ring(path, contents, ["eth0"])
    with opened_files(tmp_path) as names:
        found = extracted(path, Span(T + 105, T + 125))
    assert [each.timestamp_ns - T for each in found] == list(range(105, 125))
    assert names == {"a.pcapng.index", *(each.name for each in written[10:13])}


def test_a_file_that_is_damaged_gives_what_is_before_it_and_the_others_go_on(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    contents = [[Frame(T + 10 * number + each, "eth0", b"x" * 40) for each in range(10)] for number in range(3)]
    _, second, third = write_ring(path, contents, ["eth0"])
    data = bytearray(second.read_bytes())
    record_bytes = len(pcapng_bytes(contents[0][:2], ["eth0"])) - len(pcapng_bytes(contents[0][:1], ["eth0"]))
    data[-3 * record_bytes : -3 * record_bytes + 8] = b"\xff" * 8
    second.write_bytes(data)
    third.unlink()
    extraction = Extraction(files(path), EVERYTHING)
    assert [each.timestamp_ns - T for each in extraction] == [*range(10), *range(10, 17)]
    (fault,) = extraction.faults
    assert (fault.file, fault.offset_bytes) == (str(second), len(data) - 3 * record_bytes)


def test_a_file_that_is_deleted_meanwhile_is_told_of(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    first, _ = write_ring(path, [[Frame(T, "eth0", b"1")], [Frame(T + 1, "eth0", b"2")]], ["eth0"])
    extraction = Extraction(files(path), EVERYTHING)
    first.unlink()
    assert [bytes(each.data) for each in extraction] == [b"2"]
    assert [each.file for each in extraction.faults] == [str(first)]


def test_a_torn_record_at_the_end_of_an_open_file_is_no_fault(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    (only,) = write_ring(path, [[Frame(T, "eth0", b"1"), Frame(T + 1, "eth0", b"2")]], ["eth0"], last_is_open=True)
    only.write_bytes(only.read_bytes()[:-6])
    extraction = Extraction(files(path), EVERYTHING)
    assert [bytes(each.data) for each in extraction] == [b"1"]
    assert extraction.faults == []


def test_a_torn_record_at_the_end_of_a_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.pcapng"
    data = pcapng_bytes([Frame(T, "eth0", b"1"), Frame(T + 1, "eth0", b"2")], ["eth0"])
    path.write_bytes(data[:-6])
    extraction = Extraction(files(path), EVERYTHING)
    assert [bytes(each.data) for each in extraction] == [b"1"]
    (fault,) = extraction.faults
    assert (fault.offset_bytes, fault.text) == (len(data) - 36, "the last record is not whole (30 bytes)")


# Filters ----------------------------------------------------------------------------------------------------------

FRAMES = build_frames((64, 128, 600)) + build_frames((64,), vlan=7)


@pytest.mark.parametrize(
    "text", ["", "udp", "udp port 50001", "tcp", "greater 100", "less 64", "vlan 7", "ether[0] = 2"]
)
def test_a_filter_chooses_what_tcpdump_chooses(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.pcapng"
    frames = [Frame(T + number, "eth0", FRAMES[number % len(FRAMES)]) for number in range(20)]
    (written,) = write_ring(path, [frames], ["eth0"])
    chosen = tmp_path / "chosen.pcap"
    command = ["tcpdump", "-Z", "root", "-r", str(written), "-w", str(chosen), text]
    subprocess.run(command, check=True, capture_output=True, timeout=30)
    assert sum(len(each.data) + 16 for each in extracted(path, EVERYTHING, text)) + 24 == chosen.stat().st_size


def test_a_file_of_many_batches_is_extracted_from_all_of_them(tmp_path: Path) -> None:
    frames = [Frame(T + number, "eth0", FRAMES[number % len(FRAMES)] + bytes(number % 7)) for number in range(3000)]
    (written,) = write_ring(tmp_path / "a.pcapng", [frames], ["eth0"])
    with read(written) as reader:
        assert sum(1 for _ in reader.batches()) > 1
    found = extracted(tmp_path / "a.pcapng", EVERYTHING, "udp and not vlan")
    assert found == [frame for number, frame in enumerate(frames) if number % len(FRAMES) < 3]


@pytest.mark.parametrize("text", ["udp prot 53", "(", "ether[", "\0", "ü", "\udcff"])
def test_a_filter_that_does_not_compile_is_refused(text: str) -> None:
    with pytest.raises(BadFilterError):
        compile_filter(text, 1)
