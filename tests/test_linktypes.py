import ctypes
import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from capd_protocol.formats import linktypes
from capd_protocol.formats.linktypes import LinkLayerType

# Beyond every number libpcap 1.10 knows.
SCANNED = range(1000)


def load_libpcap() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libpcap.so.0.8")
    except OSError:
        pytest.skip("no libpcap here")
    for function in (
        "pcap_lib_version",
        "pcap_datalink_val_to_name",
        "pcap_datalink_val_to_description",
        "pcap_datalink_val_to_description_or_dlt",
    ):
        getattr(library, function).restype = ctypes.c_char_p
    library.pcap_open_dead.argtypes = [ctypes.c_int, ctypes.c_int]
    library.pcap_open_dead.restype = ctypes.c_void_p
    library.pcap_dump_open.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.pcap_dump_open.restype = ctypes.c_void_p
    library.pcap_dump_close.argtypes = [ctypes.c_void_p]
    library.pcap_open_offline.argtypes = [ctypes.c_char_p, ctypes.c_char_p]
    library.pcap_open_offline.restype = ctypes.c_void_p
    library.pcap_datalink.argtypes = [ctypes.c_void_p]
    library.pcap_close.argtypes = [ctypes.c_void_p]
    version = library.pcap_lib_version().decode()
    if not version.startswith("libpcap version 1.10."):
        pytest.skip(f"the table is that of libpcap 1.10, this is {version}")
    return library


@pytest.fixture(scope="module")
def libpcap() -> ctypes.CDLL:
    return load_libpcap()


def pcap_bytes(linktype: int, packet: bytes = b"") -> bytes:
    data = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, linktype)
    if packet:
        data += struct.pack("<IIII", 1, 0, len(packet), len(packet)) + packet
    return data


def test_names_and_descriptions_are_those_of_libpcap(libpcap: ctypes.CDLL) -> None:
    expected = [
        (
            dlt,
            libpcap.pcap_datalink_val_to_name(dlt).decode(),
            libpcap.pcap_datalink_val_to_description(dlt).decode(),
        )
        for dlt in SCANNED
        if libpcap.pcap_datalink_val_to_name(dlt) is not None
    ]
    assert [(known.dlt, known.name, known.description) for known in linktypes.KNOWN] == expected


def test_linktypes_written_are_those_of_libpcap(libpcap: ctypes.CDLL, tmp_path: Path) -> None:
    file = tmp_path / "written.pcap"
    for known in linktypes.KNOWN:
        handle = libpcap.pcap_open_dead(known.dlt, 65535)
        dumper = libpcap.pcap_dump_open(handle, os.fsencode(file))
        assert dumper, known
        libpcap.pcap_dump_close(dumper)
        libpcap.pcap_close(handle)
        (linktype,) = struct.unpack_from("<I", file.read_bytes(), 20)
        assert linktypes.dlt_to_linktype(known.dlt) == linktype, known


def test_linktypes_read_are_those_of_libpcap(libpcap: ctypes.CDLL, tmp_path: Path) -> None:
    file = tmp_path / "read.pcap"
    message = ctypes.create_string_buffer(256)
    for linktype in SCANNED:
        file.write_bytes(pcap_bytes(linktype))
        handle = libpcap.pcap_open_offline(os.fsencode(file), message)
        assert handle, message.value
        assert linktypes.linktype_to_dlt(linktype) == libpcap.pcap_datalink(handle)
        libpcap.pcap_close(handle)


def test_known_types_are_found_by_number_and_name() -> None:
    for known in linktypes.KNOWN:
        assert linktypes.from_dlt(known.dlt) == known
        assert linktypes.linktype_to_dlt(linktypes.dlt_to_linktype(known.dlt)) == known.dlt
        for name in (known.name, f"DLT_{known.name}", str(known.dlt), f"DLT_{known.dlt}"):
            assert linktypes.by_name(name) == known
            assert linktypes.by_name(name.lower()) == known
        assert str(known) == known.name


