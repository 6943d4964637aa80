"""What dumpcap does instead of capturing: lists, link-layer types, statistics, the program of a filter."""

import json
import sys

from capd_client.blocking.questions import get_capabilities
from capd_client.blocking.statistics import LiveInterfaceStats
from capd_client.dumpcap.command_line import Action, CommandLine, InterfaceOptions, WrongUsage
from capd_client.dumpcap.filter_listing import NoSuchFilter, lines_of
from capd_client.dumpcap.interfaces import as_objects, chosen, for_people, for_programs, listed
from capd_client.dumpcap.speech import Speech
from capd_client.errors import CaptureError, ChildError
from capd_protocol.messages import Capabilities, FailureCode

EXIT_DONE, EXIT_FAILED, EXIT_NO_CAPABILITIES = 0, 1, 2
#: Between two lines of ``-S``.
_PERIOD_S = 1.0


def run(line: CommandLine, speech: Speech) -> int:
    """Do what is asked for; return the exit status."""
    match line.actions[0]:
        case Action.LIST_INTERFACES:
            return _list(line, speech)
        case Action.LIST_LINK_TYPES | Action.LIST_TIMESTAMP_TYPES:
            return _show_capabilities(line, speech)
        case Action.STATISTICS:
            return _show_statistics(line, speech)
        case Action.PRINT_FILTER:
            return _print_filters(line, speech)
        case _:
            if len(line.interfaces) != 1:
                raise WrongUsage("Need one interface", status=EXIT_NO_CAPABILITIES)
            text = "-k is not supported: 'capctl capture --wifi-channel' tunes a wireless interface while it captures"
            raise WrongUsage(text, status=EXIT_NO_CAPABILITIES)


def _write(*lines: str) -> None:
    sys.stdout.write("".join(f"{each}\n" for each in lines))
    sys.stdout.flush()


def _list(line: CommandLine, speech: Speech) -> int:
    try:
        known = listed()
    except CaptureError as error:
        speech.complaint(f"Can't get list of interfaces: {error}")
        return EXIT_NO_CAPABILITIES
    speech.success()
    if line.is_later and line.is_machine_readable:
        _write(json.dumps(as_objects(known), indent=2))
    else:
        _write(*(for_programs(known) if line.is_machine_readable else for_people(known)))
    return EXIT_DONE


# What interfaces can do -----------------------------------------------------------------------------------------------


def _show_capabilities(line: CommandLine, speech: Speech) -> int:
    if line.is_later and line.is_machine_readable:
        return _show_objects(line, speech)
    for options in chosen(line):
        try:
            found = get_capabilities(options.name, options.monitor_mode)
        except CaptureError as error:
            text = _not_obtained(options.name, error)
            speech.complaint(text if line.parent_fd is not None else f"{text}.")
            return EXIT_NO_CAPABILITIES
        lines = _rows(found, line) if line.is_machine_readable else _sentences(options.name, found, line)
        _write(*lines)
        speech.success()
    return EXIT_DONE


def _not_obtained(name: str, error: CaptureError) -> str:
    failure = error.failure if isinstance(error, ChildError) else None
    is_missing = failure is not None and failure.code == FailureCode.NO_SUCH_INTERFACE
    reason = "pcap_activate() failed: No such device exists" if is_missing else str(error)
    return f'The capabilities of the capture device "{name}" could not be obtained ({reason})'


def _rows(found: Capabilities, line: CommandLine) -> list[str]:
    lines: list[str] = []
    if Action.LIST_LINK_TYPES in line.actions:
        lines.append("1" if found.can_rfmon else "0")
        lines += [f"{each.dlt}\t{each.name}\t{each.description}" for each in found.link_layers]
    lines.append("")
    if Action.LIST_TIMESTAMP_TYPES in line.actions:
        lines += [f"{each.name}\t{each.description}" for each in found.timestamp_types]
    return lines


