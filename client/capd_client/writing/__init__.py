"""Writing capture files: see ``write``, ``split`` and ``merge``.

numpy is imported by the first call, not with the client.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from capd_client.reading.model import Packet
    from capd_client.reading.reader import Reader
    from capd_client.request.options import HasWrite
    from capd_protocol.batches.model import Batch, FileInterface


#: Of files that are written, by Wireshark's names: pcapng, pcap with microseconds, and pcap with nanoseconds.
FileFormat = Literal["pcapng", "pcap", "nsecpcap"]


def write(
    target: "str | os.PathLike[str] | HasWrite",
    packets: "Reader | Iterable[Packet] | Iterable[Batch]",
    interfaces: "Sequence[FileInterface] | None" = None,
    *,
    file_format: FileFormat = "pcapng",
    compress_type: str | None = None,
    comments: Iterable[str] = (),
    overwrite: bool = True,
    append: bool = False,
) -> int:
    """Write packets into a capture file; return how many.

    A file at a path is there when it is whole: until then, and where writing fails, what was there before is untouched.

    Example:
        with read("all.pcapng.zst") as packets:
            write("dns.pcapng", packets.matching("udp port 53"), packets.interfaces)

    Args:
        target: a path; or a binary file, which is written to as packets come, and stays open.
        packets: what ``read`` returns, of which statistics are kept, too; or packets, or batches of them.
        interfaces: what the interface ids of packets or batches mean, as the attribute ``interfaces`` of what they come
            from; it may grow as they come. None: what is written has it.
        file_format: ``pcapng``, ``pcap`` (with microseconds) or ``nsecpcap``, as Wireshark calls them.
        compress_type: ``gzip``, ``zstd`` or ``none``; None: as the end of the path says, ``.gz`` or ``.zst``.
        comments: what a pcapng file says of itself at its beginning.
        overwrite: replace a file that is there.
        append: have a pcapng file that is there go on, with another section; where writing fails, it ends where it
            did before. One that is not there is written.

    Raises:
        InvalidArgument: one of these is not possible.
        DestinationError: the file cannot be written, or is there already.
        UnsupportedError: the format cannot say it: pcap has one link-layer type, and times from 1970 to 2106. Or the
            file cannot go on: it is compressed, not pcapng, or its last record is not whole.
        ReadError: what is read is damaged. Nothing is written then.
    """
    from capd_client.reading.reader import Reader  # noqa: PLC0415  # numpy
    from capd_client.writing.parts import Part, batches_of, meant, origin_of  # noqa: PLC0415  # numpy
    from capd_client.writing.writer import Writer  # noqa: PLC0415  # numpy

    meant(packets, interfaces)  # before a file is begun
    with Writer(
        target,
        file_format=file_format,
        compress_type=compress_type,
        comments=comments,
        overwrite=overwrite,
        keeps_statistics=isinstance(packets, Reader),
        append=append and _can_go_on(target),
    ) as writer:
        for batch in batches_of(packets):
            described, own = meant(packets, interfaces)
            writer.write([Part(0, batch, described, origin_of(own))])
        described, own = meant(packets, interfaces)
        writer.add_source(0, described, origin_of(own))
    return writer.packets


def merge(
    target: "str | os.PathLike[str] | HasWrite",
    sources: "Iterable[str | os.PathLike[str] | int | IO[bytes]]",
    *,
    file_format: FileFormat = "pcapng",
    compress_type: str | None = None,
    comments: Iterable[str] = (),
    overwrite: bool = True,
) -> int:
    """Merge capture files into one, in the order of their packets' times; return how many packets that are.

    The next packet is always the earliest of those that are next in their files, as with mergecap. The interfaces of
    each file stay apart.

    Args:
        target: as for ``write``.
        sources: what ``read`` takes: paths, descriptors, open files.
        file_format: as for ``write``, and so the next ones.
        compress_type: see there.
        comments: see there.
        overwrite: see there.

    Raises:
        InvalidArgument: as for ``write``, and so the next ones.
        DestinationError: see there.
        UnsupportedError: see there.
        ReadError: one of the files cannot be read, or is damaged. Nothing is written then.
    """
    from contextlib import ExitStack  # noqa: PLC0415  # with the others

    from capd_client.reading.reader import FileReader  # noqa: PLC0415  # numpy
    from capd_client.writing.merging import merged  # noqa: PLC0415  # numpy
    from capd_client.writing.parts import origin_of  # noqa: PLC0415  # numpy
    from capd_client.writing.writer import Writer  # noqa: PLC0415  # numpy

    with ExitStack() as opened:
        readers = [opened.enter_context(FileReader(each, follow=False)) for each in sources]
        writer = opened.enter_context(
            Writer(
                target,
                file_format=file_format,
                compress_type=compress_type,
                comments=comments,
                overwrite=overwrite,
                keeps_statistics=True,
            )
        )
        steps = merged(readers)
        for number, reader in enumerate(readers):
            writer.add_source(number, reader.interfaces, origin_of(reader.interfaces))
        for parts, order in steps:
            writer.write(parts, order)
    return writer.packets


def split(
    target: "str | os.PathLike[str]",
    packets: "Reader | Iterable[Packet] | Iterable[Batch]",
    interfaces: "Sequence[FileInterface] | None" = None,
    *,
    max_packet_count: int | None = None,
    max_duration_s: float | None = None,
    max_file_size_bytes: int | None = None,
    file_format: FileFormat = "pcapng",
    compress_type: str | None = None,
    comments: Iterable[str] = (),
    overwrite: bool = True,
) -> list[Path]:
    """Write packets into several files, one after the other; return their paths.

    Each is there when it is whole. Their names are those of editcap: a number from 0 and the first packet's local time
    stand before the end of the path, as in ``dns_00000_20260131120000.pcapng``. There is none without packets.

    Example:
        with read("dns.pcapng") as packets:
            split("hour.pcapng", packets, max_duration_s=3600)

    Args:
        target: what the names are made of.
        packets: as for ``write``, and so the next one.
        interfaces: see there.
        max_packet_count: so many packets are in a file.
        max_duration_s: in seconds. Files begin at multiples of it from the first packet's time on.
        max_file_size_bytes: before it is compressed, and without statistics at its end. A packet that needs more is
            in a file of its own.
        file_format: as for ``write``, and so the next ones.
        compress_type: see there.
        comments: see there; each file says them.
        overwrite: see there.

    Raises:
        InvalidArgument: no limit is given, or one of the arguments is not possible.
        DestinationError: as for ``write``, and so the next ones.
        UnsupportedError: see there.
        ReadError: what is read is damaged. The files before are there.
    """
    from capd_client.writing.parts import batches_of, meant  # noqa: PLC0415  # numpy
    from capd_client.writing.splitting import Limits, Splitter  # noqa: PLC0415  # numpy
    from capd_client.writing.writer import Writer  # noqa: PLC0415  # numpy

    meant(packets, interfaces)  # before a file is begun
    said = (comments,) if isinstance(comments, str) else tuple(comments)

    def opened(path: str) -> Writer:
        return Writer(path, file_format=file_format, compress_type=compress_type, comments=said, overwrite=overwrite)

    limits = Limits.of(max_packet_count, max_duration_s, max_file_size_bytes)
    with Splitter(os.fspath(target), limits, opened) as splitter:
        for batch in batches_of(packets):
            splitter.write(batch, *meant(packets, interfaces))
    return splitter.paths


def _can_go_on(target: "str | os.PathLike[str] | HasWrite") -> bool:
    """Whether there is a file that can go on with another section.

    Raises:
        UnsupportedError: it cannot.
        ReadError: it is damaged.
    """
    from capd_client.errors import UnsupportedError  # noqa: PLC0415  # with the others
    from capd_client.reading.reader import FileReader  # noqa: PLC0415  # numpy

    if not isinstance(target, str | os.PathLike) or not Path(target).exists() or not Path(target).stat().st_size:
        return not isinstance(target, str | os.PathLike)  # which is refused
    with FileReader(target, follow=False) as reader:
        for _ in reader.batches():
            pass
        if reader.file_type != "pcapng" or reader.is_compressed or reader.rest_bytes:
            text = "only a pcapng file that is not compressed, and whose last record is whole, can go on: merge them"
            raise UnsupportedError(text)
    return True
