"""The public API: what is in it can be named, is documented, has a signature and a repr; aio is its counterpart."""

import inspect
import re
import subprocess
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import pytest

import capd_client
from capd_client import aio, events, stream
from capd_client.request.options import CaptureArguments
from capd_protocol.messages import Ended

MODULES = (capd_client, aio, events)
#: Public names, by what they are called in a program.
EXPORTED: dict[str, Any] = {
    f"{module.__name__.removeprefix('capd_client.')}.{name}": getattr(module, name)
    for module in MODULES
    for name in module.__all__
}
#: Aliases are classes of their own name only.
CLASSES: dict[str, Any] = {
    name: each for name, each in EXPORTED.items() if isinstance(each, type) and name.endswith(f".{each.__name__}")
}
PUBLIC = {each for each in EXPORTED.values() if isinstance(each, type)}
#: Made by the library alone: what their constructors take concerns nobody.
MADE_BY_FUNCTIONS = {
    "Reader",
    "Stream",
    "ColumnReader",
    "Columns",
    "Dissection",
    "Field",
    "FieldExpression",
    "FieldFrame",
    "FieldType",
    "FilterExpression",
    "Frame",
    "Item",
    "Part",
    "WholeFrame",
}
TIME_NS = 1_700_000_000_123_456_789


def is_protocol(each: type) -> bool:
    return bool(getattr(each, "_is_protocol", False)) or typing.is_typeddict(each)


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the public functions and properties of a class that are this library's, without wrappers."""
    seen: set[str] = set()
    for base in cls.__mro__:
        for name, each in vars(base).items():
            if not base.__module__.startswith("capd_") or name in seen:
                continue
            seen.add(name)
            is_shown = not name.startswith("_") or (
                name == "__init__" and not is_protocol(cls) and cls.__name__ not in MADE_BY_FUNCTIONS
            )
            function = each.__func__ if isinstance(each, classmethod | staticmethod) else each
            if isinstance(function, cached_property):
                function = function.func
            elif isinstance(function, property):
                function = function.fget
            if is_shown and isinstance(function, types.FunctionType):
                # What a dataclass or NamedTuple has made is not written by anybody.
                yield name, function if function.__code__.co_filename != "<string>" else None


def functions() -> dict[str, Callable[..., Any]]:
    """Return all public functions and methods, also those behind properties."""
    found: dict[str, Callable[..., Any]] = {
        name: each for name, each in EXPORTED.items() if isinstance(each, types.FunctionType)
    }
    for name, cls in CLASSES.items():
        found |= {f"{name}.{member}": each for member, each in members(cls) if each is not None}
    return found


FUNCTIONS = functions()


def names_in_scope() -> dict[str, Any]:
    """Return what annotations in quotes may name, besides what is in their module."""
    return {name: getattr(module, name) for module in (aio, capd_client) for name in module.__all__}


def types_in(annotation: Any) -> Iterator[type]:
    """Yield the classes in an annotation, those within others too."""
    origin = typing.get_origin(annotation)
    if isinstance(annotation, type) and origin is None:
        yield annotation
    elif origin is not None:
        yield from types_in(origin)
    for each in typing.get_args(annotation):
        for one in each if isinstance(each, list) else [each]:
            yield from types_in(one)


def hints_of(each: Any) -> Mapping[str, Any]:
    return typing.get_type_hints(inspect.unwrap(each), localns=names_in_scope())


def unnamed(each: Any) -> set[type]:
    """Return the library's classes that one cannot import from where its public names are."""
    return {
        found
        for annotation in hints_of(each).values()
        for found in types_in(annotation)
        if found.__module__.startswith("capd_") and found not in PUBLIC
    }


# Each of these looks at all functions or classes, and names those with a fault: one test for each would be a thousand,
# which take longer to be counted than to be run.


def test_what_functions_take_and_return_can_be_named() -> None:
    assert {name: found for name, each in FUNCTIONS.items() if (found := unnamed(each))} == {}


def unnamed_attributes(cls: Any) -> set[type]:
    hints = typing.get_type_hints(cls, localns=names_in_scope())
    shown = [annotation for attribute, annotation in hints.items() if not attribute.startswith("_")]
    found = {each for annotation in shown for each in types_in(annotation)}
    return {each for each in found if each.__module__.startswith("capd_")} - PUBLIC


