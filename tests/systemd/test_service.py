"""capd as a service of a real systemd: installed, hardened, started by its clients, ended in every way."""

import errno
import json
import os
import re
import signal
import subprocess
import threading
from pathlib import Path

import pytest

from tests.documentation.pages import samples
from tests.metrics.helpers import CURL_REFUSED, parsed
from tests.metrics.test_operations import drop_in, proxy_units
from tests.support.attack import FRAMES, check_complete, eventually
from tests.support.namespace import network_namespace_at
from tests.support.takeover import taken_over
from tests.support.traffic import send
from tests.systemd.machine import ENVIRONMENT, Machine, await_daemon_after, capturing

pytestmark = pytest.mark.long

CAPD = ENVIRONMENT / "bin" / "capd"
SOCKET = Path("/run/capd/capd.sock")
UNIT = Path("/etc/systemd/system/capd.service")
LINK = Path("/usr/local/bin/capctl")
#: Where an installation, and what it starts, may leave something.
CHANGED = ("/etc", "/usr/local", "/run", "/var")
ACCOUNTS = ("/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow")
#: linux/capability.h
SETGID, SETUID, NET_ADMIN, NET_RAW = 6, 7, 12, 13


def capabilities_of(machine: Machine, process_id: int) -> dict[str, int]:
    status = machine.status_of(process_id)
    return {name: int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}


def journal(machine: Machine) -> str:
    return machine.run("journalctl", "--unit=capd.service", "--output=cat", "--no-pager")


def shown(page: str, begin: str, language: str) -> str:
    """Return the block of a page that begins so."""
    (found,) = [each.text for each in samples(language) if each.page == page and each.text.startswith(begin)]
    return found


def as_root(page: str, begin: str) -> list[str]:
    """Return the words for running the commands of a page that begin so, as root, who needs no sudo."""
    return ["sh", "-ec", shown(page, begin, "sh").replace("sudo ", "")]


# Installing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "mend", "path"),
    [
        ("chmod o+w {}", "chmod -R go-w {}", "."),
        ("chmod o+w {}", "chmod go-w {}", "lib/python*/site-packages/capd/clients/server.py"),
        ("chown capd-alice {}", "chown root {}", "lib/python*/site-packages/capd/policy/rules.py"),
        ("chown capd-alice {}", "chown -R root {}", "lib/python*/site-packages/capd/worker/__pycache__"),
        ("chown capd-alice {}", "chown root {}", "lib/python*/site-packages/capd-dependencies.pth"),
        ("chown -h capd-alice {}", "chown -h root {}", "bin/python"),
    ],
)
def test_an_environment_that_others_may_change_is_refused(machine: Machine, change: str, mend: str, path: str) -> None:
    (place,) = machine.run("sh", "-c", f"realpath --no-symlinks {ENVIRONMENT}/{path}").split()
    before = machine.files(*CHANGED)
    machine.run("sh", "-c", change.format(place))
    refused = machine.done(CAPD, "install-service")
    machine.run("sh", "-c", mend.format(place))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"'{mend.format(place)}'" in refused.stderr
    assert machine.files(*CHANGED) == before


def test_a_directory_of_units_that_others_may_write_to_is_refused(machine: Machine) -> None:
    machine.run("mkdir", "--parents", "--mode=0777", f"{UNIT}.d")
    refused = machine.done(CAPD, "install-service")
    machine.run("rmdir", f"{UNIT}.d")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"others may write to {UNIT}.d" in refused.stderr


@pytest.mark.parametrize("umask", ["000", "077"])
def test_roots_umask_does_not_matter(machine: Machine, umask: str) -> None:
    before = machine.files(*CHANGED)
    machine.run("sh", "-c", f"umask {umask}; exec {CAPD} install-service")
    made = sorted(machine.files("/etc", "/usr/local") - before)
    modes = dict(zip(made, machine.run("stat", "--format=%U %A", *made).splitlines(), strict=True))
    machine.run(CAPD, "uninstall-service", "--purge")
    expected = ("root drwxr-xr-x", "root -rw-r--r--", "root lrwxrwxrwx")
    assert {str(UNIT), str(LINK), "/etc/sysusers.d/capd.conf", "/usr/local/share/man/man8/capd.8"}.issubset(made)
    assert {"/etc/sysusers.d", "/usr/local/share/man/man8"}.intersection(made), "directories that were not there"
    accounts = {path for path in made if path.removesuffix("-") in ACCOUNTS}
    assert {path: mode for path, mode in modes.items() if mode not in expected and path not in accounts} == {}


def test_no_link_is_made_where_others_may_replace_it(machine: Machine) -> None:
    """The group staff may on older Debian systems."""
    machine.run("chmod", "g+w", LINK.parent)
    printed = machine.run(CAPD, "install-service")
    machine.run("chmod", "g-w", LINK.parent)
    machine.run(CAPD, "uninstall-service", "--purge")
    assert f"{LINK} is not made, since others may write to {LINK.parent}" in printed
    assert not machine.path(LINK).is_symlink()


