"""Processing time per packet of a software switch, an assumption of `controller.calculus.network_bounds.Calibration`.

A reserved flow of small datagrams crosses one switch of the metro map over ports without other traffic, so that there
is no queueing; the kernel timestamps each datagram at the switch's input port and at its output port. First without
load, then while the same vswitchd forwards a flood of 150 % of the bottleneck between other ports.

    sudo .venv/bin/python bench/switch_latency.py [--quick] [--out FILE.json] [--calibration FILE.json]

The calibration file is for `paceline controller --calibration FILE.json`.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import httpx
from rich.table import Table

from harness import report
from controller.calculus.network_bounds import DEFAULT_CALIBRATION
from emulation.cross_traffic import Flood
from emulation.network import Emulation, EmulationSettings
from emulation.session import emulate
from machine.errors import EmulationError
from machine.quantile import quantile
from machine.stall_watch import Stall, StallWatch, describe_stalls, stalled_s
from topologies.map_file.loader import map_path

SOURCE, SWITCH, NEXT, DESTINATION = "edge1", "r6", "r5", "edge3"
PORT = 7950
RATE_BPS = 4_000_000
PAYLOAD_BYTES = 200
PER_SECOND = 1000
SHARE = 0.999
"""Quantile of the measured times on which the calibration's worst case is based."""
MARGIN = 1.5
"""Safety factor on that quantile."""

SO_TIMESTAMPNS = 35
ETH_P_ALL = 3
_TIMESPEC = struct.Struct("@ll")
_NUMBER = struct.Struct("!I")
UDP_PAYLOAD_AT = 14 + 20 + 8

SENDER = """
import socket, struct, sys, time
address, port, count, every_s, size = sys.argv[1], *map(int, sys.argv[2:4]), float(sys.argv[4]), int(sys.argv[5])
out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
out.bind(("", port))
start = time.monotonic()
for number in range(count):
    time.sleep(max(0.0, start + number * every_s - time.monotonic()))
    out.sendto(struct.pack("!I", number) + bytes(size - 4), (address, port))
"""
SINK = "import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('', int(sys.argv[1])))\nwhile 1: s.recv(9000)"  # noqa: E501


@dataclass(frozen=True, slots=True)
class PacketDelay:
    """Processing time of one packet; `stalled`: this machine stalled meanwhile."""

    arrival_s: float
    processing_us: float
    stalled: bool


class Tap(threading.Thread):
    """Records when each numbered datagram passes an interface, by the kernel's timestamps."""

    def __init__(self, interface: str) -> None:
        super().__init__(daemon=True)
        self.timestamps_s: dict[int, float] = {}
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.bind((interface, 0))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self._socket.settimeout(0.2)
        self._stopping = threading.Event()

    def run(self) -> None:
        """Record until `stop`."""
        while not self._stopping.is_set():
            with contextlib.suppress(TimeoutError):
                frame, ancillary, _, _ = self._socket.recvmsg(256, socket.CMSG_SPACE(_TIMESPEC.size))
                probe_ports = struct.pack("!HH", PORT, PORT)
                if frame[UDP_PAYLOAD_AT - 8 : UDP_PAYLOAD_AT - 4] == probe_ports and ancillary:
                    seconds, nanoseconds = _TIMESPEC.unpack(ancillary[0][2])
                    number = _NUMBER.unpack_from(frame, UDP_PAYLOAD_AT)[0]
                    self.timestamps_s.setdefault(number, seconds + nanoseconds / 1e9)

    def stop(self) -> None:
        """End the thread and close the socket."""
        self._stopping.set()
        self.join()
        self._socket.close()


def measure(emulation: Emulation, count: int) -> list[PacketDelay]:
    """Measure the processing times of `count` packets."""
    topology = emulation.topology
    taps = [Tap(topology.port(SWITCH, SOURCE).interface), Tap(topology.port(SWITCH, NEXT).interface)]
    for tap in taps:
        tap.start()
    arguments = [topology.ip(DESTINATION), PORT, count, 1 / PER_SECOND, PAYLOAD_BYTES]
    command = [sys.executable, "-c", SENDER, *map(str, arguments)]
    with _running(emulation, DESTINATION, [sys.executable, "-c", SINK, str(PORT)]):
        if emulation.popen_in(SOURCE, command).wait(count / PER_SECOND + 60):
            raise EmulationError("the sender failed")
        time.sleep(0.5)
    for tap in taps:
        tap.stop()
    arrivals_s, departures_s = (tap.timestamps_s for tap in taps)
    if len(departures_s) < 0.9 * count:
        raise EmulationError(f"only {len(departures_s)} of {count} packets were seen to leave {SWITCH}")
    return [
        PacketDelay(arrivals_s[number], (departures_s[number] - arrivals_s[number]) * 1e6, False)
        for number in arrivals_s
        if number in departures_s
    ]