def test_what_attributes_are_can_be_named() -> None:
    assert {name: found for name, cls in CLASSES.items() if (found := unnamed_attributes(cls))} == {}


def test_exceptions_can_be_named() -> None:
    from capd_client import errors  # noqa: PLC0415  # its names would be taken for the API's

    raised = {each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, Exception)}
    assert raised <= PUBLIC


def test_every_name_is_there_once() -> None:
    for module in MODULES:
        assert len(set(module.__all__)) == len(module.__all__)
        assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match="Nothing"):
        _ = capd_client.Nothing  # type: ignore[attr-defined]


def is_named_and_typed(parameter: inspect.Parameter) -> bool:
    # Columns are of as many fields as are named; arguments that several functions have are typed in one place.
    is_named = (parameter.kind is not parameter.VAR_POSITIONAL or parameter.name == "names") and (
        parameter.kind is not parameter.VAR_KEYWORD or typing.get_origin(parameter.annotation) is typing.Unpack
    )
    return is_named and parameter.annotation is not parameter.empty


def test_signatures_name_all_parameters_with_their_types() -> None:
    assert FUNCTIONS
    parameters = {
        f"{name}({parameter})": parameter
        for name, each in FUNCTIONS.items()
        for parameter in inspect.signature(each).parameters.values()
        if parameter.name not in ("self", "cls")
    }
    assert [name for name, each in parameters.items() if not is_named_and_typed(each)] == []


@pytest.mark.parametrize("session", [capd_client.CaptureSession, aio.CaptureSession])
def test_the_signature_of_a_session_has_every_argument(session: Callable[..., object]) -> None:
    found = inspect.signature(session).parameters
    assert list(found) == ["socket_path", "program", "events", *CaptureArguments.__annotations__]
    assert all(each.kind is each.KEYWORD_ONLY and each.default is not each.empty for each in found.values())


def test_reprs_are_not_pythons_own() -> None:
    assert CLASSES
    own = [name for name, each in CLASSES.items() if each.__repr__ is object.__repr__]
    assert [name for name in own if not is_protocol(CLASSES[name])] == []


#: Objects, and what identifies them.
SHOWN: list[tuple[object, str]] = [
    (
        capd_client.Packet(TIME_NS, "eth0", 0, 100, memoryview(bytes(60))),
        "<Packet 2023-11-14T22:13:20.123456789Z eth0, 60 of 100 bytes>",
    ),
    (
        capd_client.Packet(TIME_NS, None, 3, 60, memoryview(bytes(60))),
        "<Packet 2023-11-14T22:13:20.123456789Z 3, 60 of 60 bytes>",
    ),
    (aio.CaptureSession(interfaces=["eth0"]), "<CaptureSession on [], not started, 0 packets>"),
    (aio.LiveInterfaceStats(), "<LiveInterfaceStats of 0 interfaces, 0 ticks>"),
    (aio.InterfaceWatcher(), "<InterfaceWatcher of 0 interfaces>"),
    (capd_client.Interface("eth0"), "<Interface eth0>"),
    (
        capd_client.RingFile("a.pcapng", 12_345, is_complete=True, packets=10),
        "<RingFile 'a.pcapng', 12,345 bytes, 10 packets>",
    ),
    (capd_client.RingFile("a.pcapng", 1, is_complete=False), "<RingFile 'a.pcapng', 1 bytes, being written>"),
    (capd_client.Gap(3, "deleted"), "Gap(packets=3, reason='deleted')"),
    (
        Ended(reason=capd_client.EndReason.STOPPED, interfaces=()),
        "Ended(reason=<EndReason.STOPPED: 'stopped'>, interfaces=())",
    ),
    (
        capd_client.Link(index=1, name="eth0", loopback=False, is_up=True, state="up", mtu=1500, hardware_type=1),
        "Link(index=1, name='eth0', loopback=False, is_up=True, state='up', mtu=1500, hardware_type=1)",
    ),
]


