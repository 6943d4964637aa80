"""Each message and its bytes are one another's only reading; dumpcap's own are dumpcap's, to the byte.

What is not a message is a protocol error, and never anything else; what is unknown survives.
"""

import json
import os
import struct
import subprocess
from enum import StrEnum
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from capd_protocol.errors import LocalProtocolError, RemoteProtocolError
from capd_protocol.frames import MAX_EVENT_SIZE_BYTES, Frame, FrameDecoder, encode_frame
from capd_protocol.messages import (
    AttachCapture,
    Attached,
    BadFilter,
    Capabilities,
    CaptureList,
    CaptureSummary,
    Conditions,
    Counters,
    DeletionReason,
    Destination,
    DeviceEnded,
    DeviceOpened,
    DirectoryWanted,
    DriverCounters,
    Drops,
    Ended,
    EndReason,
    ErrorMessage,
    Failed,
    Failure,
    FailureCode,
    FileClosed,
    FileDeleted,
    FileOpened,
    FlushCapture,
    Flushed,
    GetCapabilities,
    GetDriverCounters,
    Hello,
    Indicator,
    InterfaceAttached,
    InterfaceCounters,
    InterfaceEvent,
    InterfaceList,
    InterfaceLost,
    InterfaceRequest,
    InterfaceSkipped,
    InterfaceSnapshot,
    Lagged,
    ListCaptures,
    ListInterfaces,
    Message,
    OpenDevice,
    PacketCount,
    Permission,
    Permissions,
    Recorder,
    Recording,
    Refused,
    RevokeCaptures,
    Revoked,
    RevokedCapture,
    RevokedDevice,
    RevokedSender,
    RotateCapture,
    Rotated,
    Sending,
    SendingEnded,
    SendPermission,
    SnapshotCapture,
    SnapshotFailed,
    SnapshotTaken,
    StartCapture,
    Started,
    StartSending,
    Statistics,
    StopCapture,
    Stopping,
    Success,
    Triggered,
    TriggerReason,
    TriggersIgnored,
    Unknown,
    Watching,
    WatchInterfaces,
    WatchStatistics,
    WhoAmI,
    decode,
    encode,
)
from capd_protocol.messages.interfaces import (
    InterfaceChange,
    InterfaceCounts,
    InterfaceInfo,
    Link,
    LinkLayer,
    MissingRight,
    TimestampType,
)

REPEATABLE = settings(derandomize=True, deadline=None, max_examples=100)

# Message and frame, as dumpcap sends it.
DUMPCAP = [
    (FileOpened("/tmp/a.pcapng"), b"F\x00\x00\x0e/tmp/a.pcapng\0"),
    (FileOpened("-"), b"F\x00\x00\x02-\0"),
    (FileOpened("ü"), b"F\x00\x00\x03\xc3\xbc\0"),
    (FileOpened(os.fsdecode(b"\xff/\x80")), b"F\x00\x00\x04\xff/\x80\0"),
    (PacketCount(0), b"P\x00\x00\x020\0"),
    (PacketCount(1234), b"P\x00\x00\x051234\0"),
    (PacketCount(2**63), b"P\x00\x00\x149223372036854775808\0"),
    (Drops(0, "-"), b"D\x00\x00\x040:-\0"),
    (Drops(17, "eth0"), b"D\x00\x00\x0817:eth0\0"),
    (Drops(1, "rpcap://host:2002/eth0"), b"D\x00\x00\x191:rpcap://host:2002/eth0\0"),
    (ErrorMessage("no"), b"E\x00\x00\x0cE\x00\x00\x03no\0E\x00\x00\x01\0"),
    (ErrorMessage("no", "ask\nroot"), b"E\x00\x00\x14E\x00\x00\x03no\0E\x00\x00\x09ask\nroot\0"),
    (ErrorMessage("", ""), b"E\x00\x00\x0aE\x00\x00\x01\0E\x00\x00\x01\0"),
    (BadFilter(0, "syntax error"), b"B\x00\x00\x0f0:syntax error\0"),
    (BadFilter(12, "unknown host: 'a'"), b"B\x00\x00\x1512:unknown host: 'a'\0"),
    (Success(), b"S\x00\x00\x00"),
]

LO = InterfaceCounters(interface="lo", received_total=9, written_total=4, kernel_drops_total=3, excess_total=2)
LO_JSON = {
    "interface": "lo",
    "received_total": 9,
    "written_total": 4,
    "kernel_drops_total": 3,
    "writer_drops_total": 0,
    "excess_total": 2,
}
NO_CONDITIONS = dict.fromkeys(
    ("duration_s", "filesize_kb", "packets", "files", "interval_s", "total_kb", "age_s", "free_kb")
)
SUMMARY = CaptureSummary(
    capture_id=1,
    user_id=1000,
    interfaces=("lo", "eth0"),
    file_name="a.pcapng",
    started_ns=1_700_000_000_123_456_789,
    files_total=2,
    packets_total=3,
    drops_total=4,
    name="dns",
    directory="/var/tmp",
    is_waiting=True,
    is_recorder=True,
)
SUMMARY_JSON: dict[str, Any] = {
    "capture_id": 1,
    "user_id": 1000,
    "interfaces": ["lo", "eth0"],
    "file_name": "a.pcapng",
    "started_ns": 1_700_000_000_123_456_789,
    "files_total": 2,
    "packets_total": 3,
    "drops_total": 4,
    "name": "dns",
    "is_contained": False,
    "directory": "/var/tmp",
    "is_waiting": True,
    "is_recorder": True,
}
FAILURE = Failure(code=FailureCode.DISK, text="full")
FAILURE_JSON = {
    "code": "disk",
    "text": "full",
    "argument": None,
    "interface": None,
    "interface_index": None,
    "position": None,
}

