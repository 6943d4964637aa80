"""The configuration: what it says, and that all its faults are shown at once, each with its place."""

import ipaddress
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from capd.admin.check_config import main as check_config
from capd.config import reader
from capd.config.toml_lines import line_of
from capd.policy.rules import Policy, Rule
from capd_client import who_am_i
from capd_protocol.messages import Conditions
from tests.client.helpers import wait_until
from tests.support.daemon import as_user, running_daemon

#: Users who have nothing to say.
ALICE, MALLORY = 23_471, 23_472

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


def load(tmp_path: Path, text: str) -> reader.Config:
    path = tmp_path / "capd.toml"
    path.write_text(text)
    return reader.load(path)


def faults(tmp_path: Path, text: str) -> list[str]:
    with pytest.raises(reader.ConfigError) as raised:
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
    assert load(tmp_path, "") == reader.Config(Policy())


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

[[rule]]
filter = "ä"

[captures.z]
interfaces = 5
group = "no such group"
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
        ":28: captures.y: runs for ever: give ringbuffer_duration, ringbuffer_interval, ringbuffer_filesize or "
        "ringbuffer_packets",
        ":31: rule[3]: name is missing",
        ":31: rule[3]: names nobody: add users, groups or everybody = true",
        ":32: rule[3].filter: the capture filter has a character that is not ASCII, or a NUL",
        ":34: captures.z: runs for ever: give ringbuffer_duration, ringbuffer_interval, ringbuffer_filesize or "
        "ringbuffer_packets",
        ":35: captures.z.interfaces: Expected an array, got a whole number",
        ":36: captures.z.group: there is no group 'no such group': its files would be nobody's",
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
        ("metrics = 1", ":1: metrics: must be a table"),
        ("[metrics]", ":1: metrics: give one of socket and address"),
        ("[metrics]\nsocket = '/a'\naddress = '127.0.0.1:1'", ":1: metrics: give one of socket and address"),
        ("[metrics]\nsockt = '/a'", ":1: metrics: give one of socket and address"),
        (
            "[metrics]\nsocket = 'a/b'",
            ":2: metrics.socket: must be the whole path of a socket, of at most 107 bytes",
        ),
        (
            f"[metrics]\nsocket = '/{'a' * 107}'",
            ":2: metrics.socket: must be the whole path of a socket, of at most 107 bytes",
        ),
        (
            "[metrics]\nsocket = '/a'\ngroup = 'no such group'",
            ":3: metrics.group: there is no group 'no such group': nobody could ask",
        ),
        ("[metrics]\naddress = '127.0.0.1:1'\ngroup = 'root'", ":3: metrics.group: a group is for a socket"),
        *(
            (
                f"[metrics]\naddress = '{address}'",
                ":2: metrics.address: must be a numeric address and a port: 127.0.0.1:9105 or [::1]:9105",
            )
            for address in ("9105", "localhost:9105", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536", "::1:80", "[::1]")
        ),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, text: str, fault: str) -> None:
    assert faults(tmp_path, text)[0].startswith(fault)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('socket = "/run/capd/metrics/metrics.sock"', reader.MetricsSocket(Path("/run/capd/metrics/metrics.sock"))),
        ('socket = "/a"\ngroup = "root"', reader.MetricsSocket(Path("/a"), 0)),
        ('address = "127.0.0.1:9105"', reader.MetricsAddress(ipaddress.IPv4Address("127.0.0.1"), 9105)),
        ('address = "[::1]:9105"', reader.MetricsAddress(ipaddress.IPv6Address("::1"), 9105)),
    ],
)
def test_where_metrics_are_served(tmp_path: Path, text: str, place: object) -> None:
    assert load(tmp_path, "").metrics is None
    read = load(tmp_path, f"[metrics]\n{text}\n").metrics
    assert read == place
    assert str(read) in text


def test_names_that_nobody_has_are_warned_of(tmp_path: Path) -> None:
    read = load(tmp_path, '[[rule]]\nname = "a"\nusers = ["root", "no such user"]\ngroups = ["no such group"]\n')
    assert read.policy.rules[0].user_ids == {0}
    assert read.policy.rules[0].group_ids == frozenset()
    assert [warning.partition("capd.toml")[2] for warning in read.warnings] == [
        ":3: rule[1].users[2]: there is no 'no such user' on this machine now (warning)",
        ":4: rule[1].groups[1]: there is no 'no such group' on this machine now (warning)",
    ]