@contextlib.contextmanager
def _running(emulation: Emulation, host: str, command: list[str]) -> Iterator[None]:
    process = emulation.popen_in(host, command, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(5)


@contextlib.contextmanager
def _reserved(api: httpx.Client) -> Iterator[None]:
    flow = {
        "name": "probe", "source": SOURCE, "destination": DESTINATION,
        "match": {"protocol": "udp", "source_port": PORT, "destination_port": PORT},
        "requirement": {"min_bandwidth_bps": RATE_BPS},
    }  # fmt: skip
    response = api.post("/v1/reservations", json={"owner": "bench", "lease_s": 3600, "flows": [flow]})
    if response.status_code != 201:
        raise EmulationError(f"the reservation was refused: {response.text}")
    if response.json()["flows"][0]["path"] != [SOURCE, SWITCH, NEXT, DESTINATION]:
        raise EmulationError("the path of the probe is not the one over the idle ports")
    yield
    api.delete(f"/v1/reservations/{response.json()['id']}").raise_for_status()


def with_stalls(delays: Sequence[PacketDelay], stalls: Sequence[Stall]) -> list[PacketDelay]:
    """Mark the packets that were processed during a stall of the machine."""
    return [
        PacketDelay(
            d.arrival_s, d.processing_us, stalled_s(stalls, d.arrival_s, d.arrival_s + d.processing_us / 1e6) > 0
        )
        for d in delays
    ]


def table_of(phases: dict[str, list[PacketDelay]]) -> Table:
    """Return a table with one row per phase."""
    table = Table("load", "packets", "min us", "p50", "p99", "p99.9", "max", "max without stalls")
    for name, delays in phases.items():
        values = [delay.processing_us for delay in delays]
        undisturbed = [delay.processing_us for delay in delays if not delay.stalled]
        shares = [quantile(values, share) for share in (0.5, 0.99, SHARE, 1.0)]
        cells = [min(values), *shares, max(undisturbed)]
        table.add_row(name, str(len(values)), *(f"{value:.0f}" for value in cells))
    return table


@click.command()
@click.option("--quick", is_flag=True, help="Fewer packets; about a minute.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
@click.option("--calibration", type=click.Path(path_type=Path, dir_okay=False), help="Write a calibration there.")
def main(quick: bool, out: Path | None, calibration: Path | None) -> None:
    """Measure the processing time of one switch per packet."""
    count = 8_000 if quick else 60_000
    try:
        with (
            emulate(EmulationSettings(map_path("metro"))) as emulation,
            httpx.Client(base_url=f"http://127.0.0.1:{emulation.settings.rest_port}", timeout=30) as api,
            StallWatch() as watch,
            _reserved(api),
        ):
            phases = {"none": measure(emulation, count)}
            with Flood(emulation, 1.5):
                phases["UDP flood, 150 %"] = measure(emulation, count)
    except EmulationError as error:
        raise click.ClickException(str(error)) from error
    phases = {name: with_stalls(delays, watch.stalls) for name, delays in phases.items()}
    click.echo(describe_stalls(watch.stalls))
    undisturbed = [delay for delays in phases.values() for delay in delays if not delay.stalled]
    values = [delay.processing_us for delay in undisturbed]
    least_us, most_us = quantile(values, 1 - SHARE), quantile(values, SHARE) * MARGIN
    default = DEFAULT_CALIBRATION
    within = sum(delay.processing_us <= default.switch_max_us for delay in undisturbed) / len(undisturbed)
    claims = {
        "switch_least_us": report.at_least(least_us, "us", default.switch_min_us),
        "switch_p999_us": report.at_most(quantile(values, SHARE), "us", default.switch_max_us / MARGIN),
        "share_within_default": report.at_least(within, "", SHARE),
    }
    if calibration is not None:
        facts = {"switch_min_us": round(least_us, 1), "switch_max_us": round(most_us, 1)}
        calibration.write_text(json.dumps(facts, indent=1) + "\n")
    samples: dict[str, object] = {name: [delay.processing_us for delay in delays] for name, delays in phases.items()}
    samples["machine_stalls"] = [asdict(stall) for stall in watch.stalls]
    report.publish("switch_latency", claims, samples, [table_of(phases)], out)


if __name__ == "__main__":
    main()