# Message, indicator and JSON object. What is None or at its default is written out all the same.
OURS: list[tuple[Message, str, dict[str, Any]]] = [
    (Hello(protocol_version=1, software="capd 0.1.0"), "h", {"protocol_version": 1, "software": "capd 0.1.0"}),
    (
        StartCapture(interfaces=(InterfaceRequest(name="eth0"),), destination=Destination(file_name="a.pcapng")),
        "r",
        {
            "type": "start",
            "interfaces": [
                {
                    "name": "eth0",
                    "capture_filter": "",
                    "snaplen_bytes": 262_144,
                    "promiscuous": None,
                    "monitor_mode": False,
                    "wifi_channel": None,
                    "link_layer_type": None,
                    "kernel_buffer_size_bytes": None,
                    "label": "",
                    "description": "",
                    "is_stream": False,
                    "comes_again": False,
                    "direction": "inout",
                }
            ],
            "destination": {
                "file_name": "a.pcapng",
                "group_access": False,
                "exclusive": False,
                "unnamed": False,
                "time_first": False,
            },
            "file_format": "pcapng",
            "ring": None,
            "recorder": None,
            "autostop": NO_CONDITIONS,
            "update_interval_s": 0.1,
            "packet_flags": False,
            "comments": [],
            "compress_type": None,
            "wait_for_interfaces": False,
            "pass_files": False,
            "name": None,
            "detached": False,
        },
    ),
    (
        StartCapture(
            interfaces=(
                InterfaceRequest(
                    name="wlan0",
                    capture_filter="tcp port 80",
                    snaplen_bytes=96,
                    promiscuous=False,
                    monitor_mode=True,
                    wifi_channel="2437,HT40+",
                    link_layer_type="IEEE802_11_RADIO",
                    kernel_buffer_size_bytes=1_048_576,
                    direction="in",
                ),
                InterfaceRequest(name="ü", is_stream=True, comes_again=True),
            ),
            destination=Destination(file_name="a", group_access=True, exclusive=True, unnamed=True, time_first=True),
            file_format="pcap",
            ring=Conditions(
                duration_s=0.5,
                filesize_kb=1000,
                packets=10,
                files=5,
                interval_s=60,
                total_kb=2000,
                age_s=3600.5,
                free_kb=9,
            ),
            recorder=Recorder(
                duration_s=30.5,
                memory_bytes=8_388_608,
                after_s=2,
                trigger_filter="udp",
                trigger_pps=7,
                trigger_link_down=True,
                cool_down_s=12.5,
                kept=Conditions(files=3),
            ),
            autostop=Conditions(files=2**31 - 1),
            update_interval_s=60,
            packet_flags=True,
            comments=("first", "second"),
            wait_for_interfaces=True,
            name="dns",
            detached=True,
        ),
        "r",
        {
            "type": "start",
            "interfaces": [
                {
                    "name": "wlan0",
                    "capture_filter": "tcp port 80",
                    "snaplen_bytes": 96,
                    "promiscuous": False,
                    "monitor_mode": True,
                    "wifi_channel": "2437,HT40+",
                    "link_layer_type": "IEEE802_11_RADIO",
                    "kernel_buffer_size_bytes": 1_048_576,
                    "label": "",
                    "description": "",
                    "is_stream": False,
                    "comes_again": False,
                    "direction": "in",
                },
                {
                    "name": "ü",
                    "capture_filter": "",
                    "snaplen_bytes": 262_144,
                    "promiscuous": None,
                    "monitor_mode": False,
                    "wifi_channel": None,
                    "link_layer_type": None,
                    "kernel_buffer_size_bytes": None,
                    "label": "",
                    "description": "",
                    "is_stream": True,
                    "comes_again": True,
                    "direction": "inout",
                },
            ],
            "destination": {
                "file_name": "a",
                "group_access": True,
                "exclusive": True,
                "unnamed": True,
                "time_first": True,
            },
            "file_format": "pcap",
            "ring": {
                "duration_s": 0.5,
                "filesize_kb": 1000,
                "packets": 10,
                "files": 5,
                "interval_s": 60,
                "total_kb": 2000,
                "age_s": 3600.5,
                "free_kb": 9,
            },
            "recorder": {
                "duration_s": 30.5,
                "memory_bytes": 8_388_608,
                "after_s": 2,
                "trigger_filter": "udp",
                "trigger_pps": 7,
                "trigger_link_down": True,
                "cool_down_s": 12.5,
                "kept": {**NO_CONDITIONS, "files": 3},
            },
            "autostop": {**NO_CONDITIONS, "files": 2**31 - 1},
            "update_interval_s": 60,
            "packet_flags": True,
            "comments": ["first", "second"],
            "compress_type": None,
            "wait_for_interfaces": True,
            "pass_files": False,
            "name": "dns",
            "detached": True,
        },
    ),
    (StopCapture(), "r", {"type": "stop", "capture": None}),
    (StopCapture(capture=7), "r", {"type": "stop", "capture": 7}),
    (StopCapture(capture="dns"), "r", {"type": "stop", "capture": "dns"}),
    (AttachCapture(capture="dns"), "r", {"type": "attach", "capture": "dns"}),
    (RotateCapture(capture=7), "r", {"type": "rotate", "capture": 7}),
    (FlushCapture(), "r", {"type": "flush", "capture": None}),
    (SnapshotCapture(capture=7), "r", {"type": "snapshot", "capture": 7, "after_s": None}),
    (SnapshotCapture(after_s=1.5), "r", {"type": "snapshot", "capture": None, "after_s": 1.5}),
    (RevokeCaptures(), "r", {"type": "revoke", "user_id": None, "dry_run": False}),
    (
        RevokeCaptures(user_id=2**32 - 2, dry_run=True),
        "r",
        {"type": "revoke", "user_id": 4_294_967_294, "dry_run": True},
    ),
    (ListCaptures(), "r", {"type": "list"}),
    (WhoAmI(), "r", {"type": "whoami"}),
    (
        Permissions(
            user_id=1000,
            group_ids=(1000, 27),
            permissions=(
                Permission(
                    rule="dns",
                    interfaces=("eth*", "any"),
                    filter="udp port 53",
                    max_snaplen_bytes=128,
                    promiscuous=False,
                    monitor_mode=True,
                    max_captures=2,
                    max_disk_bytes=10**12,
                    max_duration_s=0.5,
                ),
                Permission(
                    rule="rest",
                    interfaces=("*",),
                    filter="",
                    max_snaplen_bytes=262144,
                    promiscuous=True,
                    monitor_mode=False,
                    max_captures=None,
                    max_disk_bytes=None,
                    max_duration_s=None,
                    send=SendPermission(interfaces=("eth0",), max_pps=1000, source_macs=("*",)),
                    devices=("nflog:5", "dbus-*"),
                ),
            ),
            advice="ask netops",
        ),
        "a",
        {
            "type": "permissions",
            "user_id": 1000,
            "group_ids": [1000, 27],
            "permissions": [
                {
                    "rule": "dns",
                    "interfaces": ["eth*", "any"],
                    "filter": "udp port 53",
                    "max_snaplen_bytes": 128,
                    "promiscuous": False,
                    "monitor_mode": True,
                    "max_captures": 2,
                    "max_disk_bytes": 1_000_000_000_000,
                    "max_duration_s": 0.5,
                    "send": None,
                    "devices": [],
                },
                {
                    "rule": "rest",
                    "interfaces": ["*"],
                    "filter": "",
                    "max_snaplen_bytes": 262144,
                    "promiscuous": True,
                    "monitor_mode": False,
                    "max_captures": None,
                    "max_disk_bytes": None,
                    "max_duration_s": None,
                    "send": {"interfaces": ["eth0"], "max_pps": 1000, "source_macs": ["*"]},
                    "devices": ["nflog:5", "dbus-*"],
                },
            ],
            "advice": "ask netops",
            "is_contained": False,
        },
    ),
    (DirectoryWanted(), "a", {"type": "directory_wanted"}),
    (
        Started(capture_id=7, interfaces=("eth0",)),
        "a",
        {"type": "started", "capture_id": 7, "interfaces": ["eth0"]},
    ),
    (
        Rotated(file_name="a_00002_20260131120000.pcapng"),
        "a",
        {"type": "rotated", "file_name": "a_00002_20260131120000.pcapng"},
    ),
    (SnapshotTaken(file_name="a"), "a", {"type": "snapshot_taken", "file_name": "a"}),
    (Flushed(), "a", {"type": "flushed"}),
    (Stopping(), "a", {"type": "stopping"}),
    (Refused(failure=FAILURE), "a", {"type": "refused", "failure": FAILURE_JSON}),
    (CaptureList(captures=(), is_last=False), "a", {"type": "captures", "captures": [], "is_last": False}),
    (
        CaptureList(
            captures=(SUMMARY,),
            is_last=True,
        ),
        "a",
        {
            "type": "captures",
            "captures": [
                SUMMARY_JSON,
            ],
            "is_last": True,
        },
    ),
    (
        Revoked(
            ended=(RevokedCapture(capture_id=7, user_id=1000, why="no rule names the user", name="dns"),),
            kept=(RevokedCapture(capture_id=8, user_id=1001, why="unknown", is_contained=True),),
            is_last=False,
            senders_ended=(RevokedSender(user_id=1000, interface="eth0", why="no rule names the user"),),
            senders_kept=(RevokedSender(user_id=1001, interface="eth1", why="unknown", is_contained=True),),
            devices_ended=(RevokedDevice(user_id=1000, device="nflog:5", why="no rule names the user"),),
            devices_kept=(RevokedDevice(user_id=1001, device="nflog:6", why="unknown", is_contained=True),),
        ),
        "a",
        {
            "type": "revoked",
            "ended": [
                {
                    "capture_id": 7,
                    "user_id": 1000,
                    "why": "no rule names the user",
                    "name": "dns",
                    "is_contained": False,
                }
            ],
            "kept": [{"capture_id": 8, "user_id": 1001, "why": "unknown", "name": None, "is_contained": True}],
            "is_last": False,
            "senders_ended": [
                {"user_id": 1000, "interface": "eth0", "why": "no rule names the user", "is_contained": False}
            ],
            "senders_kept": [{"user_id": 1001, "interface": "eth1", "why": "unknown", "is_contained": True}],
            "devices_ended": [
                {"user_id": 1000, "device": "nflog:5", "why": "no rule names the user", "is_contained": False}
            ],
            "devices_kept": [{"user_id": 1001, "device": "nflog:6", "why": "unknown", "is_contained": True}],
        },
    ),
    (
        Revoked(ended=(), kept=(), is_last=True),
        "a",
        {
            "type": "revoked",
            "ended": [],
            "kept": [],
            "is_last": True,
            "senders_ended": [],
            "senders_kept": [],
            "devices_ended": [],
            "devices_kept": [],
        },
    ),
    (StartSending(interface="eth0"), "r", {"type": "send", "interface": "eth0"}),
    (
        OpenDevice(interface=InterfaceRequest(name="nflog:5", is_stream=True, direction="in")),
        "r",
        {
            "type": "open_device",
            "interface": {
                "name": "nflog:5",
                "capture_filter": "",
                "snaplen_bytes": 262144,
                "promiscuous": None,
                "monitor_mode": False,
                "wifi_channel": None,
                "link_layer_type": None,
                "kernel_buffer_size_bytes": None,
                "direction": "in",
                "label": "",
                "description": "",
                "is_stream": True,
                "comes_again": False,
            },
        },
    ),
    (DeviceOpened(rule="log"), "a", {"type": "device_opened", "rule": "log"}),
    (DeviceEnded(failure=FAILURE), "e", {"type": "device_ended", "failure": FAILURE_JSON}),
    (
        Sending(
            interface="eth0", rule="replay", max_frame_bytes=1514, max_pps=None, source_macs=("02:00:00:00:00:01",)
        ),
        "a",
        {
            "type": "sending",
            "interface": "eth0",
            "rule": "replay",
            "max_frame_bytes": 1514,
            "max_pps": None,
            "source_macs": ["02:00:00:00:00:01"],
        },
    ),
    (
        SendingEnded(sent_total=5, refused_total=2),
        "e",
        {"type": "sending_ended", "sent_total": 5, "refused_total": 2, "failure": None},
    ),
    (
        Attached(capture=SUMMARY, file_format="pcapng", is_ring=True, packets_total=7, closed_bytes_total=8),
        "a",
        {
            "type": "attached",
            "capture": SUMMARY_JSON,
            "file_format": "pcapng",
            "is_ring": True,
            "packets_total": 7,
            "closed_bytes_total": 8,
        },
    ),
    (
        Counters(file_size_bytes=2**63 - 1, interfaces=(LO,), disk_bytes=2**63 - 1, is_waiting=True),
        "e",
        {
            "type": "counters",
            "file_size_bytes": 2**63 - 1,
            "interfaces": [LO_JSON],
            "disk_bytes": 2**63 - 1,
            "is_waiting": True,
        },
    ),
    (
        FileClosed(name="a", packets=1, size_bytes=2, first_timestamp_ns=3, last_timestamp_ns=4, drops=5),
        "e",
        {
            "type": "file_closed",
            "name": "a",
            "packets": 1,
            "size_bytes": 2,
            "first_timestamp_ns": 3,
            "last_timestamp_ns": 4,
            "drops": 5,
        },
    ),
    (
        FileClosed(name="a", packets=0, size_bytes=2, first_timestamp_ns=None, last_timestamp_ns=None, drops=0),
        "e",
        {
            "type": "file_closed",
            "name": "a",
            "packets": 0,
            "size_bytes": 2,
            "first_timestamp_ns": None,
            "last_timestamp_ns": None,
            "drops": 0,
        },
    ),
    (
        FileDeleted(name="a", reason=DeletionReason.FREE_SPACE, size_bytes=2),
        "e",
        {"type": "file_deleted", "name": "a", "reason": "free_space", "size_bytes": 2},
    ),
    (
        InterfaceLost(interface="eth0", text="gone"),
        "e",
        {"type": "interface_lost", "interface": "eth0", "text": "gone"},
    ),
    (InterfaceAttached(interface="eth0"), "e", {"type": "interface_attached", "interface": "eth0"}),
    (
        InterfaceSkipped(interface="eth0", text="no"),
        "e",
        {"type": "interface_skipped", "interface": "eth0", "text": "no"},
    ),
    (
        Recording(memory_bytes=5, duration_s=None),
        "e",
        {"type": "recording", "memory_bytes": 5, "duration_s": None},
    ),
    (
        Triggered(reason=TriggerReason.LINK_DOWN, interface="eth0"),
        "e",
        {"type": "triggered", "reason": "link_down", "interface": "eth0"},
    ),
    (Triggered(reason=TriggerReason.RATE), "e", {"type": "triggered", "reason": "rate", "interface": None}),
    (TriggersIgnored(triggers=3), "e", {"type": "triggers_ignored", "triggers": 3}),
    (SnapshotFailed(failure=FAILURE), "e", {"type": "snapshot_failed", "failure": FAILURE_JSON}),
    (Lagged(events=3), "e", {"type": "lagged", "events": 3}),
    (
        Failed(
            failure=Failure(
                code=FailureCode.BAD_FILTER,
                text="syntax error",
                argument="capture_filter",
                interface="eth0",
                interface_index=1,
                position=4,
            )
        ),
        "e",
        {
            "type": "failed",
            "failure": {
                "code": "bad_filter",
                "text": "syntax error",
                "argument": "capture_filter",
                "interface": "eth0",
                "interface_index": 1,
                "position": 4,
            },
        },
    ),
    (Ended(reason=EndReason.REVOKED, interfaces=()), "e", {"type": "ended", "reason": "revoked", "interfaces": []}),
    (
        Ended(reason=EndReason.CLIENT_LEFT, interfaces=(LO,)),
        "e",
        {"type": "ended", "reason": "client_left", "interfaces": [LO_JSON]},
    ),
]

