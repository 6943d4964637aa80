"""Deferred keyboard interrupts: a Ctrl-C that waits until what is being received has been received whole."""

import signal
import threading


class Uninterrupted:
    """A block that no Ctrl-C interrupts: ``KeyboardInterrupt`` is raised at its end.

    It does nothing in other threads than the main one, where Python raises none, and nothing where the program handles
    SIGINT by itself.
    """

    def __init__(self) -> None:
        self._is_deferring = False
        self._is_noted = False

    def __enter__(self) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        self._is_deferring = is_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler
        if self._is_deferring:
            signal.signal(signal.SIGINT, self._note)

    def _note(self, *_: object) -> None:
        self._is_noted = True

    def __exit__(self, *exc_info: object) -> None:
        if self._is_deferring:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        is_noted, self._is_noted = self._is_noted, False
        if is_noted:
            raise KeyboardInterrupt
