"""What a pcapng file says beside its packets and interfaces: sections, names, secrets, and blocks of others. Pure.

Layouts: draft-ietf-opsawg-pcapng, section 4.
"""

import ipaddress
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

from capd_protocol.formats import pcapng
from capd_protocol.formats.options import ENTERPRISE_NUMBER, NAMES, NO_OPTIONS, SECRETS, Options, mac_text

_NATIVE = "<" if sys.byteorder == "little" else ">"


class Section(NamedTuple):
    """A section of a pcapng file.

    Attributes:
        options: all that it says of itself.
        is_swapped: written on a machine of the other byte order.
    """

    options: Options
    is_swapped: bool = False

    @property
    def hardware(self) -> str | None:
        """What it was captured on; None where it does not say, and so the next ones."""
        return self.options.text(pcapng.SHB_HARDWARE)

    @property
    def operating_system(self) -> str | None:
        """The operating system of that machine."""
        return self.options.text(pcapng.SHB_OS)

    @property
    def application(self) -> str | None:
        """The program that has written it."""
        return self.options.text(pcapng.SHB_USERAPPL)

    @property
    def comments(self) -> tuple[str, ...]:
        """What is said of it in words."""
        return self.options.comments


class NameResolution(NamedTuple):
    """Names of addresses, as they were known when the file was written.

    Attributes:
        names: by address: of IPv4 and IPv6, and hardware addresses with colons.
        options: what else is said, such as which server has given them.
    """

    names: dict[str, tuple[str, ...]]
    options: Options = NO_OPTIONS


#: By kind: four letters as a number.
_SECRETS = {
    0x544C534B: "TLS",
    0x5353484B: "SSH",
    0x57474B4C: "WireGuard",
    0x5A4E574B: "ZigBee network",
    0x5A415053: "ZigBee APS",
    0x55414B4C: "OPC UA",
}


class Secrets(NamedTuple):
    """What packets can be decrypted with.

    Attributes:
        kind: of what; a number that the format has for it.
        data: the secrets, such as a TLS key log.
        options: what else is said.
    """

    kind: int
    data: bytes
    options: Options = NO_OPTIONS

    @property
    def protocol(self) -> str | None:
        """Of which protocol: ``TLS``, ``SSH``, ``WireGuard``, …; None where the format has no name for it."""
        return _SECRETS.get(self.kind)

    def __repr__(self) -> str:
        """Return what they are of, and how many bytes; not what they are."""
        return f"<Secrets of {self.protocol or hex(self.kind)}, {len(self.data)} bytes>"


class CustomBlock(NamedTuple):
    """A block that an enterprise has made up.

    Attributes:
        enterprise: its number, as IANA has given it.
        data: what is in it, as the enterprise says.
        is_copied: whether programs that change a file may keep it.
    """

    enterprise: int
    data: bytes
    is_copied: bool


class OtherBlock(NamedTuple):
    """A block that is no section, interface, packet or statistics.

    Attributes:
        section: its section's place among all.
        block_type: as its first word says.
        body: what is between its lengths.
        is_swapped: written on a machine of the other byte order.
    """

    section: int
    block_type: int
    body: bytes
    is_swapped: bool = False

    def parsed(self) -> NameResolution | Secrets | CustomBlock | None:
        """Return what is in it; None where its type is not known, or it is not as that type's blocks are."""
        reader = _READERS.get(self.block_type)
        if reader is None:
            return None
        order = ">" if (_NATIVE == "<") == self.is_swapped else "<"
        try:
            return reader(memoryview(self.body), order, self.block_type)
        except (struct.error, pcapng.MalformedFileError):
            return None

    def native_body(self) -> bytes | None:
        """Return it in this machine's byte order; None where it cannot be turned, or is not to be copied."""
        if self.block_type == pcapng.CUSTOM_BLOCK_NOT_COPIED:
            return None
        if not self.is_swapped or self.block_type in _WITHOUT_ORDER:
            return self.body
        match self.parsed():
            case NameResolution():
                return _turned_names(self.body)
            case Secrets(kind=kind, data=data, options=options):
                return (
                    struct.pack("=II", kind, len(data)) + data + bytes(-len(data) % 4) + pcapng.options_bytes(options)
                )
            case CustomBlock(enterprise=enterprise, data=data):
                return ENTERPRISE_NUMBER.pack(enterprise) + data
            case None:
                return None


