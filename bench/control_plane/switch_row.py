"""A row of six dummy switches with a controller, and the requests for reservations through it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

from control_plane.dummy_switches import DummySwitches, free_port
from emulation.controller_process import ControllerProcess
from machine.polling import wait_until
from topologies.map_file.loader import load_map

HOPS = 6


RATE_BPS = 200_000


def chain_map(queue_bytes: int | None = None) -> str:
    """A map of HOPS switches in a row, an edge at one end and a cloud at the other."""
    nodes = [f"  - {{name: s{i}, kind: switch, position_km: [{i}, 0]}}" for i in range(1, HOPS + 1)]
    nodes += ["  - {name: edge1, kind: edge, position_km: [0, 0], cpu_share: 0.2}"]
    nodes += [f"  - {{name: cloud, kind: cloud, position_km: [{HOPS + 1}, 0]}}"]
    names = ["edge1", *(f"s{i}" for i in range(1, HOPS + 1)), "cloud"]
    links = [
        f"  - {{ends: [{a}, {b}], length_km: 1, channels: 1, channel_rate_gbps: 100}}"
        for a, b in pairwise(names)
    ]
    head = ["name: chain", "description: Switches in a row.", "scale_mbps_per_gbps: 8", "mtu_bytes: 9000"]
    head += [] if queue_bytes is None else [f"queue_bytes: {queue_bytes}"]
    return "\n".join([*head, "nodes:", *nodes, "links:", *links, ""])


@contextmanager
def row_of_switches(queue_bytes: int | None = None) -> Iterator[tuple[DummySwitches, Path]]:
    """Start the switches of that map; yields them and the map's file."""
    with tempfile.TemporaryDirectory() as name:
        map_file = Path(name) / "chain.yaml"
        map_file.write_text(chain_map(queue_bytes))
        switches = DummySwitches(load_map(str(map_file)), map_file.parent)
        try:
            yield switches, map_file
        finally:
            switches.stop()


@contextmanager
def controller_of(
    switches: DummySwitches, map_file: Path, ledger: str | None = None
) -> Iterator[tuple[ControllerProcess, httpx.Client]]:
    """A controller with which all switches are in sync, and a client of its REST API; `ledger`: by default a file."""
    directory = map_file.parent
    openflow, rest = (("127.0.0.1", free_port()) for _ in range(2))
    url = ledger or f"sqlite:///{directory}/ledger.db"
    controller = ControllerProcess(map_file, openflow, [rest], url, directory / "controller.log")
    with httpx.Client(base_url=controller.url, timeout=60) as api:
        try:
            switches.connect(controller.openflow_port)
            wait_until_in_sync(controller, api)
            yield controller, api
        finally:
            controller.stop()


def wait_until_in_sync(controller: ControllerProcess, api: httpx.Client) -> None:
    """Wait until every switch is in sync. Raises: EmulationError if the controller ends, TimeoutError."""

    def in_sync() -> bool:
        controller.check_running()
        return switches_in_sync(api)

    wait_until(in_sync, 60)


def switches_in_sync(api: httpx.Client) -> bool:
    """Whether the controller responds and every switch is in sync."""
    try:
        health = api.get("/v1/healthz").json()
    except httpx.TransportError:
        return False
    return bool(health["switches_up"] == health["switches_expected"])


def flow_body(number: int, rate_bps: int = RATE_BPS) -> dict[str, Any]:
    """Request body of one flow through the whole row."""
    match = {"protocol": "udp", "source_port": 10_000 + number, "destination_port": 7800}
    requirement = {"min_bandwidth_bps": rate_bps, "burst_bytes": 9014}
    return {
        "name": f"f{number}", "source": "edge1", "destination": "cloud", "match": match, "requirement": requirement,
    }  # fmt: skip


def reserve(api: httpx.Client, numbers: range) -> tuple[float, str]:
    """Make one reservation of these flows; returns its duration in ms, and its id."""
    body = reservation_body(numbers)
    began_s = time.perf_counter()
    answer = api.post("/v1/reservations", json=body)
    took_ms = (time.perf_counter() - began_s) * 1e3
    answer.raise_for_status()
    return took_ms, answer.json()["id"]


def reservation_body(numbers: range) -> dict[str, Any]:
    """Request body of a reservation of these flows."""
    return {"flows": [flow_body(number) for number in numbers], "lease_s": 600}
