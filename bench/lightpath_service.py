"""Decisions per second of the controller's service on lightpath requests, without ledger and switches.

The requests are those of bench/blocking.py: 25 to 100 Gb/s between the sites of the 14-node NSFNET, with arrivals and
departures. Each is a reservation on an optical map with 100 slots of 12.5 GHz on every fibre, for the reservable part
of its rate, so that a request of 100 Gb/s fills one lightpath. Admission, grooming, spectrum, reach and bounds are
computed as in operation, and a refusal includes its advice; nothing is stored. Routes are taken in the order tuned for
the map (controller/optical/route_order.py). Each site has a host.

"held": reservations are held, so that they are decided and booked but not installed. "installed": in addition the
entries of each switch and the changes to it are computed, but not sent.

The same requests are repeated; the first round, in which routes and GNPy's results are cached, is not counted. The
figures are processor time, releases included, of the median round. The pure core decides on the same requests in
every round, as in bench/blocking.py, so that variations in the machine's speed affect both.

    .venv/bin/python bench/lightpath_service.py [--quick] [--grid none] [--out FILE.json]
"""

from __future__ import annotations

import heapq
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from statistics import median
from typing import TypeVar

import click
from rich.table import Table

from harness import report
from controller.dataplane.entries import MeterEntry
from controller.dataplane.southbound import (
    ChangesByDatapath,
    FlowCounter,
    MeterCounter,
    Pause,
    PortCounter,
    Reading,
    SwitchConnected,
    SwitchEvent,
)
from controller.dataplane.switch_capabilities import SwitchCapabilities
from controller.domain.network import Network, network_from_map
from controller.domain.reservation import Flow, Match, Requirement, Reservation
from controller.errors import Refused
from controller.optical.candidate_routes import CandidateRoutes
from controller.optical.lightpath_design import reservable_bps
from controller.optical.route_order import tuned_selection_for
from controller.optical.rsa import RouteOrder
from controller.runtime.assembly import tune_garbage_collector
from controller.service.requests import ReservationSpec, Response
from controller.service.reservation_service import Service
from controller.storage.ledger import Ledger
from harness.nsfnet import LOADS, NODES, SPANS
from harness.route_order_search import Demand, blocked_demands, demands
from machine.polling import wait_until
from topologies.maps import Grid, Map, MapLink, MapNode

LOAD = "l10_m25"
ROUNDS = 5
Result = TypeVar("Result")

CHANNELS, CHANNEL_GBPS = 33, 100.0
"""A channel of the flexible grid is three slots of 12.5 GHz."""


class IdealSwitches:
    """Simulated switches: always connected, and they confirm every change at once."""

    def __init__(self, network: Network) -> None:
        self.events: Queue[SwitchEvent | None] = Queue()
        self._numbers = dict.fromkeys(network.switch_by_datapath_id, 1)
        for number, node in network.switch_by_datapath_id.items():
            ports = {link.source_port: (f"p{link.source_port}", True) for link in network.links_from(node.name)}
            self.events.put(SwitchConnected(number, ports))

    def expect(self, names: Mapping[int, str], ports: Mapping[int, Collection[int]]) -> None:
        """Certificates are not used."""

    def connected(self) -> dict[int, int]:
        """Return all switches."""
        return self._numbers

    def silent_s(self, datapath_id: int) -> float:  # noqa: ARG002
        """No switch is ever silent."""
        return 0.0

    def apply(self, phases: Iterable[ChangesByDatapath | Pause], timeout_s: float) -> Future[None]:  # noqa: ARG002
        """Compute the changes without sending them."""
        for _ in phases:
            pass
        return _done(None)

    def read_state(
        self, datapath_id: int, timeout_s: float, asking: Callable[[], None]  # noqa: ARG002
    ) -> Future[Reading]:
        """Return an empty state."""
        asking()
        return _done(Reading({}))

    def read_counters(
        self, datapath_id: int, cookie: int, cookie_mask: int, meters: Sequence[MeterEntry], timeout_s: float  # noqa: ARG002
    ) -> Future[tuple[list[FlowCounter], list[MeterCounter]]]:
        """Return no counters."""
        return _done(([], []))

    def read_ports(self, datapath_id: int, timeout_s: float) -> Future[list[PortCounter]]:  # noqa: ARG002
        """Return no counters."""
        return _done([])

    def read_capabilities(self, datapath_id: int, timeout_s: float) -> Future[SwitchCapabilities]:  # noqa: ARG002
        """Return none."""
        return _done(SwitchCapabilities(datapath_id))

    def send_frames(self, datapath_id: int, frames: Mapping[int, bytes]) -> None:
        """Discard the frames."""


def _done(result: Result) -> Future[Result]:
    future: Future[Result] = Future()
    future.set_result(result)
    return future


class DiscardingLedger(Ledger):
    """A ledger that stores nothing."""

    def write(self, *_: Reservation, **_more: object) -> None:
        """Discard the reservations."""

    def existing_ids(self, ids: Collection[str]) -> frozenset[str]:  # noqa: ARG002
        """Return no ids."""
        return frozenset()