LINK_JSON = {
    "index": 3,
    "name": "eth0.5",
    "loopback": False,
    "is_up": True,
    "state": "lowerlayerdown",
    "mtu": 1500,
    "hardware_type": 1,
    "mac_address": "02:00:00:00:00:01",
    "kind": "vlan",
    "bound_to_index": 2,
    "bound_to_namespace": 0,
    "master_index": 9,
    "alias": "für später",
    "addresses": ["192.0.2.1", "fe80::1"],
}
LINK = Link(
    index=3,
    name="eth0.5",
    loopback=False,
    is_up=True,
    state="lowerlayerdown",
    mtu=1500,
    hardware_type=1,
    mac_address="02:00:00:00:00:01",
    kind="vlan",
    bound_to_index=2,
    bound_to_namespace=0,
    master_index=9,
    alias="für später",
    addresses=("192.0.2.1", "fe80::1"),
)
PLAIN_LINK = Link(index=1, name="lo", loopback=True, is_up=False, state="down", mtu=65_536, hardware_type=772)
PLAIN_LINK_JSON = {
    "index": 1,
    "name": "lo",
    "loopback": True,
    "is_up": False,
    "state": "down",
    "mtu": 65_536,
    "hardware_type": 772,
    "mac_address": None,
    "kind": None,
    "bound_to_index": None,
    "bound_to_namespace": None,
    "master_index": None,
    "alias": "",
    "addresses": [],
}
INTERFACE_JSON = {
    "name": "eth0.5",
    "number": 1,
    "description": "a network",
    "interface_type": 8,
    "loopback": False,
    "addresses": ["192.0.2.1"],
    "link": LINK_JSON,
    "speed_bits_per_s": 10_000_000_000,
    "driver": "802.1Q VLAN Support",
    "bus": "0000:00:01.0",
    "network_namespace": "net:[4026531840]",
    "may_capture": True,
    "needs": None,
}
PLAIN_INTERFACE_JSON = {
    "name": "nflog",
    "number": 2,
    "description": "",
    "interface_type": 0,
    "loopback": False,
    "addresses": [],
    "link": None,
    "speed_bits_per_s": None,
    "driver": None,
    "bus": None,
    "network_namespace": None,
    "may_capture": False,
    "needs": None,
}
LACKING_JSON = {**PLAIN_INTERFACE_JSON, "name": "any", "needs": "rule"}