def test_a_file_in_the_way_is_refused_before_anything_is_written(machine: Machine) -> None:
    in_the_way = machine.path("/etc/systemd/system/capd.socket")
    in_the_way.write_text("[Socket]\n")
    before = machine.files(*CHANGED)
    refused = machine.done(CAPD, "install-service", "--now")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert machine.files(*CHANGED) == before
    assert in_the_way.read_text() == "[Socket]\n"
    in_the_way.unlink()


def test_an_installation_is_enabled_and_tells_what_comes_next(service: Machine) -> None:
    printed = service.run(CAPD, "install-service", "--now")
    assert "usermod -aG capd" in printed
    assert service.run("systemctl", "is-enabled", "capd.socket").strip() == "enabled"
    service.run("systemd-analyze", "verify", UNIT)


def test_capctl_is_found_by_everybody(service: Machine) -> None:
    assert str(service.path(LINK).readlink()) == f"{ENVIRONMENT}/bin/capctl"
    assert str(service.path("/usr/local/share/man/man8/capd.8").readlink()) == f"{ENVIRONMENT}/share/man/man8/capd.8"
    service.run("capctl", "--version", user="capd-stranger")


def test_an_installation_replaces_an_older_one(service: Machine) -> None:
    unit = service.path(UNIT)
    text = unit.read_text()
    older = Path("/opt/capd-older")
    service.run("mkdir", "--parents", older / "bin")
    unit.write_text(text.replace(str(ENVIRONMENT), str(older)) + "# older\n")
    service.path(LINK).unlink()
    service.path(LINK).symlink_to(older / "bin" / "capctl")
    service.run(CAPD, "install-service")
    service.run("rm", "-r", older)
    assert unit.read_text() == text
    assert str(service.path(LINK).readlink()) == f"{ENVIRONMENT}/bin/capctl"


def test_a_system_wide_installation_works(service: Machine) -> None:
    service.run(CAPD, "uninstall-service")
    service.install_wheel(Path("/usr/bin/python3"), "--break-system-packages")
    try:
        service.run("/usr/local/bin/capd", "install-service", "--now")
        assert "\nExecStart=/usr/bin/python3 " in service.path(UNIT).read_text()
        assert not service.path(LINK).is_symlink()
        service.run("capctl", "list", user="capd-alice")
        service.run("/usr/local/bin/capd", "uninstall-service")
    finally:
        packages = service.path("/usr/local/lib").glob("python3*/dist-packages/capd*")
        inside = [f"/usr/local/lib/{path.relative_to(service.path('/usr/local/lib'))}" for path in packages]
        service.run("rm", "-r", "/usr/local/bin/capd", "/usr/local/bin/capctl", "/usr/local/share/capd", *inside)


# Starting, and what it may ------------------------------------------------------------------------------------------


def test_the_first_client_starts_the_daemon(service: Machine) -> None:
    service.run("systemctl", "stop", "capd.service")
    assert service.daemon() == 0
    service.run("capctl", "list", user="capd-stranger")
    assert service.daemon() != 0


def test_the_unit_is_hardened(service: Machine) -> None:
    service.run("systemd-analyze", "security", "--threshold=17", "capd.service")


def test_the_unit_has_bounds(service: Machine) -> None:
    assert service.show("OOMPolicy") == "continue"
    assert service.show("LimitCORE") == "0"
    assert service.show("LimitNOFILE") == "65536"
    assert service.show("TasksMax") == "2048"
    assert service.show("LogRateLimitIntervalUSec") == "0"
    memory = int(service.run("sed", "-n", "s/MemTotal: *\\([0-9]*\\) kB/\\1/p", "/proc/meminfo")) * 1024
    assert int(service.show("MemoryMax")) == pytest.approx(0.75 * memory, rel=0.05)
    limits = service.path(f"/proc/{service.daemon()}/limits").read_text()
    assert re.search(r"^Max core file size +0 +0 ", limits, re.MULTILINE)


def test_a_worker_is_killed_before_the_daemon_when_memory_runs_out(service: Machine) -> None:
    def score(process_id: int) -> int:
        return int(service.path(f"/proc/{process_id}/oom_score_adj").read_text())

    with capturing(service, "capd-alice", "-w", "/home/capd-alice/score.pcapng") as capture:
        capture.next("file")
        (worker,) = service.workers()
        assert score(worker) == score(service.daemon()) + 100 == score(service.spawner()) + 100


def test_the_daemon_is_its_own_user_with_three_capabilities(service: Machine) -> None:
    user_id = service.run("id", "--user", "capd").strip()
    status = service.status_of(service.daemon())
    assert status["Uid"].split() == [user_id] * 4
    assert status["NoNewPrivs"] == "1"
    assert int(status["Seccomp"]) == 2
    three = 1 << NET_RAW | 1 << SETUID | 1 << SETGID
    assert set(capabilities_of(service, service.daemon()).values()) == {three}


def test_a_worker_is_isolated_as_the_daemon_is(service: Machine) -> None:
    """From its user's packages, Python's variables and the working directory."""
    with capturing(service, "capd-alice", "-w", "/home/capd-alice/isolated.pcapng") as capture:
        capture.next("file")
        workers = service.workers()
        for process_id in (service.daemon(), *workers):
            assert b"-I" in service.path(f"/proc/{process_id}/cmdline").read_bytes().split(b"\0")


