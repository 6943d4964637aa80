"""Capture modules as streams: a module's own process is started for a capture, and ended with it."""

import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NoReturn

import msgspec

from capd_client.errors import InvalidArgument, error_for
from capd_client.modules.asked import CAPTURE, DESCRIBE, LIST, Answer
from capd_client.modules.contract import FAILURES, Device, Options
from capd_client.modules.registry import all_entries
from capd_client.sources.guarded import EndedProgram, NotOpenedError, Program, start
from capd_client.sources.opened import OpenedStream
from capd_client.sources.programs import ask
from capd_protocol.formats.linktypes import by_name, from_dlt, linktype_to_dlt
from capd_protocol.messages import MAX_SNAPLEN_BYTES, Capabilities, Failure, FailureCode, InterfaceRequest
from capd_protocol.messages.interfaces import InterfaceInfo, InterfaceType, LinkLayer
from capd_protocol.text import quoted

#: How long a module may take to activate a device. Chosen: as long as an extcap program has for the same.
_OPEN_S = 10.0
_MIB = 1024 * 1024
_CODES = {each.status: each.code for each in FAILURES}


def open_module(name: str, options: Mapping[str, Any] | None = None) -> OpenedStream:
    """Start a module for a device, and return where its packets are read.

    Args:
        name: of the device.
        options: arguments of the capture, as in ``CaptureInterface``; None: none.

    Raises:
        InterfaceError: there is no such device.
        NotPermitted: the user lacks a right for it.
        UnsupportedError: it cannot do what was asked for.
        InvalidArgument: its name, or an option, is not possible.
        ChildError: it cannot be captured from for another reason.
    """
    asked = msgspec.json.encode(device_request(name, options or {})).decode()
    command = _command(CAPTURE, asked)
    program = Program(
        shown=f"the module of {quoted(name)}",
        command=command,
        fifo_at=len(command) - 1,
        open_s=_OPEN_S,
        explain=_explained,
    )
    try:
        return start(program)
    except NotOpenedError as error:
        code = _CODES.get(error.ended.status or 0, FailureCode.NO_SUCH_INTERFACE)
        _refuse(name, code, _explained(error.ended))


def _command(*words: str) -> list[str]:
    # -P: nothing is imported from the working directory.
    return [sys.executable, "-P", "-m", "capd_client.modules", *words]


def _explained(ended: EndedProgram) -> str:
    """Return the module's own sentence, if it has ended with one."""
    return ended.complaint if ended.status in _CODES and ended.complaint else ended.text


def _refuse(name: str, code: FailureCode, text: str) -> NoReturn:
    raise error_for(Failure(code=code, text=text, interface=name, argument="interfaces"))


def device_request(name: str, given: Mapping[str, Any]) -> InterfaceRequest:
    """Return what is asked of a module.

    Args:
        name: of the device.
        given: arguments of the capture, as in ``CaptureInterface``.

    Raises:
        InvalidArgument: there is no such link-layer type.
    """
    size_mib, linktype = given.get("kernel_buffer_size"), given.get("link_layer_type")
    if linktype is not None and by_name(linktype) is None:
        text = f"there is no link-layer type {linktype!r:.80}: 'capctl linktypes' shows which a device has"
        raise InvalidArgument(text, argument="link_layer_type")
    return InterfaceRequest(
        name=name,
        is_stream=True,
        capture_filter=given.get("capture_filter") or "",
        snaplen_bytes=given.get("snaplen") or MAX_SNAPLEN_BYTES,
        promiscuous=given.get("promiscuous"),
        monitor_mode=bool(given.get("monitor_mode")),
        link_layer_type=linktype,
        kernel_buffer_size_bytes=None if size_mib is None else size_mib * _MIB,
        direction=given.get("direction") or "inout",
    )


def with_devices(infos: Sequence[InterfaceInfo], by_rule: Sequence[str] = ()) -> tuple[InterfaceInfo, ...]:
    """Return interfaces, and the devices of all modules, in the place of an interface where they have its name.

    A module that is broken, or does not answer in time, has none.

    Args:
        infos: interfaces.
        by_rule: patterns of devices that a daemon opens for this user.
    """
    answers = ask([_command(LIST, each.prefix) for each in all_entries()])
    devices = {each.name: _info(each, by_rule) for answer in answers for each in _decoded(answer).devices}
    kept = [each for each in infos if each.link is not None or each.name not in devices]
    numbers = {each.name: each.number for each in infos}
    numbered = [msgspec.structs.replace(each, number=numbers.get(name, 0)) for name, each in devices.items()]
    return (*kept, *numbered)


def _info(device: Device, by_rule: Sequence[str]) -> InterfaceInfo:
    # A rule may allow a part of what is one device to its module, such as a group of netfilter's log.
    is_by_rule = any(fnmatchcase(device.name, each) or each.startswith(f"{device.name}:") for each in by_rule)
    missing = None if is_by_rule else device.missing_right
    return InterfaceInfo(
        name=device.name,
        number=0,
        description=device.description,
        interface_type=InterfaceType.MODULE,
        may_capture=missing is None,
        needs=missing,
    )


def module_capabilities(name: str, monitor_mode: bool) -> Capabilities:
    """Return the link-layer types of a device.

    Raises:
        InterfaceError: there is no such device, or its module does not answer.
        UnsupportedError: it has no monitor mode.
        NotPermitted: the user lacks the right that it takes to know.
        ChildError: it is not known for another reason.
    """
    options = msgspec.json.encode(Options(monitor_mode=monitor_mode)).decode()
    (data,) = ask([_command(DESCRIBE, name, options)])
    answer = _decoded(data)
    if answer.code is not None:
        _refuse(name, answer.code, answer.text)
    return Capabilities(
        can_rfmon=answer.has_monitor_mode,
        link_layers=_layers(answer.linktypes),
        timestamp_types=(),
    )


def _layers(linktypes: Sequence[int]) -> tuple[LinkLayer, ...]:
    found = [from_dlt(linktype_to_dlt(each)) for each in linktypes]
    return tuple(LinkLayer(dlt=each.dlt, name=each.name, description=each.description) for each in found)


def _decoded(data: bytes | None) -> Answer:
    try:
        return msgspec.json.decode(data or b"", type=Answer)
    except msgspec.DecodeError:
        return Answer(code=FailureCode.NO_SUCH_INTERFACE, text="its module has not answered")