OURS += [
    (ListInterfaces(), "r", {"type": "list_interfaces"}),
    (
        GetCapabilities(interface="lo"),
        "r",
        {"type": "get_capabilities", "interface": "lo", "monitor_mode": False},
    ),
    (
        GetCapabilities(interface="wlan0", monitor_mode=True),
        "r",
        {"type": "get_capabilities", "interface": "wlan0", "monitor_mode": True},
    ),
    (GetDriverCounters(interface="lo"), "r", {"type": "get_driver_counters", "interface": "lo"}),
    (WatchInterfaces(), "r", {"type": "watch_interfaces"}),
    (WatchStatistics(), "r", {"type": "watch_statistics", "interval_s": 1.0}),
    (WatchStatistics(interval_s=0.25), "r", {"type": "watch_statistics", "interval_s": 0.25}),
    (
        InterfaceList(
            interfaces=(
                InterfaceInfo(
                    name="eth0.5",
                    number=1,
                    description="a network",
                    interface_type=8,
                    loopback=False,
                    addresses=("192.0.2.1",),
                    link=LINK,
                    speed_bits_per_s=10_000_000_000,
                    driver="802.1Q VLAN Support",
                    bus="0000:00:01.0",
                    network_namespace="net:[4026531840]",
                    may_capture=True,
                ),
                InterfaceInfo(name="nflog", number=2),
                InterfaceInfo(name="any", number=2, needs=MissingRight.RULE),
            ),
            is_last=True,
        ),
        "a",
        {"type": "interfaces", "interfaces": [INTERFACE_JSON, PLAIN_INTERFACE_JSON, LACKING_JSON], "is_last": True},
    ),
    (
        Capabilities(
            can_rfmon=True,
            link_layers=(LinkLayer(dlt=1, name="EN10MB", description="Ethernet"),),
            timestamp_types=(TimestampType(name="host", description="Host"),),
        ),
        "a",
        {
            "type": "capabilities",
            "can_rfmon": True,
            "link_layers": [{"dlt": 1, "name": "EN10MB", "description": "Ethernet"}],
            "timestamp_types": [{"name": "host", "description": "Host"}],
        },
    ),
    (
        DriverCounters(counters={"rx_queue_0_xdp_drops": 0, "peer_ifindex": 2**64 - 1}),
        "a",
        {"type": "driver_counters", "counters": {"rx_queue_0_xdp_drops": 0, "peer_ifindex": 2**64 - 1}},
    ),
    (Watching(), "a", {"type": "watching"}),
    (
        InterfaceSnapshot(links=(PLAIN_LINK, LINK), is_first=True, is_last=False),
        "e",
        {"type": "interface_snapshot", "links": [PLAIN_LINK_JSON, LINK_JSON], "is_first": True, "is_last": False},
    ),
    (
        InterfaceEvent(change=InterfaceChange.RENAMED, link=LINK, former_name="eth1"),
        "e",
        {"type": "interface_event", "change": "renamed", "link": LINK_JSON, "former_name": "eth1"},
    ),
    (
        Statistics(
            counts=(
                InterfaceCounts(
                    name="lo",
                    rx_packets=1,
                    tx_packets=2,
                    rx_bytes=3,
                    tx_bytes=4,
                    rx_errors=5,
                    tx_errors=6,
                    rx_dropped=7,
                    tx_dropped=8,
                    multicast=9,
                    rx_missed_errors=10,
                    rx_fifo_errors=11,
                    tx_fifo_errors=2**64 - 1,
                ),
            ),
            gone=("eth0",),
            is_last=True,
        ),
        "e",
        # In this order, without names: there are many of them.
        {
            "type": "statistics",
            "counts": [["lo", 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 2**64 - 1]],
            "gone": ["eth0"],
            "is_last": True,
        },
    ),
]

