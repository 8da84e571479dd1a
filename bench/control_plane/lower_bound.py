"""Lower bound of any controller in one Python process: a REST API by FastAPI, and confirmed messages to switches.

For each request it sends six switches the entries of a reservation through all of them (encoded in advance), waits for
their barrier replies, installs the ingress entry, waits for its barrier reply, and echoes the request. It makes no
admission decision, computes no bound and stores nothing. All in one asyncio loop, without Ryu.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI

from control_plane.dummy_switches import DummySwitches, free_port
from controller.admission.admission import Admitted, Request, decide
from controller.api.schemas.requests import ReservationRequest
from controller.booking.calendar import Calendar
from controller.dataplane.entries import FlowEntry, MeterEntry, cookie_of
from controller.dataplane.pipeline import best_effort_meter, reservation_meter, reserved_entries
from controller.dataplane.update_order import Change, Kind
from controller.domain.network import Network, network_from_map
from controller.domain.reservation import Flow, Match, Placement, Requirement
from controller.openflow.encoder import BARRIER_REPLY, HEADER, VERSION, encode_barrier_request, encode_change
from machine.polling import wait_until
from topologies.map_file.loader import load_map

HELLO, ECHO_REQUEST, ECHO_REPLY, FEATURES_REQUEST, FEATURES_REPLY = 0, 2, 3, 5, 6

SwitchChange = tuple[str, Kind, MeterEntry | FlowEntry]
"""A switch, and one change of its entries."""


def empty_network_placement(network: Network, flow: Flow) -> Placement:
    """The placement of a flow on an empty network."""
    decision = decide(network, Calendar(), (), Request("r-00000001", 1, (flow,)), 0.0)
    assert isinstance(decision, Admitted)
    return decision.placements[0]


def required_changes(network: Network, number: int, rate_bps: int) -> list[SwitchChange]:
    """Changes on all switches for flow `number`, after the flows before it, in a safe order; 0 is the first flow."""
    flow = Flow(f"f{number}", "edge1", "cloud", Match("udp", 10_000 + number, 7800), Requirement(rate_bps, 9014))
    placement = empty_network_placement(network, flow)
    told: list[SwitchChange] = []
    for link in network.links_along(placement.path)[1:]:
        port_meter = best_effort_meter(link, rate_bps * (number + 1))
        told.append((link.source, "modify_meter" if number else "add_meter", port_meter))
    meter = reservation_meter(placement)
    own = MeterEntry(meter.meter_id + number, meter.rate_kbps, meter.burst_kbit)
    told.append((placement.switches[0], "add_meter", own))
    label = ("eth_dst", f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}")
    for switch, entry in reserved_entries(network, placement, cookie_of(number + 1, 1)):
        match = tuple(label if pair[0] == "eth_dst" else pair for pair in entry.match)
        meter_id = None if entry.meter_id is None else entry.meter_id + number
        told.append((switch, "add_flow", entry._replace(match=match, meter_id=meter_id)))
    return told


@dataclass(slots=True)
class SwitchConnection:
    """A switch's connection, and the futures of its outstanding barriers by xid."""

    writer: asyncio.StreamWriter
    pending: dict[int, asyncio.Future[None]] = field(default_factory=dict)


class MinimalController:
    """The part of an OpenFlow controller that the lower bound needs."""

    def __init__(self) -> None:
        self.connections: dict[int, SwitchConnection] = {}
        self._xids = count(1)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handle one switch connection, from hello to its end."""
        line = SwitchConnection(writer)
        writer.write(HEADER.pack(VERSION, HELLO, HEADER.size, 0))
        writer.write(HEADER.pack(VERSION, FEATURES_REQUEST, HEADER.size, 0))
        while head := await reader.read(HEADER.size):
            if len(head) < HEADER.size:
                head += await reader.readexactly(HEADER.size - len(head))
            _, kind, length, xid = HEADER.unpack(head)
            body = await reader.readexactly(length - HEADER.size)
            if kind == BARRIER_REPLY:
                line.pending.pop(xid).set_result(None)
            elif kind == ECHO_REQUEST:
                writer.write(HEADER.pack(VERSION, ECHO_REPLY, length, xid) + body)
            elif kind == FEATURES_REPLY:
                self.connections[int.from_bytes(body[:8], "big")] = line

    async def send_and_confirm(self, told: dict[int, bytes]) -> None:
        """Send messages and a barrier to each switch, and wait for all barrier replies."""
        loop, confirmed = asyncio.get_running_loop(), []
        for number, messages in told.items():
            xid, line = next(self._xids), self.connections[number]
            line.pending[xid] = loop.create_future()
            confirmed.append(line.pending[xid])
            line.writer.write(messages + encode_barrier_request(xid))
        await asyncio.gather(*confirmed)


def encoded_stages(network: Network, number: int, rate_bps: int) -> list[dict[int, bytes]]:
    """The encoded changes by datapath id, in two stages: the path first, then the ingress entry."""
    laid: dict[int, bytes] = {}
    opened: dict[int, bytes] = {}
    for switch, kind, entry in required_changes(network, number, rate_bps):
        stage = opened if isinstance(entry, FlowEntry) and entry.table == 0 else laid
        datapath_id = network.nodes[switch].datapath_id or 0
        stage[datapath_id] = stage.get(datapath_id, b"") + encode_change(Change(kind, entry), 0)
    return [laid, opened]


def rest_application(board: MinimalController, work: Sequence[list[dict[int, bytes]]], expected: int) -> FastAPI:
    """The REST API of the lower bound."""
    app, following = FastAPI(), iter(work)

    @app.get("/ready")
    async def ready() -> bool:
        return len(board.connections) == expected

    @app.post("/v1/reservations", status_code=201)
    async def echo(wanted: ReservationRequest) -> ReservationRequest:
        for stage in next(following):
            await board.send_and_confirm(stage)
        return wanted

    return app


async def run(map_file: str, reservations: int, rate_bps: int, openflow: int, rest: int) -> None:
    """Serve the given number of reservations."""
    network, board = network_from_map(load_map(map_file)), MinimalController()
    work = [encoded_stages(network, number, rate_bps) for number in range(reservations)]
    listener = await asyncio.start_server(board.serve, "127.0.0.1", openflow)
    app = rest_application(board, work, len(network.switches))
    config = uvicorn.Config(app, host="127.0.0.1", port=rest, log_config=None, access_log=False)
    async with listener:
        await uvicorn.Server(config).serve()


@contextmanager
def lower_bound_server(switches: DummySwitches, map_file: Path, reservations: int, rate_bps: int) -> Iterator[int]:
    """Run the lower bound as a process on these switches; yields its REST port."""
    openflow, rest = free_port(), free_port()
    arguments = [str(map_file), *map(str, (reservations, rate_bps, openflow, rest))]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    process = subprocess.Popen([sys.executable, "-m", "control_plane.lower_bound", *arguments], env=environment)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{rest}") as api:
            wait_until(lambda: process.poll() is not None or _is_ready(api, False), 60)
            switches.connect(openflow)
            wait_until(lambda: process.poll() is not None or _is_ready(api, True), 60)
        if process.poll() is not None:
            raise RuntimeError(f"The lower bound's process has ended with status {process.returncode}.")
        yield rest
    finally:
        process.terminate()
        process.wait(20)


def _is_ready(api: httpx.Client, expected: bool) -> bool:
    try:
        return bool(api.get("/ready").json()) is expected
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], *map(int, sys.argv[2:])))
