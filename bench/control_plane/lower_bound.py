"""What no controller in one Python process can do without: REST by FastAPI, and bytes to switches that confirm them.

For each request it sends six switches what a reservation of one flow through all of them needs (bytes that were made
before), waits for their barriers, has the first switch let the flow in, waits for its barrier, and answers with what it
was sent. Nothing is decided, proven, kept, counted or written down. All in one asyncio loop, without Ryu.
"""

from __future__ import annotations

import asyncio
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
from topologies.loader import load_map

HELLO, ECHO_REQUEST, ECHO_REPLY, FEATURES_REQUEST, FEATURES_REPLY = 0, 2, 3, 5, 6

Told = tuple[str, Kind, MeterEntry | FlowEntry]
"""A switch, and what it is told."""


def placed(network: Network, flow: Flow) -> Placement:
    """Where admission puts a flow on an empty network."""
    decision = decide(network, Calendar(), (), Request("r-00000001", 1, (flow,)), 0.0)
    assert isinstance(decision, Admitted)
    return decision.placements[0]


def needed(network: Network, number: int, rate_bps: int) -> list[Told]:
    """What switches are told of the flow of that number beside those before it, in a safe order; 0 is the first."""
    flow = Flow(f"f{number}", "edge1", "cloud", Match("udp", 10_000 + number, 7800), Requirement(rate_bps, 9014))
    placement = placed(network, flow)
    told: list[Told] = []
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
class Line:
    """A switch's connection, and who waits for which of its barriers."""

    writer: asyncio.StreamWriter
    waiting: dict[int, asyncio.Future[None]] = field(default_factory=dict)


class Switchboard:
    """As much of an OpenFlow controller as a floor needs."""

    def __init__(self) -> None:
        self.lines: dict[int, Line] = {}
        self._xids = count(1)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One switch, from hello to the end."""
        line = Line(writer)
        writer.write(HEADER.pack(VERSION, HELLO, HEADER.size, 0))
        writer.write(HEADER.pack(VERSION, FEATURES_REQUEST, HEADER.size, 0))
        while head := await reader.read(HEADER.size):
            if len(head) < HEADER.size:
                head += await reader.readexactly(HEADER.size - len(head))
            _, kind, length, xid = HEADER.unpack(head)
            body = await reader.readexactly(length - HEADER.size)
            if kind == BARRIER_REPLY:
                line.waiting.pop(xid).set_result(None)
            elif kind == ECHO_REQUEST:
                writer.write(HEADER.pack(VERSION, ECHO_REPLY, length, xid) + body)
            elif kind == FEATURES_REPLY:
                self.lines[int.from_bytes(body[:8], "big")] = line

    async def tell(self, told: dict[int, bytes]) -> None:
        """Send to each switch, and wait until all have confirmed."""
        loop, confirmed = asyncio.get_running_loop(), []
        for number, messages in told.items():
            xid, line = next(self._xids), self.lines[number]
            line.waiting[xid] = loop.create_future()
            confirmed.append(line.waiting[xid])
            line.writer.write(messages + encode_barrier_request(xid))
        await asyncio.gather(*confirmed)


def stages(network: Network, number: int, rate_bps: int) -> list[dict[int, bytes]]:
    """The same as bytes, by datapath id: what is laid, then what lets the flow in."""
    laid: dict[int, bytes] = {}
    opened: dict[int, bytes] = {}
    for switch, kind, entry in needed(network, number, rate_bps):
        stage = opened if isinstance(entry, FlowEntry) and entry.table == 0 else laid
        datapath_id = network.nodes[switch].datapath_id or 0
        stage[datapath_id] = stage.get(datapath_id, b"") + encode_change(Change(kind, entry), 0)
    return [laid, opened]


def application(board: Switchboard, work: Sequence[list[dict[int, bytes]]], expected: int) -> FastAPI:
    """The floor's REST interface."""
    app, following = FastAPI(), iter(work)

    @app.get("/ready")
    async def ready() -> bool:
        return len(board.lines) == expected

    @app.post("/v1/reservations", status_code=201)
    async def echo(wanted: ReservationRequest) -> ReservationRequest:
        for stage in next(following):
            await board.tell(stage)
        return wanted

    return app


async def run(map_file: str, reservations: int, rate_bps: int, openflow: int, rest: int) -> None:
    """Serve so many reservations."""
    network, board = network_from_map(load_map(map_file)), Switchboard()
    work = [stages(network, number, rate_bps) for number in range(reservations)]
    listener = await asyncio.start_server(board.serve, "127.0.0.1", openflow)
    app = application(board, work, len(network.switches))
    config = uvicorn.Config(app, host="127.0.0.1", port=rest, log_config=None, access_log=False)
    async with listener:
        await uvicorn.Server(config).serve()


@contextmanager
def floor_of(switches: DummySwitches, map_file: Path, reservations: int, rate_bps: int) -> Iterator[int]:
    """The floor as a process of its own on these switches; its REST port."""
    openflow, rest = free_port(), free_port()
    arguments = [str(map_file), *map(str, (reservations, rate_bps, openflow, rest))]
    process = subprocess.Popen([sys.executable, "-m", "control_plane.lower_bound", *arguments])
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{rest}") as api:
            wait_until(lambda: process.poll() is not None or _is_ready(api, False), 60)
            switches.connect(openflow)
            wait_until(lambda: process.poll() is not None or _is_ready(api, True), 60)
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