every_dumpcap_message = pytest.mark.parametrize(("message", "data"), DUMPCAP, ids=[str(row[0]) for row in DUMPCAP])
every_message_of_ours = pytest.mark.parametrize(
    ("message", "indicator", "value"), OURS, ids=[f"{i}-{type(row[0]).__name__}" for i, row in enumerate(OURS)]
)


def single_frame(data: bytes) -> Frame:
    decoder = FrameDecoder()
    decoder.feed(data)
    frame = decoder.next_frame()
    assert frame is not None
    assert decoder.next_frame() is None
    decoder.check_end()
    return frame


# Both ways ------------------------------------------------------------------------------------------------------


@every_dumpcap_message
def test_dumpcap_message_to_bytes(message: Message, data: bytes) -> None:
    assert encode(message) == data


@every_dumpcap_message
def test_bytes_to_dumpcap_message(message: Message, data: bytes) -> None:
    assert decode(single_frame(data)) == message


@every_message_of_ours
def test_our_message_to_json(message: Message, indicator: str, value: dict[str, Any]) -> None:
    frame = single_frame(encode(message))
    assert chr(frame.indicator) == indicator
    assert json.loads(frame.payload) == value


@every_message_of_ours
def test_json_to_our_message(message: Message, indicator: str, value: dict[str, Any]) -> None:
    payload = json.dumps(value, ensure_ascii=False).encode()
    assert decode(Frame(ord(indicator), payload)) == message