def test_names_with_a_nul_are_nobodys(tmp_path: Path) -> None:
    read = load(tmp_path, '[[rule]]\nname = "a"\nusers = ["\\u0000"]\ngroups = ["b\\u0000"]\n')
    assert len(read.warnings) == 2
    (fault,) = faults(tmp_path, '[metrics]\nsocket = "/run/a"\ngroup = "b\\u0000"\n')
    assert "there is no group" in fault


@pytest.mark.parametrize("number", [-1, 2**32 - 1, 2**32])
def test_numbers_that_are_nobodys_are_refused(tmp_path: Path, number: int) -> None:
    capture = f'[captures.a]\ninterfaces = ["any"]\nringbuffer_files = 2\nringbuffer_filesize = 9\ngroup = {number}\n'
    shown = faults(tmp_path, f'[[rule]]\nname = "a"\nusers = [{number}]\ngroups = [{number}]\n{capture}')
    assert {"rule[1].users", "rule[1].groups", "captures.a.group"} <= {each.split(": ")[1] for each in shown}


def test_what_is_nested_too_deep_is_refused(tmp_path: Path) -> None:
    assert faults(tmp_path, "a = " + "[" * 100_000) == [": arrays or tables are nested too deep"]


def test_many_faults_take_as_long_as_each_of_them(tmp_path: Path) -> None:
    began_s = time.process_time()
    assert len(faults(tmp_path, "".join(f"key{number} = 1\n" for number in range(10_000)))) == 10_000
    assert time.process_time() - began_s < 10  # with the square, two minutes


@pytest.mark.parametrize(
    ("first", "second", "is_hidden"),
    [
        ({"everybody": True}, {"groups": ["root"]}, True),
        ({"everybody": True}, {"everybody": True, "interfaces": ["eth*"], "max_snaplen_bytes": 64}, True),
        ({"everybody": True}, {"users": [0]}, True),
        ({"everybody": True}, {"users": [4_000_000_000]}, False),  # who has no account
        ({"everybody": True}, {"groups": ["root"], "monitor_mode": True}, False),
        ({"everybody": True, "promiscuous": False}, {"groups": ["root"]}, False),
        ({"everybody": True, "max_snaplen_bytes": 64}, {"groups": ["root"]}, False),
        ({"everybody": True, "interfaces": ["eth*"]}, {"groups": ["root"]}, False),
        ({"everybody": True, "interfaces": ["eth*"]}, {"groups": ["root"], "interfaces": ["eth0", "eth*"]}, True),
        ({"everybody": True, "interfaces": ["any"]}, {"groups": ["root"]}, True),
        ({"everybody": True}, {"groups": ["root"], "containers": True}, False),
        ({"everybody": True, "containers": True}, {"users": [0], "containers": True}, False),
        ({"groups": ["root"]}, {"groups": ["root"]}, True),
        ({"groups": ["root"]}, {"everybody": True}, False),
        ({"groups": ["root"]}, {"groups": ["root", 77]}, False),
        ({"everybody": True}, {"groups": ["no such group"]}, False),  # it has another warning
    ],
)
def test_a_rule_that_never_grants_is_warned_of(
    tmp_path: Path, first: dict[str, object], second: dict[str, object], is_hidden: bool
) -> None:
    text = ""
    for name, keys in (("first", first), ("second", second)):
        text += f"[[rule]]\nname = '{name}'\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in keys.items())
    warning = "rule[2]: never grants: the rule 'first' before it grants all of this to the same users (warning)"
    line = text[: text.rindex("[[rule]]")].count("\n") + 1
    found = [each for each in load(tmp_path, text).warnings if "never grants" in each]
    assert found == ([f"{tmp_path}/capd.toml:{line}: {warning}"] if is_hidden else [])