#: Blocks that are all text: what systemd's journal exports.
_WITHOUT_ORDER = frozenset((9,))
_RECORD_END = 0
#: By the type of a record: the address's bytes.
_ADDRESS_BYTES = {1: 4, 2: 16, 3: 6, 4: 8}


def _records(body: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Give the records of a block of names: their types and values; then what is behind them, as the last type."""
    at = 0
    while True:
        kind, length = struct.unpack_from(order + "HH", body, at)
        at += 4
        if kind == _RECORD_END:
            yield kind, body[at:]
            return
        if at + length > len(body):
            raise pcapng.MalformedFileError("a record is longer than its block")
        yield kind, body[at : at + length]
        at += length + -length % 4


def _read_names(body: memoryview, order: str, _block_type: int) -> NameResolution:
    names: dict[str, tuple[str, ...]] = {}
    options = NO_OPTIONS
    for kind, value in _records(body, order):
        if kind == _RECORD_END:
            options = Options.read(value, order, NAMES)
        elif len(value) > (size := _ADDRESS_BYTES.get(kind, len(value))):
            address, rest = bytes(value[:size]), bytes(value[size:])
            texts = (each.decode("utf-8", "surrogateescape") for each in rest.split(b"\0") if each)
            shown = str(ipaddress.ip_address(address)) if kind in (1, 2) else mac_text(address)
            names[shown] = (*names.get(shown, ()), *texts)
    return NameResolution(names, options)


def _turned_names(body: bytes) -> bytes:
    """Return a block of names of the other byte order in this machine's."""
    order = ">" if _NATIVE == "<" else "<"
    parts: list[bytes] = []
    for kind, value in _records(memoryview(body), order):
        if kind == _RECORD_END:
            parts += (bytes(4), pcapng.options_bytes(Options.read(value, order, NAMES)))
        else:
            parts += (struct.pack("=HH", kind, len(value)), bytes(value), bytes(-len(value) % 4))
    return b"".join(parts)


def _read_secrets(body: memoryview, order: str, _block_type: int) -> Secrets:
    kind, length = struct.unpack_from(order + "II", body)
    if 8 + length > len(body):
        raise pcapng.MalformedFileError("secrets are longer than their block")
    end = 8 + length + -length % 4
    return Secrets(kind, bytes(body[8 : 8 + length]), Options.read(body[end:], order, SECRETS))


def _read_custom(body: memoryview, order: str, block_type: int) -> CustomBlock:
    (enterprise,) = struct.unpack_from(order + "I", body)
    return CustomBlock(enterprise, bytes(body[4:]), block_type == pcapng.CUSTOM_BLOCK)


_READERS: dict[int, Callable[[memoryview, str, int], NameResolution | Secrets | CustomBlock]] = {
    pcapng.NAME_RESOLUTION_BLOCK: _read_names,
    pcapng.DECRYPTION_SECRETS_BLOCK: _read_secrets,
    pcapng.CUSTOM_BLOCK: _read_custom,
    pcapng.CUSTOM_BLOCK_NOT_COPIED: _read_custom,
}

#: So many bytes of blocks are kept. Chosen: who writes a file takes them as they come, some megabytes at a time; who
#: asks for them wants secrets and names, which are few.
_MOST_KEPT_BYTES = 64 * 1024 * 1024
#: What a block takes beside its bytes.
_BLOCK_BYTES = 200


class BlockLog:
    """Other blocks in their order; the oldest are forgotten where there are too many bytes of them.

    Attributes:
        forgotten: how many.
    """

    def __init__(self) -> None:
        self._blocks: deque[OtherBlock] = deque()
        self._size_bytes = 0
        self.forgotten = 0

    def add(self, block: OtherBlock) -> None:
        """Keep another one."""
        self._blocks.append(block)
        self._size_bytes += len(block.body) + _BLOCK_BYTES
        while self._size_bytes > _MOST_KEPT_BYTES and len(self._blocks) > 1:
            self._size_bytes -= len(self._blocks.popleft().body) + _BLOCK_BYTES
            self.forgotten += 1

    def __iter__(self) -> Iterator[OtherBlock]:
        """Iterate over those that are kept."""
        return iter(tuple(self._blocks))

    def __len__(self) -> int:
        """Return how many there were."""
        return self.forgotten + len(self._blocks)

    def since(self, number: int) -> list[OtherBlock]:
        """Return those from a number on, counted from the first that there was, as far as they are kept."""
        missing = len(self) - max(number, self.forgotten)
        return [self._blocks[len(self._blocks) - each] for each in range(missing, 0, -1)]