def test_the_tables_hold_every_message() -> None:
    assert {type(row[0]) for row in (*DUMPCAP, *OURS)} | {Unknown} == set(get_args(Message))


def test_our_indicators_are_not_dumpcaps() -> None:
    dumpcaps = set("FPDEWBSILXTQ")
    assert {chr(indicator) for indicator in Indicator} & dumpcaps == {chr(row[1][0]) for row in DUMPCAP}
    assert not {row[1] for row in OURS} & dumpcaps


MINIMAL = [
    ("h", {"protocol_version": 1, "software": "x"}, Hello(protocol_version=1, software="x")),
    (
        "r",
        {"type": "start", "interfaces": [{"name": "lo"}], "destination": {"file_name": "a"}},
        StartCapture(interfaces=(InterfaceRequest(name="lo"),), destination=Destination(file_name="a")),
    ),
    ("r", {"type": "stop"}, StopCapture()),
    ("r", {"type": "revoke"}, RevokeCaptures()),
    (
        "a",
        {"type": "refused", "failure": {"code": "invalid", "text": "x"}},
        Refused(failure=Failure(code=FailureCode.INVALID, text="x")),
    ),
    (
        "e",
        {"type": "counters", "file_size_bytes": 0, "interfaces": [{"interface": "lo"}]},
        Counters(file_size_bytes=0, interfaces=(InterfaceCounters(interface="lo"),)),
    ),
]


@pytest.mark.parametrize(("indicator", "value", "message"), MINIMAL)
def test_what_is_left_out_has_its_default(indicator: str, value: object, message: Message) -> None:
    assert decode(Frame(ord(indicator), json.dumps(value).encode())) == message


WORDS = {
    FailureCode: "invalid bad_filter not_permitted no_such_interface interface_down interface_lost unsupported "
    "destination disk resources no_such_capture name_taken timeout protocol source_damaged worker_died stopping",
    InterfaceChange: "added removed renamed up down changed",
    MissingRight: "rule CAP_NET_RAW CAP_NET_ADMIN root",
    DeletionReason: "files total age free_space policy",
    EndReason: "stopped client_left daemon_stopping revoked duration filesize files packets disk_limit source_ended "
    "failed",
}


@pytest.mark.parametrize(("kind", "words"), WORDS.items(), ids=lambda each: getattr(each, "__name__", ""))
def test_the_words_on_the_wire_stay(kind: type[StrEnum], words: str) -> None:
    assert [member.value for member in kind] == words.split()


dumpcap_messages = st.one_of(
    st.builds(FileOpened, st.binary(max_size=40).map(os.fsdecode)),
    st.builds(PacketCount, st.integers(0, 2**64 - 1)),
    st.builds(Drops, st.integers(0, 2**64 - 1), st.binary(max_size=15).map(os.fsdecode)),
    st.builds(ErrorMessage, st.text(), st.text()),
    st.builds(BadFilter, st.integers(0, 10_000), st.text()),
)


@settings(REPEATABLE)
@example(BadFilter(0, "tcp\0"))
@given(dumpcap_messages)
def test_dumpcap_messages_survive_whatever_is_in_them(message: Message) -> None:
    assert decode(single_frame(encode(message))) == message


@given(indicator=st.sampled_from(sorted(set(range(256)) - {*Indicator})), payload=st.binary(max_size=20))
@settings(REPEATABLE, max_examples=300)
def test_unknown_indicators_survive(indicator: int, payload: bytes) -> None:
    message = decode(Frame(indicator, payload))
    assert message == Unknown(indicator, payload)
    assert encode(message) == encode_frame(indicator, payload)


def test_the_number_alone_is_what_very_old_dumpcaps_send() -> None:
    assert decode(Frame(ord("D"), b"17\0")) == Drops(17, "")


# Faults ---------------------------------------------------------------------------------------------------------