def test_a_value_that_is_wrong_hides_no_other_rule(tmp_path: Path) -> None:
    wrong = "[[rule]]\nname = 'a'\neverybody = true\ninterfaces = 5\n[[rule]]\nname = 'b'\neverybody = true\n"
    assert faults(tmp_path, wrong) == [":4: rule[1].interfaces: Expected an array, got a whole number"]


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"[[rule]]\nname = \n", ":2: invalid value (column 8)"),
        (b"contact = 'x'\n[[rule]\n", ":2: expected ']]' at the end of an array declaration (column 7)"),
        (b"a = [1,\n2\n", ":2: unclosed array (at the end)"),
        (b"a = 1\na = 2\n", ":2: cannot overwrite a value (column 6)"),
        (b"\n\ncontact = '\xff'", ":3: a byte that is not UTF-8: 0xff"),
    ],
)
def test_what_is_no_toml_is_refused_with_its_line(tmp_path: Path, text: bytes, fault: str) -> None:
    path = tmp_path / "capd.toml"
    path.write_bytes(text)
    with pytest.raises(reader.ConfigError) as raised:
        reader.load(path)
    assert raised.value.faults == (f"{path}{fault}",)


def test_what_is_too_long_is_refused_whatever_is_in_it(tmp_path: Path) -> None:
    assert faults(tmp_path, "[" * 1024 * 1024 + "\n") == [": longer than 1048576 bytes"]


def test_what_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(reader.ConfigError, match="cannot be read: No such file"):
        reader.load(tmp_path / "none")
    with pytest.raises(reader.ConfigError, match="cannot be read: Is a directory"):
        reader.load(tmp_path)


def test_check_config_compiles_filters_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "capd.toml"
    path.write_text(WHOLE)
    assert check_config([os.fspath(path)]) == 0
    assert capsys.readouterr().out == f"{path}: nothing wrong (2 rules, 1 capture)\n"
    path.write_text(WHOLE.replace("udp port 53", "udp port"))
    assert check_config([os.fspath(path)]) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"{path}:12: rule[2].filter: ")
    assert second.startswith(f"{path}:23: captures.dns.capture_filter: ")
    path.write_text(WHOLE.replace("udp port 53", "host example.org"))
    assert check_config([os.fspath(path)]) == 1
    assert "'example.org' is no keyword, and no address; host names are not looked up" in capsys.readouterr().err


# Who may change it ------------------------------------------------------------------------------------------------


@pytest.fixture
def configuration(user_dir: Path) -> Path:
    """One of root's, reached by a link: ``current/capd.toml``, with ``current`` leading to ``etc/first``."""
    (user_dir / "etc" / "first").mkdir(parents=True)
    (user_dir / "etc" / "first" / "capd.toml").write_text(WHOLE)
    (user_dir / "current").symlink_to("etc/first")
    return user_dir / "current" / "capd.toml"


def given_away(name: str) -> Callable[[Path], Path]:
    def change(directory: Path) -> Path:
        os.chown(directory / name, MALLORY, -1, follow_symlinks=False)
        return directory / name

    return change


def opened_up(name: str, mode: int) -> Callable[[Path], Path]:
    def change(directory: Path) -> Path:
        (directory / name).chmod(mode)
        return directory / name

    return change


CHANGES: dict[str, Callable[[Path], Path]] = {
    "another user's": given_away("etc/first/capd.toml"),
    "everybody's to write to": opened_up("etc/first/capd.toml", 0o666),
    "a group's to write to": opened_up("etc/first/capd.toml", 0o664),
    "in another user's directory": given_away("etc/first"),
    "in a directory that a group may write to": opened_up("etc/first", 0o775),
    "below a directory that everybody may write to": opened_up("etc", 0o777),
    "reached by another user's link": given_away("current"),
    "in another user's directory like /tmp": given_away("."),
    "in a directory that is not like /tmp": opened_up(".", 0o777),
}


@pytest.mark.parametrize("change", CHANGES)
def test_one_that_others_may_change_is_refused_until_the_command_is_run_that_is_told(
    user_dir: Path, configuration: Path, capsys: pytest.CaptureFixture[str], change: str
) -> None:
    assert len(reader.load(configuration).policy.rules) == 2
    changed = CHANGES[change](user_dir)
    with pytest.raises(reader.ConfigError) as raised:
        reader.load(configuration)
    (fault,) = raised.value.faults
    assert fault.startswith(f"{configuration}: ")
    assert str(changed) in fault
    assert check_config([os.fspath(configuration)]) == 1
    assert capsys.readouterr().err == f"{fault}\n"
    command = re.search(r": '(.+)'$", fault)
    assert command is not None
    subprocess.run(["sh", "-c", command[1]], check=True)
    assert len(reader.load(configuration).policy.rules) == 2


