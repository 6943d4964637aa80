"""The configuration: what it says, and that everything that is wrong with it is told at once, with its place."""

import os
from pathlib import Path

import pytest

from capd import config
from capd.check_config import main as check_config
from capd.policy import Policy, Rule
from capd.toml_lines import line_of
from capd_protocol.messages import Conditions

WHOLE = """\
contact = "netops, room 7"

[[rule]]
name = "root's own"
users = ["root", 1234]
groups = ["root", 77]

[[rule]]
name = "dns"
everybody = true
interfaces = ["eth*", "veth0"]
filter = "udp port 53"
max_snaplen_bytes = 128
promiscuous = false
monitor_mode = true
max_captures = 2
max_disk_bytes = 2_000_000_000
max_duration_s = 60

[captures.dns]
interfaces = ["eth0", "veth*"]
group = "root"
capture_filter = "udp port 53"
ringbuffer_filesize = 1000
ringbuffer_files = 5
ringbuffer_interval = 3600
ringbuffer_total_filesize = 4_000
ringbuffer_age = 86_400
ringbuffer_free_space = 1_000_000
"""


def load(tmp_path: Path, text: str) -> config.Config:
    path = tmp_path / "capd.toml"
    path.write_text(text)
    return config.load(path)


def faults(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(config.ConfigError) as raised:
        load(tmp_path, text)
    prefix = f"{tmp_path}/capd.toml"
    assert all(fault.startswith(prefix) for fault in raised.value.faults)
    return [fault.removeprefix(prefix) for fault in raised.value.faults]


def test_everything_is_read(tmp_path: Path) -> None:
    read = load(tmp_path, WHOLE)
    assert read.policy.advice == "ask netops, room 7"
    own, dns = read.policy.rules
    assert own == Rule(name="root's own", user_ids=frozenset({0, 1234}), group_ids=frozenset({0, 77}))
    assert dns == Rule(
        name="dns",
        everybody=True,
        interfaces=("eth*", "veth0"),
        filter="udp port 53",
        max_snaplen_bytes=128,
        promiscuous=False,
        monitor_mode=True,
        max_captures=2,
        max_disk_bytes=2_000_000_000,
        max_duration_s=60.0,
    )
    (capture,) = read.captures
    assert (capture.name, capture.group_id) == ("dns", 0)
    assert [each.name for each in capture.request.interfaces] == ["eth0", "veth*"]
    assert capture.request.ring == Conditions(
        filesize_kb=1000, files=5, interval_s=3600, total_kb=4000, age_s=86_400, free_kb=1_000_000
    )
    assert capture.request.wait_for_interfaces
    assert capture.request.destination.file_name == "dns.pcapng"
    assert capture.request.destination.group_access
    assert read.warnings == ()


def test_an_empty_one_lets_only_root_capture(tmp_path: Path) -> None:
    assert load(tmp_path, "") == config.Config(Policy())


def test_all_faults_are_told_at_once_in_order_with_line_and_key(tmp_path: Path) -> None:
    text = """\
contact = 5
contakt = "x"

[[rule]]
name = "a"
interfaces = [
  "eth0",
  "not/one",
]
filter = \"\"\"
[[rule]]
name = "ä"
\"\"\"
max_snaplen_bytes = "12"

[[rule]]
name = "a"
everybody = true
max_capture = 3
max_disk_bytes = 5
users = 7

[captures."../x"]
interfaces = ["eth0"]
group = "no such group"
ringbuffer_files = 4

[captures.y]
group = "root"
"""
    assert faults(tmp_path, text) == [
        ":1: contact: Expected a text, got a whole number",
        ":2: contakt: there is no such key: did you mean contact?",
        ":4: rule[1]: names nobody: add users, groups or everybody = true",
        ":6: rule[1].interfaces: 'not/one' is no interface name: one has no slash, colon, space or unprintable "
        "character",
        ":10: rule[1].filter: the capture filter has a character that is not ASCII, or a NUL",
        ":14: rule[1].max_snaplen_bytes: Expected a whole number, got a text",
        ":17: rule[2].name: another rule has the name 'a' already",
        ":19: rule[2].max_capture: there is no such key: did you mean max_captures?",
        ":20: rule[2].max_disk_bytes: Expected a whole number >= 1000000",
        ":21: rule[2].users: Expected an array, got a whole number",
        ":23: captures.../x: '../x' is no name for a capture: one has up to 64 letters, digits, dots, - and _, "
        "and begins with a letter",
        ":25: captures.../x.group: there is no group 'no such group': its files would be nobody's",
        ":26: captures.../x.ringbuffer_files: a ring needs to know when to switch: give ringbuffer_duration, "
        "ringbuffer_interval, ringbuffer_filesize or ringbuffer_packets",
        ":28: captures.y: interfaces is missing",
    ]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("rule = 1", ":1: rule: rules are written as [[rule]]"),
        ("rule = [1]", ":1: rule[1]: must be a table"),
        ("captures = []", ":1: captures: captures are written as [captures.NAME]"),
        ("[captures]\nx = 1", ":2: captures.x: must be a table"),
        ("[[rule]]\nname = ''\neverybody = true", ":2: rule[1].name: Expected a text of length >= 1"),
        (
            "[[rule]]\nname = 'x'\neverybody = true\ninterfaces = []",
            ":4: rule[1].interfaces: Expected an array of length >= 1",
        ),
        (
            "[[rule]]\nname = 'x'\neverybody = true\nmax_snaplen_bytes = 0",
            ":4: rule[1].max_snaplen_bytes: Expected a whole number >= 1",
        ),
        (
            "[[rule]]\nname = 'x'\neverybody = true\nmax_duration_s = nan",
            ":4: rule[1].max_duration_s: Expected a number > 0.0",
        ),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, text: str, fault: str) -> None:
    assert faults(tmp_path, text)[0] == fault