START = b'{"type":"start","interfaces":[{"name":"lo"}],"destination":{"file_name":"a"}%s}'

MALFORMED = {
    "P: nothing": (b"P", b""),
    "P: NUL": (b"P", b"\0"),
    "P: word": (b"P", b"many\0"),
    "P: negative": (b"P", b"-1\0"),
    "P: sign": (b"P", b"+1\0"),
    "P: space": (b"P", b" 1\0"),
    "P: newline": (b"P", b"1\n\0"),
    "P: underscore": (b"P", b"1_0\0"),
    "P: other digits": (b"P", "\u0661\0".encode()),  # ARABIC-INDIC DIGIT ONE
    "P: two numbers": (b"P", b"1\0002\0"),
    "P: hex": (b"P", b"0x1\0"),
    "P: fraction": (b"P", b"1.0\0"),
    "P: no end": (b"P", b"9" * 21 + b"\0"),
    "D: nothing": (b"D", b""),
    "D: no number": (b"D", b":eth0\0"),
    "D: word": (b"D", b"eth0:1\0"),
    "D: negative": (b"D", b"-1:eth0\0"),
    "B: nothing": (b"B", b""),
    "B: no index": (b"B", b"syntax error\0"),
    "B: negative": (b"B", b"-1:syntax error\0"),
    "E: nothing": (b"E", b""),
    "E: no frames": (b"E", b"no\0"),
    "E: one frame": (b"E", b"E\0\0\x03no\0"),
    "E: another inside": (b"E", b"E\0\0\x03no\0F\0\0\x01\0"),
    "E: more behind": (b"E", b"E\0\0\x03no\0E\0\0\x01\0\0"),
    "E: three": (b"E", b"E\0\0\x03no\0" * 3),
    "E: too long a text": (b"E", b"E\0\0\x03no\0E\xff\xff\xff\0"),
    "S: something": (b"S", b"\0"),
    "JSON: nothing": (b"r", b""),
    "JSON: none": (b"r", b"start"),
    "JSON: dumpcap's NUL": (b"r", b'{"type":"list"}\0'),
    "JSON: two": (b"r", b'{"type":"list"}{"type":"list"}'),
    "JSON: array": (b"r", b"[]"),
    "JSON: text": (b"r", b'"list"'),
    "JSON: null": (b"r", b"null"),
    "JSON: not UTF-8": (b"r", START % b',"file_format":"\xff"'),
    "JSON: half a character": (b"e", b'{"type":"interface_lost","interface":"\\ud800"}'),
    "JSON: no type": (b"r", b"{}"),
    "JSON: a name for a user": (b"r", b'{"type":"revoke","user_id":"alice"}'),
    "JSON: number for no trial": (b"r", b'{"type":"revoke","dry_run":0}'),
    "JSON: type is a number": (b"r", b'{"type":1}'),
    "JSON: unknown type": (b"r", b'{"type":"dance"}'),
    "JSON: type of another indicator": (b"r", b'{"type":"started","capture_id":1}'),
    "JSON: unknown field": (b"r", b'{"type":"list","colour":"red"}'),
    "JSON: unknown field inside": (b"r", START % b',"ring":{"colour":"red"}'),
    "JSON: missing field": (b"a", b'{"type":"started"}'),
    "JSON: missing field inside": (b"r", b'{"type":"start","interfaces":[{}],"destination":{"file_name":"a"}}'),
    "JSON: text for a number": (b"a", b'{"type":"started","capture_id":"1"}'),
    "JSON: fraction for a whole number": (b"a", b'{"type":"started","capture_id":1.5}'),
    "JSON: truth for a number": (b"a", b'{"type":"started","capture_id":true}'),
    "JSON: null for a number": (b"a", b'{"type":"started","capture_id":null}'),
    "JSON: number for a truth": (b"r", b'{"type":"start","interfaces":[{"name":"lo","promiscuous":1}]}'),
    "JSON: unknown word": (b"e", b'{"type":"ended","reason":"bored","interfaces":[]}'),
    "JSON: unknown format": (b"r", START % b',"file_format":"erf"'),
    "JSON: not a number": (b"r", START % b',"update_interval_s":NaN'),
    "JSON: infinite": (b"r", START % b',"update_interval_s":1e999'),
    "JSON: endless whole number": (b"a", b'{"type":"started","capture_id":' + b"9" * 5000 + b"}"),
    # The type may stand behind everything else: a decoder looks for it through all of that.
    "JSON: deep array": (b"r", b'{"a":' + b"[" * 100_000),
    "JSON: deep object": (b"e", b'{"a":' * 50_000),
    "JSON: deep and whole": (b"a", b'{"a":' + b"[" * 50_000 + b"]" * 50_000 + b',"type":"stopping"}'),
}


@pytest.mark.parametrize(("indicator", "payload"), MALFORMED.values(), ids=MALFORMED)
def test_malformed_messages_are_protocol_errors(indicator: bytes, payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=f"message '{indicator.decode()}'"):
        decode(Frame(indicator[0], payload))


@pytest.mark.parametrize(
    ("indicator", "payload"),
    [
        (b"P", b"9" * 100_000),
        (b"r", b'{"type":"' + b"x" * 100_000 + b'"}'),
        (b"r", b'{"type":"list","' + b"x" * 100_000 + b'":1}'),
        (b"e", b'{"type":"ended","reason":"' + b"x" * 100_000 + b'"}'),
    ],
    ids=["number", "type", "field", "word"],
)
def test_a_protocol_error_is_short_whatever_was_sent(indicator: bytes, payload: bytes) -> None:
    with pytest.raises(RemoteProtocolError) as raised:
        decode(Frame(indicator[0], payload))
    assert len(str(raised.value)) < 1000