def test_what_is_read_is_looked_at_itself(configuration: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever lay on the way a moment before."""
    os.chown(configuration, MALLORY, -1)
    monkeypatch.setattr(reader, "_check_way", lambda *_: None)
    with pytest.raises(reader.ConfigError, match=f"belongs to user {MALLORY}"):
        reader.load(configuration)


def test_a_link_to_one_is_as_good_as_its_own_place_and_all_on_its_way(user_dir: Path, configuration: Path) -> None:
    (user_dir / "hers").mkdir()
    os.chown(user_dir / "hers", MALLORY, -1)
    (user_dir / "hers" / "way").symlink_to(configuration.parent)
    (user_dir / "capd.toml").symlink_to("hers/way/capd.toml")
    with pytest.raises(reader.ConfigError, match=f"{user_dir}/hers belongs to user {MALLORY}"):
        reader.load(user_dir / "capd.toml")


def test_one_that_is_absent_is_not_one_that_others_have_removed(
    user_dir: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without one, more is allowed."""
    path = user_dir / "etc" / "capd.toml"
    monkeypatch.setattr(reader, "DEFAULT_PATH", path)
    assert reader.is_absent(path)
    (user_dir / "etc").mkdir()
    assert reader.is_absent(path)
    assert check_config([]) == 0
    (user_dir / "etc").chmod(0o777)
    with pytest.raises(reader.ConfigError, match="others may write to"):
        reader.is_absent(path)
    assert check_config([]) == 1
    assert f"'chmod go-w {user_dir}/etc'" in capsys.readouterr().err
    (user_dir / "etc").chmod(0o755)
    path.symlink_to("nowhere")
    assert not reader.is_absent(path)
    assert check_config([]) == 1


@pytest.mark.parametrize(
    ("environment", "trusted"),
    [({}, {0, ALICE}), ({"SYSTEMD_EXEC_PID": "77"}, {0}), ({"SYSTEMD_EXEC_PID": "78"}, {0, ALICE})],
)
def test_started_by_hand_its_user_is_trusted_and_as_a_service_root_alone(
    environment: dict[str, str], trusted: set[int]
) -> None:
    assert reader.trusted_users(environment, 77, ALICE) == trusted


def test_a_user_may_have_one_of_ones_own(user_dir: Path, configuration: Path) -> None:
    own = user_dir / "own.toml"

    def own_and_roots() -> None:
        own.write_text(WHOLE)
        for path in (own, configuration):
            assert len(reader.load(path).policy.rules) == 2

    as_user(own_and_roots, ALICE)
    with pytest.raises(reader.ConfigError, match=f"belongs to user {ALICE}"):
        as_user(lambda: reader.load(own), MALLORY)
    with pytest.raises(reader.ConfigError, match=f"belongs to user {ALICE}"):
        reader.load(own)


def test_a_daemon_does_not_start_with_one_that_others_may_change(user_dir: Path, configuration: Path) -> None:
    configuration.chmod(0o666)
    command = [sys.executable, "-P", "-m", "capd", "--socket", f"{user_dir}/socket", "--config", str(configuration)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"capd: {configuration}: others may write to {user_dir}/etc/first/capd.toml, ")
    assert not (user_dir / "socket").exists()


def test_who_may_write_to_it_by_mistake_gains_nothing_by_a_reload(user_dir: Path, configuration: Path) -> None:
    configuration.write_text("")
    says = "the earlier configuration stays in force"

    def let_herself_in() -> None:
        configuration.write_text(f'[[rule]]\nname = "mine"\nusers = [{MALLORY}]\n')

    with running_daemon(user_dir, "--config", str(configuration)) as daemon:
        configuration.chmod(0o666)
        as_user(let_herself_in, MALLORY)
        os.kill(daemon.process.pid, signal.SIGHUP)
        wait_until(lambda: says in daemon.log, "it has reloaded")
        assert f"others may write to {user_dir}/etc/first/capd.toml" in daemon.log
        assert as_user(lambda: who_am_i(socket_path=daemon.socket_path), MALLORY).permissions == ()
        # It was that, and nothing else, that has kept her out.
        configuration.chmod(0o644)
        os.kill(daemon.process.pid, signal.SIGHUP)
        wait_until(lambda: "the configuration was read again" in daemon.log, "it has reloaded")
        assert as_user(lambda: who_am_i(socket_path=daemon.socket_path), MALLORY).permissions != ()


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