def test_a_worker_is_confined_more_than_the_daemon(service: Machine) -> None:
    with capturing(service, "capd-alice", "-w", "/home/capd-alice/confined.pcapng") as capture:
        capture.next("file")
        workers = service.workers()
        filters = {each: int(service.status_of(each)["Seccomp_filters"]) for each in (service.daemon(), *workers)}
        assert {filters[each] for each in workers} == {filters[service.daemon()] + 1}
        assert "--strict-workers" in service.path(f"/proc/{service.daemon()}/cmdline").read_text()
        with taken_over(service.outside(workers[0])) as taken:
            assert taken.call("openat", -100, b"/etc/services\0", os.O_RDONLY | os.O_CLOEXEC, 0) > 2
            for path in (b"/etc/passwd\0", b"/usr/bin/env\0", b"/proc/self/status\0"):
                assert taken.call("openat", -100, path, os.O_RDONLY, 0) == -errno.EACCES


def test_a_drop_in_gives_monitor_mode_its_capability(service: Machine) -> None:
    _, *lines = shown("docs/service.md", "[Service]\nAmbientCapabilities=", "systemd").splitlines()
    try:
        service.configure(*lines)
        four = 1 << NET_ADMIN | 1 << NET_RAW | 1 << SETUID | 1 << SETGID
        assert capabilities_of(service, service.daemon())["CapEff"] == four
    finally:
        service.configure()


def test_a_drop_in_has_the_service_open_devices_for_those_whom_a_rule_names(service: Machine) -> None:
    _, *lines = shown("docs/modules.md", "[Service]\nAmbientCapabilities=", "systemd").splitlines()
    configuration = service.path("/etc/capd/capd.toml")
    rules = "table inet capd { chain out { type filter hook output priority 0; udp dport 7 log group 5; }; }"
    send_some = "import socket\nfor _ in range(3): socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', 7))"
    try:
        configuration.write_text('[[rule]]\nname = "log"\nusers = ["capd-alice"]\ndevices = ["nflog:5"]\n')
        service.configure(*lines)
        service.run("ip", "link", "set", "lo", "up")
        service.run("nft", rules)
        words = ("-w", "/home/capd-alice/log.pcapng", "-c", 3)
        with capturing(service, "capd-alice", *words, interface="nflog:5") as capture:
            capture.next("file")
            service.run("python3", "-c", send_some)
            capture.next("ended")
        check_complete(service.path("/home/capd-alice/log.pcapng"), 3)
        with capturing(service, "capd-bob", "-w", "/home/capd-bob/log.pcapng", interface="nflog:5") as capture:
            assert capture.next("error")["code"] == "not_permitted"
    finally:
        service.done("nft", "flush", "ruleset")
        configuration.unlink()
        service.configure()


# Containers --------------------------------------------------------------------------------------------------------