@pytest.mark.parametrize("data", [row[1] for row in DUMPCAP if row[1][0] == ord("E")])
def test_a_truncated_error_is_a_protocol_error(data: bytes) -> None:
    payload = single_frame(data).payload
    for size_bytes in range(len(payload)):
        with pytest.raises(RemoteProtocolError):
            decode(Frame(ord("E"), payload[:size_bytes]))


@every_message_of_ours
def test_truncated_json_is_a_protocol_error(message: Message, indicator: str, value: dict[str, Any]) -> None:
    payload = single_frame(encode(message)).payload
    for size_bytes in range(len(payload)):
        with pytest.raises(RemoteProtocolError):
            decode(Frame(ord(indicator), payload[:size_bytes]))


def message_or_protocol_error(frame: Frame) -> None:
    try:
        message = decode(frame)
    except RemoteProtocolError:
        return
    assert isinstance(message, get_args(Message))


@settings(REPEATABLE, max_examples=500)
@given(st.sampled_from(Indicator), st.binary(max_size=60))
def test_any_payload_is_a_message_or_a_protocol_error(indicator: Indicator, payload: bytes) -> None:
    message_or_protocol_error(Frame(indicator, payload))


@settings(REPEATABLE, max_examples=600)
@given(st.sampled_from([row[0] for row in (*DUMPCAP, *OURS)]), st.data())
def test_a_damaged_message_is_a_message_or_a_protocol_error(message: Message, data: st.DataObject) -> None:
    frame = single_frame(encode(message))
    payload = bytearray(frame.payload)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(payload)))
        end = data.draw(st.integers(start, min(len(payload), start + 4)))
        payload[start:end] = data.draw(
            st.one_of(st.binary(max_size=3), st.sampled_from([b"null", b"-1", b"[]", b"1e400"]))
        )
    message_or_protocol_error(Frame(frame.indicator, bytes(payload)))


LONGEST_NAME = "x" * (MAX_EVENT_SIZE_BYTES - 1)


@pytest.mark.parametrize(
    ("possible", "too_long"),
    [
        (FileOpened(LONGEST_NAME), FileOpened(LONGEST_NAME + "x")),
        (ErrorMessage(LONGEST_NAME[:-9]), ErrorMessage(LONGEST_NAME[:-8])),
        (InterfaceLost(interface=LONGEST_NAME[:-50]), InterfaceLost(interface=LONGEST_NAME)),
        (Unknown(0, LONGEST_NAME.encode()), Unknown(0, LONGEST_NAME.encode() + b"xx")),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_longer_than_a_frame_is_not_sent(possible: Message, too_long: Message) -> None:
    assert decode(single_frame(encode(possible))) == possible
    with pytest.raises(LocalProtocolError):
        encode(too_long)


# What messages say of themselves --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("conditions", "switches"),
    [
        (Conditions(), False),
        (Conditions(files=3), False),
        (Conditions(total_kb=3, age_s=1, free_kb=2), False),
        (Conditions(interval_s=60), True),
        (Conditions(duration_s=0.5), True),
        (Conditions(filesize_kb=1), True),
        (Conditions(packets=1), True),
    ],
)
def test_conditions_know_whether_they_close_files(conditions: Conditions, switches: bool) -> None:
    assert conditions.switches is switches


def test_what_was_left_out_on_purpose_is_not_dropped() -> None:
    counters = InterfaceCounters(
        interface="lo",
        received_total=1111,
        written_total=1000,
        kernel_drops_total=100,
        writer_drops_total=10,
        excess_total=1,
    )
    assert counters.drops_total == 110


# Dumpcap itself -------------------------------------------------------------------------------------------------


def run_dumpcap(directory: Path, *arguments: str, data: bytes = b"") -> list[Message]:
    done = subprocess.run(
        ["dumpcap", *arguments, "-Z", "none"],
        cwd=directory,
        input=data,
        capture_output=True,
        timeout=30,
        check=False,
    )
    decoder = FrameDecoder()
    decoder.feed(done.stderr)
    found: list[Message] = []
    taken = b""
    while (frame := decoder.next_frame()) is not None:
        found.append(decode(frame))
        taken += encode(found[-1])
    decoder.check_end()
    assert taken == done.stderr
    return found


def pcap_with(packets: int) -> bytes:
    header = struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65535, 1)
    return header + b"".join(struct.pack("=IIII", i, 0, 60, 60) + bytes(60) for i in range(packets))


def test_what_dumpcap_says_of_a_capture(tmp_path: Path) -> None:
    heard = run_dumpcap(tmp_path, "-i", "-", "-w", "a.pcapng", data=pcap_with(20))
    assert heard == [FileOpened("a.pcapng"), PacketCount(20), Drops(0, "-")]


def test_what_dumpcap_says_of_an_error(tmp_path: Path) -> None:
    (heard,) = run_dumpcap(tmp_path, "-i", "nosuch0", "-w", "a.pcapng")
    assert isinstance(heard, ErrorMessage)
    assert '"nosuch0"' in heard.primary


def test_what_dumpcap_says_of_a_bad_filter(tmp_path: Path, veth: tuple[str, str]) -> None:
    heard = run_dumpcap(tmp_path, "-i", veth[0], "-f", "ip", "-i", veth[1], "-f", "tcp )", "-w", "a.pcapng")
    assert len(heard) == 1
    assert isinstance(heard[0], BadFilter)
    assert heard[0].interface_index == 1
    assert "syntax error" in heard[0].text
