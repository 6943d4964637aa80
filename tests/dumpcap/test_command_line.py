"""dumpcap's command line, taken apart."""

import pytest

from capd_client.dumpcap.capture import arguments_of
from capd_client.dumpcap.command_line import Action, CommandLine, InterfaceOptions, WrongUsage, parent_of, parse


def parsed(text: str) -> CommandLine:
    return parse(text.split())


def test_options_before_the_first_interface_are_the_defaults_of_all_and_those_behind_one_its_own() -> None:
    line = parsed("-s 60 -p -f arp -i a -s 70 -i b -f ip -y en10mb -B 4 -I")
    assert line.interfaces == [
        InterfaceOptions(name="a", snaplen_bytes=70, promiscuous=False, capture_filter="arp"),
        InterfaceOptions(
            name="b",
            snaplen_bytes=60,
            promiscuous=False,
            capture_filter="ip",
            link_type="EN10MB",
            buffer_size_mib=4,
            monitor_mode=True,
        ),
    ]


@pytest.mark.parametrize(
    "text",
    [
        *("-ia -c3 -wf -q", "-qi a -c 3 -w f", "--interface a -c 3 -w f -q"),
        *("--interface=a -c3 -w f -q", "--interf a -qc3 -wf"),
    ],
)
def test_letters_and_words_are_taken_as_getopt_does(text: str) -> None:
    line = parsed(text)
    assert ([each.name for each in line.interfaces], line.packets, line.savefile, line.quiet) == (["a"], 3, "f", True)


@pytest.mark.parametrize(
    ("text", "parent", "is_later"),
    [
        ("-i a", None, False),
        ("-i a -Z none", 2, False),
        ("-Znone -i a", 2, False),
        ("-i a -Z 7", 7, True),
        ("-i a -Z none -F pcapng", 2, True),
        ("--application-flavor wireshark -i a -Z none", 2, True),
        ("-i a -Z 0", 2, False),
    ],
)
def test_the_parent_and_its_version_show_in_how_it_calls(text: str, parent: int | None, is_later: bool) -> None:
    assert parent_of(text.split()) == parent
    line = parsed(text)
    assert (line.parent_fd, line.is_later) == (parent, is_later)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("-c x", 'The specified packet count "x" isn\'t a decimal number'),
        ("-c -1", 'The specified packet count "-1" is a negative number'),
        ("-c 0", "The specified packet count is zero"),
        ("-c 2147483648", "is too large (greater than 2147483647)"),
        ("-a filesize:4294967296", "is too large (greater than 4294967295)"),
        ("-a duration:x", 'The specified autostop duration "x" isn\'t a floating point number'),
        ("-a foo:1", 'Invalid or unknown -a flag "foo"'),
        ("-b foo:1", 'Invalid or unknown -b arg "foo"'),
        ("-b files", 'Invalid or unknown -b arg "files"'),
        ("-y NOPE", 'The specified data link type "NOPE" isn\'t valid'),
        ("--time-stamp-type sun", "Invalid argument to option: --time-stamp-type=sun"),
        ("--ifname x", "--ifname must be specified after a -i option"),
        ("-D -L", "Only one of -D, -L, -d, -k or -S may be supplied."),
        ("-D -b files:2", "Ring buffer requested, but a capture isn't being done."),
        ("-P --capture-comment x", "Capture comments can only be set if we capture into a single pcapng file."),
        ("-b interval:1 -b duration:1", "Ring buffer file duration and interval can't be used at the same time."),
        ("--compress-type lz4", "parameter of --compress-type can be 'none' or 'gzip'"),
        ("-i a --time-stamp-type adapter", "--time-stamp-type adapter is not supported by capd"),
        ("-k 1 -k 2", "Only one -k flag may be specified"),
        ("-F pdf", '"pdf" isn\'t a valid capture file type'),
    ],
)
def test_what_is_wrong_is_said_in_dumpcaps_words(text: str, words: str) -> None:
    with pytest.raises(WrongUsage) as raised:
        parsed(text)
    assert words in str(raised.value)
    assert (raised.value.status, raised.value.shows_usage) == (1, False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("-G", "unrecognized option: G"),
        ("--nope", "unrecognized option: nope"),
        ("--log=3", "unrecognized option: log"),
        ("-w", "option requires an argument: w"),
        ("--interface", "option requires an argument: interface"),
        ("--help=x", "option doesn't take an argument: help"),
        ("a b", "Invalid argument: b"),
    ],
)
def test_what_is_no_option_shows_the_usage(text: str, words: str) -> None:
    with pytest.raises(WrongUsage) as raised:
        parsed(text)
    assert (str(raised.value), raised.value.shows_usage) == (words, True)


def test_later_versions_do_several_things_at_once() -> None:
    assert parsed("-D -L --list-time-stamp-types -S -Z 3").actions == [
        *(Action.LIST_INTERFACES, Action.LIST_LINK_TYPES, Action.LIST_TIMESTAMP_TYPES, Action.STATISTICS)
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("-i a -c 5 -a packets:4", {"max_packet_count": 4}),
        ("-i a -a filesize:9", {"autostop_filesize": 9}),
        ("-i a -a filesize:3000000000", {"autostop_filesize": 2_000_000_000}),
        ("-i a -a duration:0", {"autostop_duration": 0.001}),
        ("-i a -a duration:1.5", {"autostop_duration": 1.5}),
        ("-i a -w f -b filesize:9 -a files:3", {"ringbuffer_filesize": 9, "autostop_files": 3}),
        ("-i a -w f -b packets:9 -b files:3", {"ringbuffer_packets": 9, "ringbuffer_files": 3}),
        ("-i a -w f -b interval:60", {"ringbuffer_interval": 60}),
        ("-i a -w f -P -g", {"use_libpcap": True, "group_access": True}),
        ("-i a -w f -P -n", {"use_libpcap": False}),
        ("-i a -i b -w f -P", {"use_libpcap": False}),
        ("-i a --capture-comment x --capture-comment y", {"comments": ["x", "y"]}),
        ("-i a --update-interval 20", {"update_interval": 0.02}),
    ],
)
def test_the_same_capture_is_asked_for(text: str, expected: dict[str, object]) -> None:
    line = parsed(text)
    arguments = arguments_of(line, line.interfaces)
    assert {name: value for name, value in arguments.items() if name in expected} == expected


def test_a_ring_without_a_condition_has_one_file() -> None:
    line = parsed("-i a -w f -b files:3")
    assert arguments_of(line, line.interfaces)["ringbuffer_duration"] == 315_360_000
