"""Confines a worker: its files by Landlock, its system calls by seccomp, each thread for itself.

Where the kernel has no Landlock, files may be opened wherever the user may. On architectures without lists, all system
calls are let through. Anything else that fails ends the worker.
"""

import os
from collections.abc import Mapping

from capd.worker.confinement import landlock, seccomp
from capd.worker.confinement.call_filter import CallFilter
from capd.worker.confinement.lists import LISTS, PROCESS, READABLE, Role


class Confinement:
    """What workers are held to, put together once for all of them."""

    def __init__(self, *, is_strict: bool) -> None:
        """Put it together, in the process that workers are forked from.

        Args:
            is_strict: whether a worker ends at a call that is refused, and says so on standard error.
        """
        architecture = seccomp.architecture()
        self._filters: dict[Role, CallFilter] = {}
        if architecture is not None:
            self._filters = {
                role: CallFilter(rules, architecture, is_strict=is_strict) for role, rules in LISTS.items()
            }
            if is_strict:
                seccomp.end_at_refused_calls()

    def confine_files(self, directory_fd: int) -> None:
        """Let this thread, and those that it starts, open files in the capture's directory only.

        Raises:
            OSError: the restriction is not in force.
        """
        landlock.restrict(directory_fd, READABLE)

    def confine_all_files(self) -> None:
        """Let this thread, and those that it starts, open nothing.

        Raises:
            OSError: the restriction is not in force.
        """
        landlock.restrict(None, ())

    def confine_calls(self, role: Role, descriptors: Mapping[str, int]) -> None:
        """Hold this thread to the list of its role, and to those that it is held to already.

        Args:
            role: what it is for.
            descriptors: those that the list calls by names, as far as there are any.

        Raises:
            OSError: the list is not in force.
        """
        if self._filters:
            seccomp.install(self._filters[role].filled_in({**descriptors, PROCESS: os.getpid()}))
