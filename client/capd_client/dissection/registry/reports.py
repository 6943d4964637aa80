"""What ``tshark -G`` reports, as sorted lines. Pure."""

from typing import Final

from capd_client.dissection.registry.lines import sorted_lines

#: A protocol is of this type.
PROTOCOL: Final = b"FT_PROTOCOL"


def fields_of(report: bytes) -> bytes:
    """Return the fields and protocols of ``tshark -G fields``.

    Each line has a name, a type, the protocol, a title and a description. The first of a name counts.
    """
    found: dict[bytes, bytes] = {}
    for line in report.split(b"\n"):
        cells = line.split(b"\t")
        if cells[0] == b"F" and len(cells) >= 5:
            _, title, name, type_, parent, *rest = cells
            found.setdefault(name, b"\t".join((type_, parent, title, rest[2] if len(rest) > 2 else b"")))
        elif cells[0] == b"P" and len(cells) >= 3:
            _, title, name, *_ = cells
            found.setdefault(name, b"\t".join((PROTOCOL, name, title, b"")))
    return sorted_lines(found)


def values_of(report: bytes) -> bytes:
    """Return the names of values of ``tshark -G values``.

    Many fields share theirs: behind lines that say where each field's are, come all that differ.
    """
    tables: dict[bytes, list[bytes]] = {}
    for line in report.split(b"\n"):
        kind, _, rest = line.partition(b"\t")
        name, _, cells = rest.partition(b"\t")
        if kind in (b"V", b"V64"):
            value, _, label = cells.partition(b"\t")
            tables.setdefault(name, []).append(b"\t".join((value, value, label)))
        elif kind == b"R":
            tables.setdefault(name, []).append(cells)
        elif kind == b"T":
            when_true, _, when_false = cells.partition(b"\t")
            tables.setdefault(name, []).extend((b"1\t1\t" + when_true, b"0\t0\t" + when_false))
    places: dict[bytes, int] = {}
    joined: list[bytes] = []
    index: dict[bytes, bytes] = {}
    at = 0
    for name, lines in tables.items():
        table = b"\n".join(lines)
        if table not in places:
            places[table] = at
            joined.append(table)
            at += len(table)
        index[name] = b"%d\t%d" % (places[table], len(table))
    lines_bytes = sorted_lines(index)
    return b"%d\n" % len(lines_bytes) + lines_bytes + b"".join(joined)
