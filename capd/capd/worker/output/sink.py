"""Where the packets of a capture go: into files, or into memory first."""

from collections.abc import Mapping
from typing import Protocol

from capd.worker.output.rotation import Fill
from capd.worker.packets.arrays import U64
from capd.worker.packets.merge import Slice
from capd_protocol.messages import DeletionReason


class Output(Protocol):
    """What the loop asks of it. What is raised is told by who does it."""

    @property
    def next_look_s(self) -> float:
        """When ``keep_limits`` is to be called, by the monotonic clock."""
        ...

    @property
    def opened_total(self) -> int:
        """How many files were opened."""
        ...

    @property
    def fill(self) -> Fill:
        """How full the current file is."""
        ...

    @property
    def disk_bytes(self) -> int:
        """What the files take now."""
        ...

    def time_left_s(self) -> float | None:
        """Return in how many seconds the current file's time is up; None if it never will be."""
        ...

    def make_room(self, size_bytes: int) -> bool:
        """Make room for so many bytes; say whether there is."""
        ...

    def fitting(self, sizes_bytes: U64) -> int:
        """Return how many of these packets may be written before ``make_room`` is asked again."""
        ...

    def keep_limits(self) -> None:
        """Do what is due by now."""
        ...

    def switch(self, drops_total: Mapping[str, int]) -> DeletionReason | None:
        """Go on in the next file; return which limit stands in the way, if one does."""
        ...

    def give_way(self) -> None:
        """Let those have the current file who wait to open it."""
        ...

    def add_block(self, block: bytes) -> None:
        """Append a block that is no packet."""
        ...

    def write(self, records: Slice) -> None:
        """Append records, at least one."""
        ...

    def close(self, drops_total: Mapping[str, int]) -> None:
        """End what is being written, well."""
        ...
