"""The demonstration that ``scripts/demo`` runs in a network namespace of its own."""

import contextlib
import os
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator
from pathlib import Path

from capd_client import CaptureSession
from capd_client.cli.text import count, si, table

SENDER, CAPTURED = "demo0", "demo1"
PACKETS = 6000
PACKETS_PER_S = 2000
DNS_PORT = 53
OTHER_PORT = 4000
FILTER = f"udp port {DNS_PORT}"


def make_link() -> None:
    """Make a pair of connected interfaces."""
    subprocess.run(["ip", "link", "add", SENDER, "type", "veth", "peer", "name", CAPTURED], check=True)
    for name in (SENDER, CAPTURED):
        subprocess.run(["ip", "link", "set", name, "addrgenmode", "none", "up"], check=True)


@contextlib.contextmanager
def daemon(directory: Path) -> Generator[str, None, None]:
    """Run capd until the block ends; give the path of its socket when it listens."""
    socket_path, notify_path = directory / "capd.sock", directory / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(notify_path))
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "capd", "--socket", str(socket_path)],
            env={**os.environ, "NOTIFY_SOCKET": str(notify_path)},
        )
        try:
            notify.settimeout(20)
            notify.recv(64)
            yield str(socket_path)
        finally:
            process.terminate()
            process.wait(20)


def frame(port: int, size_bytes: int) -> bytes:
    """Return an Ethernet frame with a UDP packet to a port."""
    payload = bytes(size_bytes - 42)
    udp = struct.pack("!HHHH", 40000, port, 8 + len(payload), 0)
    addresses = socket.inet_aton("192.0.2.1") + socket.inet_aton("192.0.2.2")
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 28 + len(payload), 0, 0, 64, 17, 0) + addresses
    total = sum(struct.unpack("!10H", ip))
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    ip = ip[:10] + struct.pack("!H", checksum) + ip[12:]
    return bytes.fromhex("020000000002 020000000001 0800") + ip + udp + payload


def send() -> None:
    """Send packets, half of them for the filter, at an even rate."""
    frames = [frame(DNS_PORT, 300), frame(OTHER_PORT, 1000)]
    began_s = time.monotonic()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((SENDER, 0))
        for number in range(PACKETS):
            sender.send(frames[number % 2])
            if number % 20 == 0:
                time.sleep(max(0, began_s + number / PACKETS_PER_S - time.monotonic()))


def show_events(capture: CaptureSession) -> None:
    """Print what the capture reports until it ends."""
    began_s = time.monotonic()

    def say(text: str) -> None:
        print(f"  {time.monotonic() - began_s:5.2f} s  {text}", flush=True)

    capture.register_eventhandler(
        capture.SP_FILE_CLOSED,
        lambda closed: say(f"complete: {Path(closed.name).name}, {count(closed.packets)} packets"),
    )
    for event_type, message in capture:
        if event_type == capture.SP_FILE:
            say(f"new file: {Path(message).name}")
        elif event_type == capture.SP_PACKET_COUNT:
            say(f"{count(message)} more packets, {count(capture.packetcount)} in all")
        elif event_type == capture.SP_DROPS:
            say(f"{count(message)} dropped")


def show_files(capture: CaptureSession) -> None:
    """Print the files that the capture has made."""
    rows: list[tuple[str, ...]] = []
    for closed in capture.files:
        path = Path(closed.name)
        span_s = ((closed.last_timestamp_ns or 0) - (closed.first_timestamp_ns or 0)) / 1e9
        kept = "" if path.exists() else "gone: the ring keeps four"
        rows.append((path.name, count(closed.packets), si(closed.size_bytes, "B"), f"{span_s:.3f} s", kept))
    print("\n".join(f"  {line}" for line in table(("FILE", "PACKETS", "SIZE", "SPAN", ""), rows, frozenset((1, 2, 3)))))


def main() -> None:
    """Run the demonstration."""
    make_link()
    with tempfile.TemporaryDirectory(prefix="capd-demo-") as name:
        directory = Path(name)
        print(f"Starting capd, and a capture on {CAPTURED} with the filter '{FILTER}'.")
        with (
            daemon(directory) as socket_path,
            CaptureSession(
                interfaces=[CAPTURED],
                capture_filter=FILTER,
                savefile=directory / "dns.pcapng",
                ringbuffer_filesize=150,
                ringbuffer_files=4,
                update_interval=0.25,
                socket_path=socket_path,
            ) as capture,
        ):
            capture.wait_started(20)
            print(f"Sending {count(PACKETS)} packets, {count(PACKETS // 2)} of them to port {DNS_PORT}:")
            sender = threading.Thread(target=_send_then_stop, args=(capture,))
            sender.start()
            show_events(capture)
            sender.join()
        print("The files:")
        show_files(capture)
        print(f"{count(capture.packetcount)} packets captured, {count(capture.dropcount)} dropped.")
        if capture.packetcount + capture.dropcount != PACKETS // 2:
            sys.exit("demo: packets are missing")


def _send_then_stop(capture: CaptureSession) -> None:
    send()
    capture.stop()


if __name__ == "__main__":
    main()