@pytest.mark.parametrize(("shown", "text"), SHOWN, ids=[type(each).__name__ for each, _ in SHOWN])
def test_reprs_show_what_it_is(shown: object, text: str) -> None:
    assert repr(shown) == text


def batch_of(times_ns: list[int]) -> capd_client.Batch:
    zeros = np.zeros(len(times_ns), np.uint32)
    offsets = np.zeros(len(times_ns), np.int64)
    return capd_client.Batch(np.array(times_ns, np.int64), zeros, zeros, zeros, offsets, np.zeros(0, np.uint8))


def test_a_batch_shows_how_many_packets_it_has_and_of_when() -> None:
    span = "2023-11-14T22:13:20.123456789Z to 2023-11-14T22:13:20.123456790Z"
    assert repr(batch_of([TIME_NS, TIME_NS + 1])) == f"<Batch of 2 packets, {span}>"
    assert repr(batch_of([])) == "<Batch of 0 packets>"


def test_times_of_a_batch_are_datetimes_of_numpy() -> None:
    assert batch_of([TIME_NS]).timestamps.tolist() == [TIME_NS]  # datetime64[ns] as numbers
    assert batch_of([TIME_NS]).timestamps[0] == np.datetime64("2023-11-14T22:13:20.123456789")


def fields(cls: Any) -> list[str]:
    """Return the attributes that a class is declared with, and its properties."""
    declared = [name for base in cls.__mro__ for name in vars(base).get("__annotations__", {})]
    return [name for name in declared if not name.startswith("_")]


#: Of no moment: how long something takes, or how late it is.
DURATIONS = {"duration_ns", "median_ns", "p99_ns", "max_ns"}
TIMED = {
    name: [
        each
        for each in (*fields(cls), *(member for member, _ in members(cls)))
        if each.endswith("_ns") and each not in DURATIONS
    ]
    for name, cls in CLASSES.items()
}


@pytest.mark.parametrize("name", [name for name, found in TIMED.items() if found])
def test_nanoseconds_have_a_datetime_beside_them(name: str) -> None:
    for attribute in TIMED[name]:
        beside = vars(CLASSES[name])[attribute.removesuffix("_ns")]
        assert isinstance(beside, property)
        # Each is made from its own nanoseconds.
        other = types.SimpleNamespace(**{attribute: TIME_NS})
        if attribute == "timestamps_ns":
            continue  # as numpy has them; see above
        assert beside.fget is not None
        found = beside.fget(other)
        assert found == datetime(2023, 11, 14, 22, 13, 20, 123456, tzinfo=UTC)
        assert found.utcoffset() == timedelta(0)
        assert "microseconds" in (beside.__doc__ or "")


def test_times_are_found() -> None:
    assert sum(map(len, TIMED.values())) > 10


# Documentation ----------------------------------------------------------------------------------------------------


def section(docstring: str, title: str) -> set[str]:
    """Return what a section of a docstring in Google's style names."""
    found = re.search(rf"^{title}:\n((?:^[ \t]+.*\n|^\n)*)", inspect.cleandoc(docstring) + "\n", re.MULTILINE)
    return set(re.findall(r"^ {4}\*{0,2}(\w+):", found[1], re.MULTILINE)) if found else set()


def test_functions_say_what_they_promise() -> None:
    silent = [name for name, each in FUNCTIONS.items() if not (each.__doc__ or "").strip()]
    assert [name for name in silent if not name.endswith(".__init__")] == []


def test_parameters_are_documented() -> None:
    assert {name: found for name in FUNCTIONS if (found := undocumented_parameters(name))} == {}


def undocumented_parameters(name: str) -> set[str]:
    function = FUNCTIONS[name]
    class_name = name.rpartition(".")[0]
    text = function.__doc__ or ""
    if name.endswith(".__init__"):
        text += "\n" + (CLASSES[class_name].__doc__ or "")
        if issubclass(CLASSES[class_name], Exception):
            return set()  # raised by the library; its attributes are documented
    named = section(function.__doc__ or "", "Args") | section(text, "Attributes")
    if name.endswith("Interface.__init__"):
        named |= section(CLASSES[class_name].__doc__ or "", "Attributes")
    code = function.__code__
    parameters = {*code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]} - {"self", "cls"}
    return parameters - named


