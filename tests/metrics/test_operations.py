"""The page for operators: what it says exists, and what it shows can be used."""

import re
from pathlib import Path

import pytest

from capd.captures.registry import Captures
from capd.captures.tally import Counts
from capd.config import reader
from capd.metrics.page import Page
from capd.policy.rules import Policy
from capd.supervisor.closer import Closer
from capd.supervisor.packet_rings import PacketRingMaker
from capd.supervisor.spawner import Spawner
from capd_protocol.messages import EndReason
from tests.metrics.helpers import parsed

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
#: Of Prometheus itself, or of other programs.
_OTHERS = {"up", "node_network_receive_drop_total"}


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def proxy_units() -> dict[str, str]:
    """Return the units of the proxy, by their names; for a group that the tests have."""
    names = re.findall(r"`/etc/systemd/system/(\S+)`:$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    texts = [text.replace("=adm\n", "=capd-alice\n") for text in blocks("ini")]
    return dict(zip(names, texts, strict=True))


def drop_in() -> list[str]:
    """Return the lines of the drop-in."""
    (text,) = blocks("systemd")
    return text.splitlines()[1:]


async def metrics() -> dict[str, set[str]]:
    """Return the labels of all metrics that a daemon tells, and their values, where a capture has a name."""
    captures = Captures(Policy(()), Spawner(), Closer(), PacketRingMaker())
    captures.tally.add_ended("kept", Counts(), EndReason.STOPPED)
    text = (await Page(captures, lambda: 0, lambda: 0).text()).decode()
    found: dict[str, set[str]] = {name: set() for name in re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)}
    for sample in parsed(text):
        name, _, labels = sample.partition("{")
        found[name].update(re.findall(r'(\w+="[^"]*")', labels))
    found["capd_interface_drops_total"] = {f'reason="{reason}"' for reason in ("dropped", "missed", "fifo")}
    return found


async def test_the_table_has_all_metrics_and_no_others() -> None:
    there = set(await metrics())
    text = PAGE.read_text(encoding="utf-8")
    table = "".join(line for line in text.splitlines(keepends=True) if line.startswith("| `"))
    named = set(re.findall(r"`(capd_\w+)`", table))
    assert named == {name for name in there if name.startswith("capd_")}


async def test_alerts_ask_for_what_there_is() -> None:
    there = await metrics()
    alerts = re.findall(r"^ +expr: (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(alerts) >= 9
    for alert in alerts:
        names = set(re.findall(r"\b((?:capd|process)_\w+)", alert)) | ({"up"} & set(re.findall(r"\w+", alert)))
        assert names
        assert names <= {*there, *_OTHERS}, alert
        for name, values in re.findall(r"(\w+){reason=~?\"([^\"]+)\"}", alert):
            assert {f'reason="{value}"' for value in values.split("|")} <= there[name]
        for name, value in re.findall(r"(\w+){code=\"([^\"]+)\"}", alert):
            assert f'code="{value}"' in there[name]


def test_the_example_of_the_configuration_can_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "_group_id", lambda _: 4)  # whatever groups there are on this machine
    (example,) = [block for block in blocks("toml") if block.startswith("[metrics]")]
    (tmp_path / "capd.toml").write_text(example)
    place = reader.load(tmp_path / "capd.toml").metrics
    assert place == reader.MetricsSocket(Path("/run/capd/metrics/metrics.sock"), 4)
    assert f"socket-proxyd {place}\n" in "".join(proxy_units().values())
