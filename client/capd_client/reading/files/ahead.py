"""An iterator that can be looked into before its first item is asked for."""

from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Ahead(Generic[T]):
    """Gives what another iterator gives; what comes first, or fails, may have been found earlier."""

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._first: list[T] = []
        self._error: Exception | None = None
        self._has_begun = False

    def look(self) -> None:
        """Find the first item, if none was asked for yet; what goes wrong is raised where it would have been."""
        if self._has_begun:
            return
        self._has_begun = True
        try:
            self._first = [next(self._items)]
        except StopIteration:
            pass
        except Exception as error:  # it is raised as it is, later
            self._error = error

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        self._has_begun = True
        if self._first:
            return self._first.pop()
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return next(self._items)