def _sentences(name: str, found: Capabilities, line: CommandLine) -> list[str]:
    lines: list[str] = []
    if Action.LIST_LINK_TYPES in line.actions:
        mode = " when in monitor mode" if found.can_rfmon and line.default.monitor_mode else ""
        lines.append(f"Data link types of interface {name}{mode} (use option -y to set):")
        lines += [f"  {each.name} ({each.description})" for each in found.link_layers]
    if Action.LIST_TIMESTAMP_TYPES in line.actions:
        if found.timestamp_types:
            lines.append("Timestamp types of the interface (use option --time-stamp-type to set):")
            lines += [f"  {each.name} ({each.description})" for each in found.timestamp_types]
        else:
            lines.append("No timestamp types for interface")
    return lines


def _show_objects(line: CommandLine, speech: Speech) -> int:
    """Show the capabilities as later versions have them, each interface's beside the others' failures."""
    _write(json.dumps([{each.name: _object(each, line)} for each in chosen(line)], indent=2))
    speech.success()
    return EXIT_DONE


#: dumpcap's numbers of why an interface cannot be looked at (capture/capture-pcap-util.h).
_STATUSES = {
    FailureCode.NO_SUCH_INTERFACE: 1,
    FailureCode.UNSUPPORTED: 2,
    FailureCode.NOT_PERMITTED: 3,
    FailureCode.INTERFACE_DOWN: 4,
}
_OTHER_STATUS = 6


def _object(options: InterfaceOptions, line: CommandLine) -> dict[str, object]:
    try:
        found = get_capabilities(options.name, options.monitor_mode)
    except CaptureError as error:
        failure = error.failure if isinstance(error, ChildError) else None
        status = _OTHER_STATUS if failure is None else _STATUSES.get(failure.code, _OTHER_STATUS)
        return {"status": status, "primary_msg": str(error)}
    shown: dict[str, object] = {"status": 0, "rfmon": found.can_rfmon}
    if Action.LIST_LINK_TYPES in line.actions:
        shown["data_link_types"] = [
            {"dlt": each.dlt, "name": each.name, "description": each.description} for each in found.link_layers
        ]
    if Action.LIST_TIMESTAMP_TYPES in line.actions:
        shown["timestamp_types"] = [
            {"name": each.name, "description": each.description} for each in found.timestamp_types
        ]
    return shown


# Statistics -----------------------------------------------------------------------------------------------------------


def _show_statistics(line: CommandLine, speech: Speech) -> int:
    """Show what each interface has received and lost, each second, until somebody ends it."""
    speech.success()
    if not line.is_machine_readable:
        _write(f"{'Interface':<15}  {'Received':>10}  {'Dropped':>10}")
    with LiveInterfaceStats(interval=_PERIOD_S) as statistics:
        for counts in statistics:
            _write(*(_statistics_row(name, received, dropped, line) for name, (received, dropped) in counts))
    return EXIT_DONE


def _statistics_row(name: str, received: int, dropped: int, line: CommandLine) -> str:
    if line.is_machine_readable:
        return f"{name}\t{received}\t{dropped}"
    return f"{name:<15}  {received:>10}  {dropped:>10}"


# Filters --------------------------------------------------------------------------------------------------------------


def _print_filters(line: CommandLine, speech: Speech) -> int:
    """Print the program of each interface's filter. One that is none is said, and changes no status, as in dumpcap."""
    interfaces = chosen(line)
    if line.parent_fd is None:
        speech.beginning([each.name for each in interfaces])
    for index, options in enumerate(interfaces):
        try:
            found = get_capabilities(options.name, options.monitor_mode)
        except CaptureError as error:
            speech.complaint(f"{_not_obtained(options.name, error)}.")
            return EXIT_FAILED
        wanted = next((each for each in found.link_layers if each.name == options.link_type), found.link_layers[0])
        try:
            _write(*lines_of(options.capture_filter, wanted.dlt, optimizes=options.optimizes))
        except NoSuchFilter as error:
            speech.bad_filter(index, options.name, options.capture_filter, str(error))
            return EXIT_DONE
    speech.success()
    return EXIT_DONE