def nsfnet(grid: Grid | None) -> Map:
    """Return the map, with a host at each site."""
    nodes = [MapNode(f"s{site}", "switch", (0.0, 0.0)) for site in NODES]
    nodes += [MapNode(f"h{site}", "host", (0.0, 0.0)) for site in NODES]
    links = [MapLink((f"s{a}", f"s{b}"), km, CHANNELS, CHANNEL_GBPS) for (a, b), km in SPANS.items()]
    links += [MapLink((f"h{site}", f"s{site}"), 1.0, CHANNELS, CHANNEL_GBPS) for site in NODES]
    return Map("nsfnet", "", 1.0, 9000, tuple(nodes), tuple(links), grid=grid)


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of one round: the number of refusals, and the processor time."""

    refused: int
    took_s: float


def spec_of(demand: Demand, ports: tuple[int, int], hold: bool) -> ReservationSpec:
    """Return the reservation request of a demand."""
    ends, rate_bps = (f"h{demand.source}", f"h{demand.destination}"), reservable_bps(demand.rate_gbps * 1_000_000)
    return ReservationSpec(
        "bench", "public", 3600.0, (Flow("f", *ends, Match("udp", *ports), Requirement(rate_bps)),), hold
    )


class RequestSequence:
    """Makes requests in order, each when the previous response arrives, in the thread that sets the response.

    The time for passing requests between threads is therefore not measured.
    """

    def __init__(self, service: Service, demands: Sequence[Demand], source_port: int, hold: bool) -> None:
        self._service, self._demands = service, demands
        self._specs = [spec_of(demand, (source_port, 1 + number), hold) for number, demand in enumerate(demands)]
        self._number = 0
        self._refused = 0
        self._leaving: list[tuple[float, int, str]] = []
        self._done: Future[None] = Future()

    def run(self) -> Outcome:
        """Make all requests, then release the remaining reservations; the latter is not measured."""
        began_s = time.process_time()
        self._request()
        self._done.result()
        took_s = time.process_time() - began_s
        for _, _, reservation_id in self._leaving:
            self._service.release(reservation_id)
        return Outcome(self._refused, took_s)

    def _request(self) -> None:
        while self._leaving and self._leaving[0][0] <= self._demands[self._number].arrives:
            self._service.release(heapq.heappop(self._leaving)[2])
        self._service.reserve(self._specs[self._number]).add_done_callback(self._answered)

    def _answered(self, response: Future[Response]) -> None:
        try:
            error = response.exception()
            if isinstance(error, Refused):
                self._refused += 1
            else:
                reservation, _ = response.result()
                heapq.heappush(self._leaving, (self._demands[self._number].leaves, self._number, reservation.id))
            self._number += 1
            if self._number < len(self._demands):
                self._request()
            else:
                self._done.set_result(None)
        except Exception as failure:  # noqa: BLE001 - it is raised by `run`
            self._done.set_exception(failure)


def run_through_service(service: Service, requests: Sequence[Demand], source_port: int, hold: bool) -> Outcome:
    """Send all requests and releases to the service, in order of time."""
    return RequestSequence(service, requests, source_port, hold).run()


def run_through_core(routes: CandidateRoutes, order: RouteOrder, requests: Sequence[Demand]) -> Outcome:
    """Decide the same requests with the pure core, each by a lightpath of its own."""
    began_s = time.process_time()
    blocked = len(blocked_demands(routes, order, requests))
    return Outcome(blocked, time.process_time() - began_s)


def rounds(service: Service, requests: Sequence[Demand]) -> dict[str, list[Outcome]]:
    """Run ROUNDS rounds of each kind in turn, after a round that is not counted."""
    ours = tuned_selection_for(SPANS)
    routes = CandidateRoutes(SPANS, ours.k, by=ours.by)
    results: dict[str, list[Outcome]] = {}
    for number in range(1 + ROUNDS):
        results.setdefault("held", []).append(run_through_service(service, requests, 1 + number, hold=True))
        results.setdefault("installed", []).append(run_through_service(service, requests, 1 + number, hold=False))
        results.setdefault("pure core", []).append(run_through_core(routes, ours.order, requests))
    return {name: outcomes[1:] for name, outcomes in results.items()}


def per_second(outcomes: Sequence[Outcome], count: int) -> float:
    """Decisions per second in the median round."""
    return count / median(outcome.took_s for outcome in outcomes)


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Fewer requests.")
@click.option("--grid", default="flexible", type=click.Choice(["flexible", "fixed", "none"]), show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures there as JSON.")
def main(quick: bool, grid: Grid, out: Path | None) -> None:
    """Measure decisions per second."""
    logging.disable(logging.WARNING)
    count = 1000 if quick else 5000
    network = network_from_map(nsfnet(None if str(grid) == "none" else grid))
    service = Service(network, IdealSwitches(network), DiscardingLedger("sqlite://", "nsfnet"), verify_interval_s=3600)
    service.start()
    try:
        wait_until(lambda: service.queries.switches_up() == len(NODES))
        requests = list(demands(NODES, *LOADS[LOAD], 0, count))
        tune_garbage_collector()  # as the controller's process does
        results = rounds(service, requests)
    finally:
        service.stop()
    claims = {
        "service_requests_per_s": report.at_least(per_second(results["held"], count), "1/s", 2000),
        "service_installed_per_s": report.Claim(per_second(results["installed"], count), "1/s"),
        "core_requests_per_s": report.Claim(per_second(results["pure core"], count), "1/s"),
        "service_refused_share": report.Claim(results["held"][0].refused / count, ""),
    }
    table = Table(
        "reservations", "requests", "refused", "ms per request, by round", title=f"NSFNET, {LOAD}, grid {grid}"
    )
    for name, outcomes in results.items():
        each_ms = ", ".join(f"{1e3 * outcome.took_s / count:.4f}" for outcome in outcomes)
        table.add_row(name, f"{count:,}", str(outcomes[0].refused), each_ms)
    samples = {name: [outcome.took_s for outcome in outcomes] for name, outcomes in results.items()}
    report.publish("lightpath_service", claims, {"requests": count, "seconds": samples}, [table], out)


if __name__ == "__main__":
    main()