def test_names_that_nobody_has_are_warned_of(tmp_path: Path) -> None:
    read = load(tmp_path, '[[rule]]\nname = "a"\nusers = ["root", "no such user"]\ngroups = ["no such group"]\n')
    assert read.policy.rules[0].user_ids == {0}
    assert read.policy.rules[0].group_ids == frozenset()
    assert [warning.partition("capd.toml")[2] for warning in read.warnings] == [
        ":3: rule[1].users[2]: there is no 'no such user' on this machine now (warning)",
        ":4: rule[1].groups[1]: there is no 'no such group' on this machine now (warning)",
    ]


def test_what_is_no_toml_is_refused(tmp_path: Path) -> None:
    (fault,) = faults(tmp_path, "[[rule]]\nname = \n")
    assert "line 2" in fault
    (tmp_path / "capd.toml").write_bytes(b"contact = '\xff'")
    with pytest.raises(config.ConfigError, match="utf-8"):
        config.load(tmp_path / "capd.toml")
    with pytest.raises(config.ConfigError, match="longer than 1048576 bytes"):
        load(tmp_path, "#" * 1024 * 1024 + "\n")


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(config.ConfigError, match="cannot be read: No such file"):
        config.load(tmp_path / "none")
    with pytest.raises(config.ConfigError, match="cannot be read: Is a directory"):
        config.load(tmp_path)


def test_check_config_compiles_filters_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "capd.toml"
    path.write_text(WHOLE)
    assert check_config([os.fspath(path)]) == 0
    assert capsys.readouterr().out == f"{path}: nothing wrong (2 rules, 1 captures)\n"
    path.write_text(WHOLE.replace("udp port 53", "udp port"))
    assert check_config([os.fspath(path)]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"{path}:12: rule[2].filter: ")
    assert second.startswith(f"{path}:23: captures.dns.capture_filter: ")
    path.write_text(WHOLE.replace("udp port 53", "host example.org"))
    assert check_config([os.fspath(path)]) == 1
    assert "'example.org' is no keyword, and no address; host names are not looked up" in capsys.readouterr().err


# Lines ------------------------------------------------------------------------------------------------------------

DOCUMENT = """\
a = 1 # [not.a.table]
  b = "[x]"

[t]  # comment
c = '''
d = 2
'''
d = [ "]", # ]
  1,
]
e = {f = 1}
[t.u]
"g h" = 1
[[l]]
i = 1
[l.m]
j = 1
[[l]]
i = 2
"""


@pytest.mark.parametrize(
    ("key", "line"),
    [
        (("a",), 1),
        (("b",), 2),
        (("t",), 4),
        (("t", "c"), 5),
        (("t", "d"), 8),
        (("t", "e", "f"), 11),
        (("t", "u"), 12),
        (("t", "u", "g h"), 13),
        (("l", 0), 14),
        (("l", 0, "i"), 15),
        (("l", 0, "m", "j"), 17),
        (("l", 1), 18),
        (("l", 1, "i"), 19),
        (("nothing", "of", "this"), 1),
    ],
)
def test_lines_of_keys(key: tuple[str | int, ...], line: int) -> None:
    assert line_of(DOCUMENT, key) == line
