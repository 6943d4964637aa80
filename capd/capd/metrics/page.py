"""The metrics page in Prometheus' text format, made when it is asked for.

Captures of the configuration have their names. All others are one sum, without a name, a user
or an interface, so that whoever may ask for metrics learns of nobody's capture.
"""

import logging
import math
import socket
from collections.abc import Callable, Iterator, Mapping

import trio
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from capd import limits
from capd.captures.registry import Captures
from capd.captures.tally import Counts, Gauges, total_counts, total_gauges
from capd.network.counters import counts_by_index
from capd.version import SOFTWARE
from capd_protocol.messages import EndReason, FailureCode
from capd_protocol.messages.interfaces import InterfaceCounts

_log = logging.getLogger(__name__)

#: Metric, what it means, field. Of each capture of the configuration, and of all others together.
_COUNTERS = (
    ("capd_capture_attempts", "Captures that were granted, whether they could begin or not", "attempts"),
    ("capd_workers_started", "Capture processes that were started", "workers"),
    ("capd_workers_died", "Capture processes that ended without a word", "deaths"),
    ("capd_files_opened", "Capture files that were begun", "files"),
    ("capd_written_bytes", "Bytes written to capture files", "written_bytes"),
    ("capd_received_packets", "Packets that passed the filter, lost or not", "received_packets"),
    ("capd_written_packets", "Packets written to capture files", "written_packets"),
    ("capd_excess_packets", "Packets left out on purpose: a limit had ended the capture", "excess_packets"),
)
_DROPS = (("kernel", "kernel_drops"), ("writer", "writer_drops"))
_GAUGES = (
    ("capd_captures", "Captures that run", "captures"),
    ("capd_disk_bytes", "Bytes that files of captures that run take", "disk_bytes"),
    ("capd_waiting_packets", "Packets in the kernel's rings, neither written nor lost yet", "waiting_packets"),
    ("capd_waiting_events", "Events that clients have not read yet", "waiting_events"),
)
_INTERFACE_DROPS = (("dropped", "rx_dropped"), ("missed", "rx_missed_errors"), ("fifo", "rx_fifo_errors"))


class Page:
    """The text, made anew at most every ``limits.SCRAPE_INTERVAL_S``."""

    def __init__(self, captures: Captures, clients: Callable[[], int], sent: Callable[[], int]) -> None:
        self._captures = captures
        self._telling = _Telling(captures, clients, sent)
        self._registry = CollectorRegistry()
        self._registry.register(self._telling)
        ProcessCollector(registry=self._registry)
        self._making = trio.Lock()
        self._made = b""
        self._made_s = -math.inf

    async def text(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        async with self._making:
            now_s = trio.current_time()
            if now_s >= self._made_s + limits.SCRAPE_INTERVAL_S:
                self._telling.interfaces = await self._interfaces()
                self._made, self._made_s = generate_latest(self._registry), now_s
            return self._made

    async def _interfaces(self) -> dict[str, InterfaceCounts]:
        """Return the kernel's counters of the interfaces that captures of the configuration are on, by name."""
        wanted = {
            name
            for capture in self._captures.running
            if capture.metrics_name
            for name in capture.account.interface_names
        }
        if not wanted:
            return {}
        try:
            counts = await counts_by_index({index: name for index, name in socket.if_nameindex() if name in wanted})
        except OSError as error:
            _log.warning("interfaces' counters are missing in the metrics: %s", error)
            return {}
        return {each.name: each for each in counts}


class _Telling(Collector):
    """Tells, when it is asked, of everything but the process."""

    def __init__(self, captures: Captures, clients: Callable[[], int], sent: Callable[[], int]) -> None:
        self._captures = captures
        self._clients = clients
        self._sent = sent
        self.interfaces: Mapping[str, InterfaceCounts] = {}

    def collect(self) -> Iterator[Metric]:
        """Tell all metrics."""
        yield InfoMetricFamily("capd", "The daemon", {"software": SOFTWARE})
        yield GaugeMetricFamily("capd_clients", "Clients that are connected", self._clients())
        yield CounterMetricFamily("capd_connections", "Clients that were served", self._captures.tally.clients)
        yield CounterMetricFamily("capd_sent_packets", "Packets that clients have sent", self._sent())
        refused = CounterMetricFamily(
            "capd_refused_requests", "Requests that were refused, or could not be carried out", labels=["code"]
        )
        for code in FailureCode:
            refused.add_metric([code], self._captures.tally.refused[code])
        yield refused
        yield from self._captures_shown()
        drops = CounterMetricFamily(
            "capd_interface_drops",
            "Packets that an interface of a capture of the configuration has lost before the kernel saw them",
            labels=["interface", "reason"],
        )
        for name, counts in sorted(self.interfaces.items()):
            for reason, field in _INTERFACE_DROPS:
                drops.add_metric([name, reason], getattr(counts, field))
        yield drops

    def _captures_shown(self) -> Iterator[Metric]:
        counts, gauges = self._by_name()
        for metric, meaning, field in _COUNTERS:
            counter = CounterMetricFamily(metric, meaning, labels=["capture"])
            for name, each in counts.items():
                counter.add_metric([name], getattr(each, field))
            yield counter
        drops = CounterMetricFamily(
            "capd_dropped_packets", "Packets that are missing in files, and should be there", labels=["capture", "by"]
        )
        for name, each in counts.items():
            for by, field in _DROPS:
                drops.add_metric([name, by], getattr(each, field))
        yield drops
        restarts = CounterMetricFamily(
            "capd_capture_restarts", "Captures of the configuration that were begun again", labels=["capture"]
        )
        for name, each in counts.items():
            if name:
                restarts.add_metric([name], max(each.attempts - 1, 0))
        yield restarts
        ends = CounterMetricFamily("capd_capture_ends", "Captures that have ended", labels=["capture", "reason"])
        for name in counts:
            for reason in EndReason:
                ends.add_metric([name, reason], self._captures.tally.ends[name, reason])
        yield ends
        for metric, meaning, field in _GAUGES:
            gauge = GaugeMetricFamily(metric, meaning, labels=["capture"])
            for name, standing in gauges.items():
                gauge.add_metric([name], getattr(standing, field))
            yield gauge

    def _by_name(self) -> tuple[dict[str, Counts], dict[str, Gauges]]:
        ended, running = self._captures.tally.ended, self._captures.running
        names = sorted({"", *ended, *(capture.metrics_name for capture in running)})
        counts: dict[str, list[Counts]] = {name: [ended.get(name, Counts())] for name in names}
        gauges: dict[str, list[Gauges]] = {name: [Gauges()] for name in names}
        for capture in running:
            counts[capture.metrics_name].append(capture.account.counts)
            gauges[capture.metrics_name].append(capture.gauges)
        return (
            {name: total_counts(each) for name, each in counts.items()},
            {name: total_gauges(each) for name, each in gauges.items()},
        )