def test_attributes_are_documented() -> None:
    assert [name for name, cls in CLASSES.items() if not cls.__doc__] == []
    assert {name: found for name, cls in CLASSES.items() if (found := undocumented_attributes(cls))} == {}


def undocumented_attributes(cls: Any) -> set[str]:
    own = set(fields(cls)) if not isinstance(cls, type) or not issubclass(cls, BaseException) else set()
    documented = {each for base in cls.__mro__ for each in section(vars(base).get("__doc__") or "", "Attributes")}
    return own - documented


# Blocking and asynchronous -------------------------------------------------------------------------------------

#: What the asynchronous side lacks, and why.
ONLY_BLOCKING = {
    "read": "files are read from the disk, which no event loop waits for; a capture's packets come from aio.stream",
    "write": "as read: to a disk",
    "merge": "as read: from and to a disk",
    "split": "as read: from and to a disk",
    "iter_file_types": "a list, as long as a program takes to print it",
    "iter_encapsulation_types": "a list",
    "files": "it reads an index from the disk, and waits for nothing",
    "PacketLoop": "a loop that waits for its handler is an async for over aio.stream",
    "sniff": "as PacketLoop",
    "CaptureSession.fileno": "the event loop waits",
    "CaptureSession.abandon": "cancelling the block leaves at once",
    "Stream.fileno": "as CaptureSession.fileno",
    "Dissection.close": "aclose",
    **dict.fromkeys(("CaptureSession.__iter__", "Stream.__iter__"), "__aiter__"),
}
#: What the blocking side lacks, and why.
ONLY_AIO = {"Stream.wait": "its descriptor is waited for", "Dissection.aclose": "close"}
#: The parameters that the asynchronous side lacks, and why.
ONLY_BLOCKING_PARAMETERS = {
    ("CaptureSession.wait", "timeout"): "anyio.fail_after",
}


def of_aio(name: str) -> Any:
    return EXPORTED.get(f"aio.{name}")


def waiting() -> list[str]:
    """Return the public functions and classes of the blocking side that talk to the daemon."""
    found = []
    for name in capd_client.__all__:
        each = EXPORTED[f"capd_client.{name}"]
        is_class = isinstance(each, type)
        waits = isinstance(each, types.FunctionType) or (is_class and hasattr(each, "__enter__"))
        if waits and name != "Reader":
            found.append(name)
    return found


@pytest.mark.parametrize("name", waiting())
def test_what_waits_is_in_aio_too(name: str) -> None:
    blocking, other = EXPORTED[f"capd_client.{name}"], of_aio(name)
    if name in ONLY_BLOCKING:
        assert other is None, "there is no exception any more"
        return
    assert other is not None
    pairs = [(name, blocking, other)]
    if isinstance(blocking, type):
        others = dict(members(other))
        mine = dict(members(blocking))
        assert {each for each in mine.keys() - others.keys() if f"{name}.{each}" not in ONLY_BLOCKING} == set()
        assert {each for each in others.keys() - mine.keys() if f"{name}.{each}" not in ONLY_AIO} == set()
        pairs = [(f"{name}.{each}", mine[each], others[each]) for each in mine.keys() & others.keys()]
    for path, one, two in pairs:
        first, second = (dict(inspect.signature(each).parameters) for each in (one, two))
        for parameter in list(first):
            if (path, parameter) in ONLY_BLOCKING_PARAMETERS:
                del first[parameter]
        described = [
            [(each.name, each.kind, each.default) for each in parameters.values()] for parameters in (first, second)
        ]
        assert described[0] == described[1], path


def test_streams_are_typed_by_their_arguments() -> None:
    """See also tests/documentation/test_samples.py, where the type checkers look at it."""
    assert len(typing.get_overloads(stream)) == 3
    assert len(typing.get_overloads(aio.stream)) == 3


def test_what_is_named_is_imported_where_it_is_used_first() -> None:
    code = "import sys, capd_client; print(sorted(each for each in sys.modules if each.startswith('capd_')))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['capd_client']\n"
    assert set(dir(capd_client)) >= set(capd_client.__all__)