@pytest.mark.parametrize("dlt", [5, 13, 300, 4711, 65536, 2**31 - 1])
def test_unknown_numbers_survive(libpcap: ctypes.CDLL, dlt: int) -> None:
    unknown = linktypes.from_dlt(dlt)
    assert unknown == LinkLayerType(dlt, f"DLT_{dlt}", f"DLT {dlt}")
    assert unknown.description == libpcap.pcap_datalink_val_to_description_or_dlt(dlt).decode()
    assert linktypes.by_name(str(unknown)) == unknown
    assert linktypes.by_name(str(dlt)) == unknown
    assert linktypes.dlt_to_linktype(dlt) == dlt
    assert linktypes.linktype_to_dlt(dlt) == dlt


@pytest.mark.parametrize(
    "name",
    [
        "",
        "DLT_",
        "DLT_DLT_RAW",
        "ethernet",
        " RAW",
        "-1",
        "+1",
        "1_0",
        "0x1",
        "1.0",
        "\u0661",  # ARABIC-INDIC DIGIT ONE: int() takes it.
        "L\u0131NUX_SLL",  # LATIN SMALL LETTER DOTLESS I: upper() makes it an I.
        str(2**31),
        "9" * 5000,
    ],
)
def test_what_is_no_name_is_not_found(name: str) -> None:
    assert linktypes.by_name(name) is None


IPV4 = bytes.fromhex("4500001c00010000401166cdc6120001c6120002c350c35100080000")
ETHERNET = bytes.fromhex("0200000000020200000000010800") + IPV4
SLL = bytes.fromhex("00000001000602000000000100000800") + IPV4
SLL2 = bytes.fromhex("0800000000000001000100060200000000010000") + IPV4

FILES = [
    # linktype, packet, DLT, what capinfos calls it
    (1, ETHERNET, 1, "Ethernet"),
    (101, IPV4, 12, "Raw IP"),
    (113, SLL, 113, "Linux cooked-mode capture v1"),
    (276, SLL2, 276, "Linux cooked-mode capture v2"),
    (0, struct.pack("<I", 2) + IPV4, 0, "NULL/Loopback"),
    (108, struct.pack(">I", 2) + IPV4, 108, "OpenBSD loopback"),
]
FILE_IDS = [str(file[0]) for file in FILES]


@pytest.mark.skipif(shutil.which("tcpdump") is None, reason="no tcpdump here")
@pytest.mark.parametrize(("linktype", "packet", "dlt"), [file[:3] for file in FILES], ids=FILE_IDS)
def test_tcpdump_agrees(tmp_path: Path, linktype: int, packet: bytes, dlt: int) -> None:
    file = tmp_path / "one.pcap"
    file.write_bytes(pcap_bytes(linktype, packet))
    shown = subprocess.run(["tcpdump", "-n", "-r", file], capture_output=True, text=True, timeout=30, check=True)
    named = linktypes.from_dlt(linktypes.linktype_to_dlt(linktype))
    assert named.dlt == dlt
    assert f"link-type {named.name} ({named.description})" in shown.stderr
    assert "198.18.0.1.50000 > 198.18.0.2.50001" in shown.stdout


@pytest.mark.skipif(shutil.which("capinfos") is None, reason="no capinfos here")
@pytest.mark.parametrize(("linktype", "packet", "dlt", "called"), FILES, ids=FILE_IDS)
def test_wireshark_agrees(tmp_path: Path, linktype: int, packet: bytes, dlt: int, called: str) -> None:
    file = tmp_path / "one.pcap"
    file.write_bytes(pcap_bytes(linktypes.dlt_to_linktype(dlt), packet))
    assert linktypes.dlt_to_linktype(dlt) == linktype
    shown = subprocess.run(["capinfos", "-E", file], capture_output=True, text=True, timeout=30, check=True)
    assert shown.stdout.splitlines()[1].split(":")[1].strip() == called
