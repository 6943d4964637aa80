"""Filters of rules, compiled once each, for what the kernel delivers. Nothing of a client's has a part in it."""

import threading
from functools import partial

from capd.filters import bpf, cooked_filters
from capd.filters.compiler import CaptureFailed, Compiler, FilterError, Kind
from capd.launch import LaunchInterface
from capd.pacing.threads import in_thread
from capd_protocol.filter_words import says_vlan
from capd_protocol.messages import Failure, FailureCode


class PolicyFilters:
    """Compiles them, and keeps them: a configuration has few."""

    def __init__(self) -> None:
        self._programs: dict[tuple[str, int, bool], bytes] = {}
        self._compiling = threading.Lock()

    async def program(self, interface: LaunchInterface) -> bytes:
        """Return policy's filter of an interface, as an array of struct sock_filter; empty where it has none.

        Raises:
            CaptureFailed: it cannot be compiled for this interface.
            OSError: there is no thread to do so in.
        """
        if not interface.policy_filter:
            return b""
        key = interface.policy_filter, interface.default_dlt, interface.is_cooked
        if key not in self._programs:
            self._programs[key] = await in_thread(partial(self._compile, interface))
        return self._programs[key]

    def _compile(self, interface: LaunchInterface) -> bytes:
        compiler = Compiler()
        try:
            with self._compiling:
                if says_vlan(interface.policy_filter):
                    compiler.open_handle(Kind(interface.hardware_type, interface.default_dlt), interface.device)
                program = compiler.compile(interface.policy_filter, interface.default_dlt)
        except FilterError as error:
            raise _unusable(interface, str(error)) from error
        except CaptureFailed as error:
            if error.failure.code == FailureCode.INTERFACE_DOWN:  # the rule is as it should be
                raise
            raise _unusable(interface, str(error)) from error
        finally:
            compiler.close_handles()
        if not interface.is_cooked:
            return program
        cooked = cooked_filters.cook(program, interface.default_dlt)
        if cooked is None:
            raise _unusable(interface, "it looks at a part of the header that the kernel does not know")
        return cooked


def _unusable(interface: LaunchInterface, reason: str) -> CaptureFailed:
    name = interface.request.name
    text = f"policy's own filter does not compile on {name}: {reason}: report this to an administrator"
    return CaptureFailed(Failure(code=FailureCode.UNSUPPORTED, text=text, interface=name))


def joined(policys: bytes, users: bytes, *, loopback_index: int | None) -> bytes:
    """Return the program that takes what both take.

    Args:
        policys: policy's; empty: it takes all.
        users: the user's.
        loopback_index: leave out what goes out there: it comes in there too.
    """
    program = bpf.joined(policys, users) if policys else users
    return program if loopback_index is None else cooked_filters.without_looped_back(program, loopback_index)
