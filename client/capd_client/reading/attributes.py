"""What a reader knows of its file beside the packets."""

from collections.abc import Sequence

from capd_client.reading.files.file import File
from capd_protocol.formats.linktypes import LinkLayerType, from_dlt, linktype_to_dlt
from capd_protocol.formats.metadata import CustomBlock, NameResolution, OtherBlock, Secrets, Section


class Attributes:
    """What a file says of itself. What stands at its beginning is known at once, the rest as far as it was read."""

    def __init__(self) -> None:
        self._file: File | None = None

    def _begun(self) -> File | None:
        """Return the file when what stands before its first packet was read."""
        return self._file

    @property
    def file_type(self) -> str | None:
        """The format, as Wireshark calls it: ``pcapng``, ``pcap``, ``nsecpcap`` or ``modpcap``.

        None: it is one that Wireshark's ``editcap`` has converted, or nothing is known yet.
        """
        file = self._begun()
        return None if file is None else file.file_type

    @property
    def encapsulation(self) -> LinkLayerType | None:
        """What the packets begin with; None: interfaces differ in it, or none is known yet."""
        file = self._begun()
        linktypes = {each.linktype for each in file.interfaces} if file is not None else set[int]()
        return from_dlt(linktype_to_dlt(linktypes.pop())) if len(linktypes) == 1 else None

    @property
    def is_compressed(self) -> bool:
        """Whether the file is compressed."""
        file = self._begun()
        return file is not None and file.is_compressed

    @property
    def timestamp_precision(self) -> int | None:
        """How many digits of seconds are behind the point, such as 6 for microseconds: the most of any interface.

        None: no interface is known yet.
        """
        file = self._begun()
        units = [each.units_per_s for each in file.interfaces] if file is not None else []
        return max((len(str(each - 1)) if each > 1 else 0 for each in units), default=None)

    @property
    def size_bytes(self) -> int | None:
        """The file's size, as it lies there; None of what has none, such as a pipe."""
        return None if self._file is None else self._file.stored_size_bytes()

    @property
    def read_bytes(self) -> int | None:
        """How much of that was read; None: it is not known, since another program converts the file."""
        return None if self._file is None else self._file.stored_read_bytes()

    @property
    def sections(self) -> Sequence[Section]:
        """The sections of a pcapng file so far; none in other formats."""
        file = self._begun()
        return () if file is None else tuple(file.sections)

    @property
    def comments(self) -> tuple[str, ...]:
        """What is said in words of these sections."""
        return tuple(comment for section in self.sections for comment in section.comments)

    @property
    def name_resolutions(self) -> tuple[NameResolution, ...]:
        """Names of addresses that are in the file so far."""
        return tuple(each for each in map(OtherBlock.parsed, self.other_blocks) if isinstance(each, NameResolution))

    @property
    def secrets(self) -> tuple[Secrets, ...]:
        """What packets can be decrypted with, as far as that is in the file and was read."""
        return tuple(each for each in map(OtherBlock.parsed, self.other_blocks) if isinstance(each, Secrets))

    @property
    def custom_blocks(self) -> tuple[CustomBlock, ...]:
        """Blocks so far that enterprises have made up."""
        return tuple(each for each in map(OtherBlock.parsed, self.other_blocks) if isinstance(each, CustomBlock))

    @property
    def other_blocks(self) -> Sequence[OtherBlock]:
        """All blocks so far that are no section, interface, packet or statistics; of many the last 64 MiB."""
        file = self._begun()
        return () if file is None else tuple(file.blocks)
