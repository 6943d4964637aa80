"""A display filter: a text in Wireshark's language, which is asked about batches of packets."""

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from capd_client.display_filters.expressions import FilterExpression
from capd_client.errors import DisplayFilterError
from capd_protocol.batches.model import Batch, FileInterface
from capd_protocol.batches.progress import Progress
from capd_protocol.display_filters.checking import checked
from capd_protocol.display_filters.execution.evaluation import Search
from capd_protocol.display_filters.execution.program import Program
from capd_protocol.display_filters.faults import FilterFault
from capd_protocol.display_filters.parsing import parsed


class DisplayFilter:
    """A display filter, as Wireshark 4.0 has it: ``ip.addr == 10.0.0.0/8 && tcp.flags.syn == 1``.

    Its fields are those of ``docs/columns.md``, and protocols; ``docs/display-filters.md`` has the language. Each
    packet is looked at by itself, whole batches at once.

    Example:
        outgoing = DisplayFilter("tcp.flags.syn == 1 && !(tcp.dstport in {80, 443})")
        with read("all.pcapng", display_filter=outgoing) as packets:
            for packet in packets:
                print(packet)

    Attributes:
        text: the filter.
        names: the fields and protocols that it asks for.
    """

    def __init__(self, text: str) -> None:
        """Compile a filter.

        Args:
            text: the filter.

        Raises:
            DisplayFilterError: it is none, or asks for a field that there is not; says where, and what is expected.
        """
        self.text = text
        searches: dict[bytes, Search] = {}
        try:
            condition = checked(parsed(text), lambda pattern: _fault_of(pattern, searches))
        except FilterFault as fault:
            raise DisplayFilterError(
                text, fault.text, (fault.place.begin, fault.place.end), fault.unknown_field, fault.near
            ) from None
        self.program = Program(condition, searches)
        self.names = self.program.names

    def __str__(self) -> str:
        """Return the text."""
        return self.text

    def __repr__(self) -> str:
        """Return it as it was made."""
        return f"DisplayFilter({self.text!r})"

    def __eq__(self, other: object) -> bool:
        """Whether it has the same text."""
        return isinstance(other, DisplayFilter) and other.text == self.text

    def __hash__(self) -> int:
        """Return a number for its text."""
        return hash(self.text)

    def mask(self, batch: Batch, interfaces: Sequence[FileInterface]) -> npt.NDArray[np.bool_]:
        """Return a flag for each packet of a batch: whether it passes. Numbers and times count from the batch's first.

        Args:
            batch: packets.
            interfaces: what their interface ids mean, as the attribute ``interfaces`` of what they come from.
        """
        return self.program.mask(batch, interfaces, Progress())


#: A display filter as it is taken: compiled, as a text, or made of fields.
AnyDisplayFilter = DisplayFilter | FilterExpression | str


def _fault_of(pattern: bytes, searches: dict[bytes, Search]) -> str:
    """Compile a regular expression; return what is wrong with it, or nothing."""
    # Few filters have one; it has no types.
    pcre2: Any = importlib.import_module("pcre2")
    try:
        # As Wireshark has it: without regard to capitals, and bytes are bytes.
        compiled = pcre2.compile(pattern, pcre2.IGNORECASE)
    except (pcre2.PatternError, pcre2.LibraryError) as error:
        return str(error)

    def search(string: bytes) -> bool:
        try:
            return compiled.search(string) is not None
        except pcre2.LibraryError:  # it looked for too long, which PCRE2 bounds: Wireshark finds nothing then, either
            return False

    searches[pattern] = search
    return ""
