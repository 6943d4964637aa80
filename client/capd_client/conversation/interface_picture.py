"""The interfaces that there are, and what happens to them, as a watcher knows from the daemon's messages."""

from collections import deque
from dataclasses import dataclass

from capd_protocol.messages import InterfaceEvent, InterfaceSnapshot, Message
from capd_protocol.messages.interfaces import InterfaceChange, Link


@dataclass(frozen=True)
class InterfaceChanged:
    """Something happened to an interface.

    Attributes:
        change: what.
        link: the interface as it is now; as it was last, if it is gone.
        former_name: with ``renamed``.
    """

    change: InterfaceChange
    link: Link
    former_name: str | None = None


class Picture:
    """The interfaces as a watcher knows them, from the daemon's messages. Sans-IO."""

    def __init__(self) -> None:
        self.links: dict[int, Link] = {}
        self.changes: deque[InterfaceChanged] = deque()
        self.is_complete = False
        self._parts: dict[int, Link] = {}

    def by_name(self) -> dict[str, Link]:
        """Return the interfaces by name."""
        return {link.name: link for link in self.links.values()}

    def next_change(self) -> InterfaceChanged | None:
        """Return the next change, or None until there is one."""
        return self.changes.popleft() if self.changes else None

    def take(self, message: Message) -> None:
        """Take a message into the picture."""
        match message:
            case InterfaceSnapshot(links=links, is_first=is_first, is_last=is_last):
                if is_first:
                    self._parts = {}
                self._parts.update({link.index: link for link in links})
                if is_last:
                    self._take_over(self._parts)
            case InterfaceEvent(change=change, link=link, former_name=former_name):
                if change == InterfaceChange.REMOVED:
                    self.links.pop(link.index, None)
                else:
                    self.links[link.index] = link
                self.changes.append(InterfaceChanged(change, link, former_name))
            case _:
                pass  # the reply, and what later versions may send

    def _take_over(self, fresh: dict[int, Link]) -> None:
        """Replace the picture; unless it is the first one, the differences become changes."""
        before, self.links = self.links, dict(fresh)
        if self.is_complete:
            for index, link in before.items():
                if index not in fresh:
                    self.changes.append(InterfaceChanged(InterfaceChange.REMOVED, link))
            for index, link in fresh.items():
                old = before.get(index)
                if old is None:
                    self.changes.append(InterfaceChanged(InterfaceChange.ADDED, link))
                elif old.name != link.name:
                    self.changes.append(InterfaceChanged(InterfaceChange.RENAMED, link, old.name))
                elif old != link:
                    self.changes.append(InterfaceChanged(InterfaceChange.CHANGED, link))
        self.is_complete = True
