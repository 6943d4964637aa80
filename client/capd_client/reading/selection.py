"""Which packets are meant: those that pass a capture filter, and display filters."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from capd_client.reading.filtering import Flags, Matching
from capd_protocol.batches.model import Batch, FileInterface
from capd_protocol.batches.progress import Progress

if TYPE_CHECKING:
    from capd_client.display_filters.filter import AnyDisplayFilter, DisplayFilter


def compiled(display_filter: "AnyDisplayFilter | None") -> "DisplayFilter | None":
    """Return a display filter compiled; None: there is none.

    Raises:
        DisplayFilterError: it is none.
    """
    if display_filter is None:
        return None
    from capd_client.display_filters.filter import DisplayFilter  # noqa: PLC0415  # it takes a while

    return display_filter if isinstance(display_filter, DisplayFilter) else DisplayFilter(str(display_filter))


class Selection:
    """Packets that pass all of some filters; without any, all."""

    def __init__(self, capture_filter: str | None = None, *display_filters: "AnyDisplayFilter | None") -> None:
        """Compile filters.

        Args:
            capture_filter: in libpcap's language; None: none.
            display_filters: in Wireshark's; None: none.

        Raises:
            BadFilterError: the capture filter compiles for no link-layer type.
            UnsupportedError: there is no libpcap, which capture filters need.
            DisplayFilterError: a display filter is none.
        """
        self._capture_filter = None if capture_filter is None else Matching(capture_filter)
        self._display_filters = [each for each in map(compiled, display_filters) if each is not None]

    @property
    def is_all(self) -> bool:
        """Whether there are no filters."""
        return self._capture_filter is None and not self._display_filters

    def mask(self, batch: Batch, interfaces: Sequence[FileInterface], progress: Progress) -> Flags | None:
        """Return which packets of a batch pass; None: all.

        Args:
            batch: packets.
            interfaces: what their interface ids mean.
            progress: what came before.
        """
        masks = [each.program.mask(batch, interfaces, progress) for each in self._display_filters]
        if self._capture_filter is not None:
            masks.append(self._capture_filter.mask(batch, interfaces))
        if not masks:
            return None
        for mask in masks[1:]:
            masks[0] = masks[0] & mask
        return masks[0]

    def check(self, interfaces: Iterable[FileInterface]) -> None:
        """Compile the capture filter for interfaces of which no packet may have come yet.

        Raises:
            BadFilterError, UnsupportedError: it does not compile for one of them.
        """
        if self._capture_filter is not None:
            self._capture_filter.check(interfaces)

    def of(self, batch: Batch, interfaces: Sequence[FileInterface], progress: Progress) -> Batch:
        """Return the packets that pass; see ``mask``."""
        mask = self.mask(batch, interfaces, progress)
        return batch if mask is None or mask.all() else batch.chosen(mask)