def test_a_container_is_given_its_socket_as_the_documentation_says(service: Machine) -> None:
    configuration = service.path("/etc/capd/capd.toml")
    configuration.write_text(
        shown("docs/operations.md", '[[rule]]\nname = "dns, for containers"', "toml").replace("eth0", "rx")
    )
    enter = shown("docs/operations.md", "unshare", "sh")
    try:
        service.run(*as_root("docs/operations.md", "systemctl enable capd-containers.socket"))
        assert "user 0 of a container may capture" in service.run("sh", "-ec", enter)
        capture = "capctl capture -i rx -w /tmp/contained.pcapng -c 1 --json"
        with subprocess.Popen(
            service.command("sh", "-ec", enter.replace("capctl whoami", capture)), stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert next(event for event in map(json.loads, process.stdout) if event["event"] == "file")
            (listed,) = map(json.loads, service.run("capctl", "list", "--json").splitlines())
            assert (listed["user_id"], listed["is_contained"]) == (0, True)
            assert " container:0 " in service.run("capctl", "list")
            assert service.run("sh", "-ec", enter.replace("whoami", "list")).strip() == "No capture runs."
            service.run("capctl", "stop", listed["capture_id"])
            assert process.wait() == 0
        # Nobody but root gets there, and from inside it cannot be replaced.
        assert service.done("ls", "/run/capd-containers/capd", user="capd-alice").returncode != 0
        replaced = service.done("sh", "-ec", enter.replace("capctl whoami", "rm /run/capd/capd.sock"))
        assert "Read-only file system" in replaced.stderr
        # What holds for containers holds nowhere else.
        assert "may not capture" in service.done("capctl", "whoami", user="capd-alice").stdout
    finally:
        configuration.unlink()
        service.run("systemctl", "disable", "--now", "capd-containers.socket")
        service.run("systemctl", "restart", "capd.socket", "capd.service")


# Other network namespaces ------------------------------------------------------------------------------------------


def test_a_network_namespace_has_a_daemon_as_the_documentation_says(service: Machine) -> None:
    service.run("ip", "netns", "add", "blue")
    for words in ("add b0 type veth peer name b1", "set b0 up", "set b1 up"):
        service.run("ip", "-n", "blue", "link", *words.split())
    rules = service.path("/etc/capd/netns/blue.toml")
    rules.write_text(shown("docs/operations.md", '[[rule]]\nname = "all of blue"', "toml"))
    try:
        # Who may enter it does so, with or without a daemon there; who may not is told.
        assert "b1" in service.run("capctl", "interfaces", "--netns", "blue")
        refused = service.done("capctl", "interfaces", "--netns", "blue", user="capd-alice")
        assert "may not be entered: that takes CAP_SYS_ADMIN over it" in refused.stderr
        service.run(*as_root("docs/operations.md", "sudo systemctl enable --now capd-netns@blue.socket"))
        assert " b1 " in service.run("capctl", "interfaces", "--netns", "blue", user="capd-alice")
        path = "/home/capd-alice/blue.pcapng"
        options = ("-i", "b1", "--netns", "blue", "-w", path, "--name", "blue", "--detach", "-f", "not ip6")
        service.run("capctl", "capture", *options, user="capd-alice")
        with network_namespace_at(str(service.path("/run/netns/blue"))):
            assert send("b0", FRAMES, 3) == 3
        socket = ("--socket", "/run/capd-netns/blue/capd.sock")
        service.run("capctl", *socket, "flush", "blue", user="capd-alice")
        assert "No capture runs." in service.run("capctl", "list", user="capd-alice")
        service.run("capctl", *socket, "stop", "blue", user="capd-alice")
        shown_ = service.run("capinfos", path)
        assert "Description = network namespace blue" in shown_
        assert "Number of packets:   3" in shown_
        # Its own rules hold, and no others.
        assert "may not capture" in service.done("capctl", *socket, "whoami", user="capd-stranger").stdout
        daemon = int(service.show("MainPID", "capd-netns@blue.service"))
        three = 1 << NET_RAW | 1 << SETUID | 1 << SETGID
        assert capabilities_of(service, daemon)["CapEff"] == three
        rules.write_text('[[rule]]\nname = "nobody"\nusers = ["capd-bob"]\n')
        service.run("systemctl", "reload", "capd-netns@blue")
        assert "may not capture" in service.done("capctl", *socket, "whoami", user="capd-alice").stdout
    finally:
        service.run("systemctl", "disable", "--now", "capd-netns@blue.socket", "capd-netns@blue.service")
        rules.unlink()
        service.run("ip", "netns", "delete", "blue")


# As the documentation says -----------------------------------------------------------------------------------------


def test_the_service_is_restarted_and_stopped_as_the_documentation_says(service: Machine) -> None:
    before = service.daemon()
    service.run(*as_root("docs/service.md", "sudo systemctl restart capd"))
    assert service.daemon() not in (0, before)
    service.run(*as_root("docs/service.md", "sudo systemctl stop"))
    units = ("capd.service", "capd.socket")
    assert [service.show("ActiveState", unit) for unit in units] == ["inactive", "inactive"]
    # The last line of an upgrade.
    *_, install = shown("docs/service.md", "sudo /opt/capd/bin/pip install .", "sh").splitlines()
    service.run(*install.removeprefix("sudo ").split())
    assert service.show("ActiveState", "capd.socket") == "active"


# Capturing ---------------------------------------------------------------------------------------------------------


def test_a_member_captures_into_a_directory_of_its_own(service: Machine) -> None:
    """Below /home and closed to all others: the unit sees neither."""
    with capturing(service, "capd-alice", "-w", "/home/capd-alice/own.pcapng", "-c", "5") as capture:
        assert capture.next("file")["path"] == "/home/capd-alice/own.pcapng"
        send("tx", FRAMES, 5)
        assert capture.next("ended")["reason"] == "packets"
        assert capture.process.wait() == 0
    savefile = service.path("/home/capd-alice/own.pcapng")
    check_complete(savefile, 5)
    assert savefile.stat().st_uid == int(service.run("id", "--user", "capd-alice"))


def test_a_temporary_file_is_in_the_users_tmp(service: Machine) -> None:
    """And not in the unit's own."""
    with capturing(service, "capd-alice", "-c", "3", "-f", "udp", "-a", "filesize:1000") as capture:
        path = Path(capture.next("file")["path"])
        send("tx", FRAMES, 3)
        capture.next("ended")
    assert path.parent == Path("/tmp")
    check_complete(service.path(path), 3)
    service.path(path).unlink()


def test_packets_are_shown_without_a_file(service: Machine) -> None:
    words = ("capctl", "capture", "-i", "rx", "-c", "3", "--update-interval", "0.02", "udp")
    is_over = threading.Event()

    def keep_sending() -> None:
        while not is_over.wait(0.05):
            send("tx", FRAMES, 1)

    sending = threading.Thread(target=keep_sending)
    sending.start()
    try:
        shown = service.run(*words, user="capd-alice")
    finally:
        is_over.set()
        sending.join()
    assert len(shown.splitlines()) == 3
    assert all(": UDP" in line or "IP" in line for line in shown.splitlines())
    assert not list(service.path(Path("/dev/shm")).glob("capd_*"))


def test_what_libpcap_says_of_an_interface_is_asked_in_a_process_of_its_own(service: Machine) -> None:
    assert "EN10MB" in service.run("capctl", "linktypes", "rx", user="capd-alice")


def test_drivers_are_asked_without_an_internet_socket(service: Machine) -> None:
    lines = service.run("capctl", "interfaces", "--json", user="capd-stranger").splitlines()
    assert {each["driver"] for each in map(json.loads, lines) if each["name"] in ("tx", "rx")} == {"veth"}


def test_who_is_not_in_the_group_is_refused(service: Machine) -> None:
    with capturing(service, "capd-stranger", "-w", "/home/capd-stranger/a.pcapng") as capture:
        assert capture.next("error")["code"] == "not_permitted"
        assert capture.process.wait() == 1
    assert not service.path("/home/capd-stranger/a.pcapng").exists()


def test_the_status_tells_what_goes_on(service: Machine) -> None:
    with (
        capturing(service, "capd-alice", "-w", "/home/capd-alice/1.pcapng") as first,
        capturing(service, "capd-alice", "-w", "/home/capd-alice/2.pcapng") as second,
        capturing(service, "capd-bob", "-w", "/home/capd-bob/3.pcapng") as third,
    ):
        for capture in (first, second, third):
            capture.next("file")
        eventually(lambda: service.show("StatusText") == "3 captures of 2 users, 3 clients", "the status tells it")
    eventually(lambda: service.show("StatusText") == "0 captures of 0 users, 0 clients", "the status tells it")


# Policy ------------------------------------------------------------------------------------------------------------

CONFIGURATION = """\
contact = "netops"

[[rule]]
name = "bob sees nothing"
users = ["capd-bob"]
interfaces = ["rx"]
filter = "tcp"

[captures.kept]
interfaces = ["rx"]
group = "capd-alice"
ringbuffer_packets = 2
ringbuffer_files = 2
update_interval = 0.02
"""


def records(machine: Machine, *fields: str) -> list[dict[str, str]]:
    """Return the journal's records of the service with these fields."""
    lines = machine.run("journalctl", "--output=json", "--no-pager", "_SYSTEMD_UNIT=capd.service", *fields)
    return [json.loads(line) for line in lines.splitlines()]


def test_the_configuration_is_roots(service: Machine) -> None:
    """Who may write to it decides who may capture; the service's own user may not."""
    directory = service.path("/etc/capd").stat()
    assert (directory.st_uid, directory.st_mode & 0o777) == (0, 0o755)
    inside = service.run(
        "nsenter", f"--target={service.daemon()}", "--mount", "findmnt", "--target", "/etc/capd", "-no", "OPTIONS"
    )
    assert "ro" in inside.strip().split(",")


def test_policy_holds_after_a_reload_and_faults_change_nothing(service: Machine) -> None:
    configuration = service.path("/etc/capd/capd.toml")
    try:
        configuration.write_text(CONFIGURATION)
        assert "nothing wrong (1 rule, 1 capture)" in service.run(CAPD, "check-config")
        service.run("systemctl", "reload", "capd.service")
        eventually(lambda: "the configuration was read again" in journal(service), "it is read")
        for _ in range(2):
            with capturing(service, "capd-alice", "-w", "/home/capd-alice/no.pcapng") as capture:
                error = capture.next("error")
                assert error["code"] == "not_permitted"
                assert error["text"].endswith("may not capture here: ask netops")
            # Its faults are shown, and what was in force stays.
            configuration.write_text(CONFIGURATION + "users = 1\n")
            assert service.done("systemctl", "reload", "capd.service").returncode == 1
        assert "/etc/capd/capd.toml:15: captures.kept.users: there is no such key" in journal(service)
        with capturing(service, "capd-bob", "-w", "/home/capd-bob/none.pcapng") as capture:
            capture.next("file")
            send("tx", FRAMES, 5)
            capture.signal(signal.SIGTERM)
            capture.next("ended")
        check_complete(service.path("/home/capd-bob/none.pcapng"), 0)
    finally:
        configuration.unlink()
        service.run("systemctl", "restart", "capd.service")
        service.run("rm", "-r", "/var/lib/capd/kept")


def test_a_configuration_of_the_services_own_user_is_refused(service: Machine) -> None:
    """Or of anybody but root; by hand the daemon would believe it."""
    configuration = service.path("/etc/capd/capd.toml")
    daemon = service.daemon()
    try:
        configuration.write_text('[[rule]]\nname = "everybody"\neverybody = true\n')
        service.run("chown", "capd", "/etc/capd/capd.toml")
        refused = service.done("systemctl", "reload", "capd.service")
        assert refused.returncode == 1
        # The daemon looks itself, too.
        service.run("kill", "-HUP", daemon)
        eventually(lambda: "the earlier configuration stays in force" in journal(service), "it has looked")
        assert journal(service).count("'chown root /etc/capd/capd.toml'") == 2
        with capturing(service, "capd-stranger", "-w", "/home/capd-stranger/a.pcapng") as capture:
            assert capture.next("error")["code"] == "not_permitted"
        service.run("systemctl", "stop", "capd.service")
        assert service.done("systemctl", "start", "capd.service").returncode == 1
        service.run("chown", "root", "/etc/capd/capd.toml")
        service.run("systemctl", "reset-failed", "capd.service", "capd.socket")
        service.run("systemctl", "start", "capd.socket", "capd.service")
    finally:
        configuration.unlink()
        service.run("systemctl", "restart", "capd.service")


def test_a_capture_of_the_configuration_is_read_by_its_group(service: Machine) -> None:
    configuration = service.path("/etc/capd/capd.toml")
    try:
        configuration.write_text(CONFIGURATION)
        service.run("systemctl", "restart", "capd.service")
        kept = service.path("/var/lib/capd/kept")
        eventually(lambda: any(kept.glob("kept_00001_*")), "it has begun")
        send("tx", FRAMES, 5)
        eventually(lambda: any(kept.glob("kept_00003_*")), "it goes on")
        listed = service.run("ls", "/var/lib/capd/kept", user="capd-alice").split()
        # With the index of the ring, and its lock, which is nobody else's.
        index, lock, *files = listed
        assert [name.rpartition(".")[2] for name in listed] == ["index", "lock", "pcapng", "pcapng"]
        assert service.done("sum", f"/var/lib/capd/kept/{lock}", user="capd-alice").returncode == 1
        for name in (index, *files):
            service.run("sum", f"/var/lib/capd/kept/{name}", user="capd-alice")
            assert service.done("sum", f"/var/lib/capd/kept/{name}", user="capd-bob").returncode == 1
        (line,) = service.run("capctl", "list", user="capd-alice").splitlines()[1:]
        assert line.split()[1:3] == ["kept", "capd"]
        assert "kept_00003_" in line
        assert service.run("capctl", "list", user="capd-bob") == "No capture runs.\n"
    finally:
        configuration.unlink()
        service.run("systemctl", "restart", "capd.service")
        service.run("rm", "-r", "/var/lib/capd/kept")


METRICS = Path("/run/capd/metrics/metrics.sock")


def test_metrics_are_served_on_a_socket_as_the_unit_is(service: Machine) -> None:
    configuration = service.path("/etc/capd/capd.toml")
    try:
        configuration.write_text(f'{CONFIGURATION}\n[metrics]\nsocket = "{METRICS}"\ngroup = "capd-alice"\n')
        service.run("systemctl", "reload", "capd.service")
        eventually(service.path(METRICS).is_socket, "the socket is there")
        eventually(lambda: any(service.path("/var/lib/capd/kept").glob("kept_00001_*")), "a capture has begun")
        ask = ("curl", "-sSf", "--max-time", "20", "--unix-socket", METRICS, "http://capd/metrics")
        assert parsed(service.run(*ask, user="capd-alice"))["capd_clients"] == 0
        assert service.done(*ask, user="capd-bob").returncode == CURL_REFUSED
        owners = service.run("stat", "--format=%U", METRICS.parent, METRICS.parent.parent)
        assert owners.split() == ["capd", "root"]

        # By way of systemd's proxy they are at an address, which the daemon itself could not have.
        for name, text in proxy_units().items():
            service.path(f"/etc/systemd/system/{name}").write_text(text)
        service.run("systemctl", "daemon-reload")
        service.run("systemctl", "start", "capd-metrics.socket")
        samples = parsed(service.run("curl", "-sSf", "--max-time", "20", "http://127.0.0.1:9105/metrics"))
        assert samples["capd_clients"] == 0
        assert samples["process_resident_memory_bytes"] > 1e6
        assert samples['capd_captures{capture="kept"}'] == 1
        assert samples['capd_interface_drops_total{interface="rx",reason="dropped"}'] >= 0

        configuration.write_text("")
        service.run("systemctl", "reload", "capd.service")
        eventually(lambda: not service.path(METRICS).exists(), "the socket is gone")
    finally:
        configuration.unlink()
        service.done("systemctl", "stop", "capd-metrics.socket", "capd-metrics.service")
        for name in proxy_units():
            service.path(f"/etc/systemd/system/{name}").unlink(missing_ok=True)
        service.run("systemctl", "daemon-reload")
        service.run("systemctl", "restart", "capd.service")
        service.run("rm", "-r", "/var/lib/capd/kept")


def test_metrics_at_an_address_take_a_drop_in(service: Machine) -> None:
    configuration = service.path("/etc/capd/capd.toml")
    ask = ("curl", "-sSf", "--max-time", "20", "http://127.0.0.1:9105/metrics")
    try:
        configuration.write_text('[metrics]\naddress = "127.0.0.1:9105"\n')
        service.run("systemctl", "restart", "capd.service")
        reason = "metrics cannot be served at 127.0.0.1:9105: Address family not supported by protocol"
        eventually(lambda: reason in journal(service), "it is logged")
        assert service.done(*ask).returncode == CURL_REFUSED
        # A reload tells it too, and the service goes on.
        service.run("systemctl", "reload", "capd.service")
        assert f"/etc/capd/capd.toml: {reason} (warning)" in journal(service)
        service.configure(*drop_in())
        assert parsed(service.run(*ask))["capd_clients"] == 0
    finally:
        configuration.unlink()
        service.configure()


def test_the_journal_has_a_record_of_each_request_with_fields(service: Machine) -> None:
    with capturing(service, "capd-alice", "-w", "/home/capd-alice/audited.pcapng", "-c", "3", "-f", "udp") as capture:
        capture.next("file")
        send("tx", FRAMES, 3)
        capture.next("ended")
    with capturing(service, "capd-stranger", "-w", "/home/capd-stranger/x") as capture:
        capture.next("error")
    alice, stranger = (service.run("id", "--user", f"capd-{name}").strip() for name in ("alice", "stranger"))
    eventually(lambda: len(records(service, f"CAPD_UID={alice}", "CAPD_FILE=audited.pcapng")) == 2, "both are there")
    granted, ended = records(service, f"CAPD_UID={alice}", "CAPD_FILE=audited.pcapng")
    assert (granted["CAPD_VERDICT"], ended["CAPD_VERDICT"]) == ("granted", "ended")
    for record in (granted, ended):
        assert record["CAPD_REQUEST"] == "start"
        assert (record["CAPD_INTERFACES"], record["CAPD_FILTER"]) == ("rx", "udp")
        assert record["CAPD_RULE"] == "capd"
        assert record["CAPD_CAPTURE"] == granted["CAPD_CAPTURE"]
    assert (ended["CAPD_END"], ended["CAPD_PACKETS"], ended["CAPD_FILES"]) == ("packets", "3", "1")
    refused = records(service, f"CAPD_UID={stranger}", "CAPD_VERDICT=refused")[-1]
    assert (refused["CAPD_CODE"], refused["PRIORITY"]) == ("not_permitted", "5")
    assert "ask an administrator to be added to the group capd" in refused["CAPD_REASON"]


# Ends --------------------------------------------------------------------------------------------------------------


def test_a_worker_that_is_killed_ends_its_capture_alone(service: Machine) -> None:
    with capturing(service, "capd-bob", "-w", "/home/capd-bob/lasting.pcapng") as lasting:
        lasting.next("file")
        others = set(service.workers())
        with capturing(service, "capd-alice", "-w", "/home/capd-alice/killed.pcapng") as killed:
            killed.next("file")
            (worker,) = set(service.workers()) - others
            service.run("kill", "-KILL", worker)
            assert killed.next("error")["code"] == "worker_died"
        send("tx", FRAMES, 4)
        assert lasting.next("packets")["packets_total"] > 0
        lasting.signal(signal.SIGTERM)
        assert lasting.next("ended")["reason"] == "stopped"
    assert re.search(r"capture \d+: its worker died with status -9", journal(service))


def test_captures_go_on_when_the_process_that_forks_them_is_killed(service: Machine) -> None:
    daemon, spawner = service.daemon(), service.spawner()
    with capturing(service, "capd-alice", "-w", "/home/capd-alice/kept.pcapng", "-c", "5") as kept:
        kept.next("file")
        service.run("kill", "-KILL", spawner)
        with capturing(service, "capd-bob", "-w", "/home/capd-bob/next.pcapng", "-c", "5") as following:
            following.next("file")
            send("tx", FRAMES, 5)
            assert kept.next("ended")["reason"] == following.next("ended")["reason"] == "packets"
    assert service.daemon() == daemon
    eventually(lambda: service.spawner() not in (0, spawner), "another one")
    assert "is started" in journal(service)


def test_the_process_that_forks_workers_is_confined_as_the_daemon_is(service: Machine) -> None:
    daemon, spawner = service.status_of(service.daemon()), service.status_of(service.spawner())
    for name in ("Uid", "Gid", "Groups", "CapPrm", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp"):
        assert spawner[name] == daemon[name], name


def test_nothing_of_a_service_that_was_killed_remains(service: Machine) -> None:
    with capturing(service, "capd-alice", "-w", "/home/capd-alice/killed.pcapng") as capture:
        capture.next("file")
        before = [service.daemon(), service.spawner(), *service.workers()]
        service.run("kill", "-KILL", before[0])
        assert capture.process.wait() == 1
    await_daemon_after(service, before)
    assert not any(service.path(f"/proc/{process_id}").exists() for process_id in before)


def test_a_daemon_that_is_killed_is_started_anew(service: Machine) -> None:
    daemon = service.daemon()
    with capturing(service, "capd-alice", "-w", "/home/capd-alice/cut.pcapng") as capture:
        capture.next("file")
        send("tx", FRAMES, 5)
        while capture.next("packets")["packets_total"] < 5:
            pass
        service.run("kill", "-KILL", daemon)
        assert capture.process.wait() == 1
    # At once: the socket was there all the time.
    service.run("capctl", "list", user="capd-alice")
    assert service.daemon() not in (0, daemon)
    assert service.show("NRestarts") != "0"
    assert service.path("/home/capd-alice/cut.pcapng").stat().st_size > 5 * len(FRAMES[0])


def test_a_daemon_that_hangs_is_started_anew(service: Machine) -> None:
    try:
        service.configure("WatchdogSec=500ms")
        daemon = service.daemon()
        service.run("kill", "-STOP", daemon)
        await_daemon_after(service, [daemon])
        service.run("capctl", "list", user="capd-alice")
        assert "Watchdog timeout" in journal(service)
        assert "Current thread" in journal(service), "where it hung"
    finally:
        service.configure()


def test_a_daemon_that_works_is_left_alone_by_the_watchdog(service: Machine) -> None:
    try:
        service.configure("WatchdogSec=500ms")
        daemon = service.daemon()
        with capturing(service, "capd-alice", "-w", "/home/capd-alice/watched.pcapng", "-a", "duration:1.5") as capture:
            assert capture.next("ended")["reason"] == "duration"
        assert service.daemon() == daemon
    finally:
        service.configure()


def test_a_restart_ends_captures_well_and_leaves_the_socket(service: Machine) -> None:
    daemon, socket = service.daemon(), service.path(SOCKET).stat()
    with capturing(service, "capd-alice", "-w", "/home/capd-alice/ended.pcapng") as capture:
        capture.next("file")
        send("tx", FRAMES, 5)
        assert capture.next("packets")["packets_total"] > 0
        service.run("systemctl", "restart", "capd.service")
        assert capture.next("ended")["reason"] == "daemon_stopping"
        assert capture.process.wait() == 1
    check_complete(service.path("/home/capd-alice/ended.pcapng"), 5)
    service.run("capctl", "list", user="capd-alice")
    assert service.daemon() != daemon
    assert service.path(SOCKET).stat().st_ino == socket.st_ino


def test_a_restart_does_not_wait_for_a_worker_that_its_user_has_stopped(service: Machine) -> None:
    """The daemon has no CAP_KILL; it kills as that user, which the hardened unit must let it."""
    daemon = service.daemon()
    with capturing(service, "capd-alice", "-w", "/home/capd-alice/stopped.pcapng") as capture:
        capture.next("file")
        (worker,) = service.workers()
        service.run("kill", "-STOP", worker, user="capd-alice")
        service.run("systemctl", "restart", "capd.service")
        assert capture.next("ended")["reason"] == "failed"
    assert service.daemon() not in (0, daemon)
    assert f"worker {worker} did not end in time and is killed" in journal(service)


def test_a_reload_ends_no_capture(service: Machine) -> None:
    daemon = service.daemon()
    with capturing(service, "capd-alice", "-w", "/home/capd-alice/reloaded.pcapng", "-c", "5") as capture:
        capture.next("file")
        service.run("systemctl", "reload", "capd.service")
        send("tx", FRAMES, 5)
        assert capture.next("ended")["reason"] == "packets"
    assert service.daemon() == daemon
    eventually(lambda: service.show("ActiveState") == "active", "the reload is over")


def test_after_a_stop_nothing_listens(service: Machine) -> None:
    with capturing(service, "capd-alice", "-w", "/home/capd-alice/stopped.pcapng") as capture:
        capture.next("file")
        service.run("systemctl", "stop", "capd.socket", "capd.service")
        assert capture.next("ended")["reason"] == "daemon_stopping"
    check_complete(service.path("/home/capd-alice/stopped.pcapng"), 0)
    assert service.done("capctl", "list", user="capd-alice").returncode == 3
    assert not service.path(SOCKET).exists()


def test_the_journal_tells_of_a_stop(service: Machine) -> None:
    service.run("systemctl", "stop", "capd.service")
    assert "Deactivated successfully" in journal(service)


# Uninstalling ------------------------------------------------------------------------------------------------------


def test_uninstalling_leaves_what_is_the_administrators(service: Machine) -> None:
    printed = service.run(CAPD, "uninstall-service")
    for left in ("user capd", "group capd", "/etc/capd", "/var/lib/capd", "--purge"):
        assert left in printed
    assert service.path("/var/lib/capd").is_dir()
    service.run("id", "capd")
    assert service.done("systemctl", "cat", "capd.service").returncode == 1


def test_nothing_is_left_after_a_purge(machine: Machine) -> None:
    def state() -> tuple[set[str], str, list[str]]:
        units = machine.run("systemctl", "list-unit-files", "--no-pager")
        return machine.files(*CHANGED), units, [machine.path(path).read_text() for path in ACCOUNTS]

    machine.run(CAPD, "uninstall-service", "--purge")  # of the tests before
    before = state()
    machine.run(CAPD, "install-service", "--now")
    machine.run("usermod", "--append", "--groups", "capd", "capd-alice")
    # It is stopped and disabled with the others, though its namespace is not there.
    machine.run("systemctl", "enable", "--now", "capd-netns@red.socket")
    with capturing(machine, "capd-alice", "-w", "/home/capd-alice/last.pcapng", "-c", "1") as capture:
        capture.next("file")
        send("tx", FRAMES, 1)
        capture.next("ended")
    machine.run(CAPD, "uninstall-service", "--purge")
    assert state() == before
    assert "removed" not in machine.run(CAPD, "uninstall-service", "--purge")
