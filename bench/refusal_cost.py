"""Processor time of refusals for latency, counter-offer included, beside that of admissions.

SNDlib's nobel-us with 13 edges, a cloud and 700 live reservations of 50 to 300 kb/s; of the last 100 every fifth has a
latency limit of 1.5 times the bound that it was given. Then requests are decided that are refused for latency: half of
them for a limit of their own below what can be met, half for a burst that would exceed the limit of an admitted flow.

    .venv/bin/python bench/refusal_cost.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path

import click
from rich.table import Table

from controller.admission.admission import Admitted, Rejected, Request
from controller.admission.counter_offer import decide_with_offer
from controller.admission.live_reservations import LiveReservations
from controller.booking.calendar import Calendar
from controller.domain.network import Network, network_from_map
from controller.domain.reservation import Flow, Match, Requirement, Reservation, State
from controller.errors import LatencyNotMet, Refused
from harness.report import Claim, at_most, publish
from machine.quantile import quantile
from topologies.catalogue import MapOptions, resolve_map
from topologies.map_file.loader import load_map
from topologies.placement.map_document import PlacementOptions

PLANT, EDGES, LIVE = "sndlib/nobel-us", 13, 700
NOW_S = 1_800_000_000.0
BURST_BYTES = 3_000
LIMIT_FROM, LIMIT_EVERY, LIMIT_SHARE = 600, 5, 1.5


@dataclass
class LoadedNetwork:
    """A network whose reservations are made by the decisions that are measured."""

    network: Network
    chance: random.Random
    calendar: Calendar = field(default_factory=Calendar)
    live: LiveReservations = field(init=False)
    asked: int = 0
    admitted: int = 0

    def __post_init__(self) -> None:
        self.live = LiveReservations(self.network)
        self.hosts = [host.name for host in self.network.hosts]

    def request(self, rate_bps: int, burst_bytes: int) -> Request:
        """A new request between two random hosts, without a limit."""
        self.asked += 1
        source, destination = self.chance.sample(self.hosts, 2)
        match = Match("udp", 1 + self.asked // 60_000, 1 + self.asked % 60_000)
        return Request(
            f"r-{self.asked}", 1, (Flow("f", source, destination, match, Requirement(rate_bps, burst_bytes)),)
        )

    def decide(self, request: Request) -> tuple[Admitted | Rejected, float]:
        """The decision, with the counter-offer of a refusal, and its processor time in ms."""
        began = time.process_time()
        decision = decide_with_offer(self.network, self.calendar, self.live, request, NOW_S)
        if isinstance(decision, Rejected) and isinstance(decision.error, Refused):
            decision.error.add_offer()
        return decision, (time.process_time() - began) * 1e3

    def fill(self, count: int) -> list[float]:
        """Admit so many reservations; return the processor times."""
        taken = []
        while self.admitted < count and self.asked < 3 * count:
            request = self.request(self.chance.randrange(50, 300) * 1000, BURST_BYTES)
            decision, took_ms = self.decide(request)
            if isinstance(decision, Admitted) and self.admitted >= LIMIT_FROM and self.admitted % LIMIT_EVERY == 0:
                latency_us = decision.placements[0].accumulated_latency_us
                decision, took_ms = self.decide(with_limit(request, LIMIT_SHARE * latency_us))
            if isinstance(decision, Admitted):
                taken.append(took_ms)
                self.admitted += 1
                new = Reservation(
                    request.reservation_id, self.asked, 1, "bench", State.ACTIVE, 60, NOW_S, inf, decision.placements,
                    start_at_s=NOW_S,
                )  # fmt: skip
                self.calendar, self.live = decision.calendar, decision.others.with_reservation(new)
        return taken

    def too_strict(self) -> Request | None:
        """A request with a limit below its bound; None if the network refuses it for another reason."""
        request = self.request(100_000, BURST_BYTES)
        decision, _ = self.decide(request)
        if isinstance(decision, Rejected):
            return None
        return with_limit(request, self.chance.uniform(0.3, 0.97) * decision.placements[0].accumulated_latency_us)

    def too_bursty(self) -> Request:
        """A request whose burst delays others."""
        return self.request(100_000, self.chance.randrange(100_000, 1_000_000))


def with_limit(request: Request, limit_us: float) -> Request:
    """The request of one flow with a limit of latency."""
    flow = request.flows[0]
    return replace(request, flows=(replace(flow, requirement=replace(flow.requirement, max_latency_us=limit_us)),))


def refusals(
    loaded: LoadedNetwork, make: Callable[[], Request | None], count: int
) -> tuple[list[float], int]:
    """Processor times of so many refusals for latency, and how many came with an offer."""
    taken: list[float] = []
    offers = 0
    for _ in range(40 * count):
        request = make()
        if request is None:
            continue
        decision, took_ms = loaded.decide(request)
        if isinstance(decision, Rejected) and isinstance(decision.error, LatencyNotMet):
            taken.append(took_ms)
            offers += decision.error.facts.get("offer") is not None
            if len(taken) == count:
                break
    return taken, offers


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Fewer refusals.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures there as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Measure refusals and admissions."""
    count = 20 if quick else 100
    with tempfile.TemporaryDirectory() as name:
        options = MapOptions(placement=PlacementOptions(edges=EDGES))
        network = network_from_map(load_map(str(resolve_map(PLANT, options, Path(name)))))
    loaded = LoadedNetwork(network, random.Random(1))
    admissions = loaded.fill(LIVE)[-count:]
    own, own_offers = refusals(loaded, loaded.too_strict, count)
    others, others_offers = refusals(loaded, loaded.too_bursty, count)
    table = Table("decision", "number", "median ms", "p90 ms", "with an offer", title=f"{loaded.admitted} live")
    for label, taken, offers in (
        ("admitted", admissions, ""),
        ("refused, own limit", own, str(own_offers)),
        ("refused, an admitted flow's limit", others, str(others_offers)),
    ):
        shown = [f"{quantile(taken, share):.1f}" if taken else "" for share in (0.5, 0.9)]
        table.add_row(label, str(len(taken)), *shown, offers)
    claims = {
        "refusal_ms_p50": at_most(quantile([*own, *others], 0.5), "ms", 15.0),
        "admission_ms_p50": Claim(quantile(admissions, 0.5), "ms"),
        "live": Claim(loaded.admitted, "reservations"),
    }
    samples = {"admission_ms": admissions, "own_limit_ms": own, "others_limit_ms": others}
    publish("refusal_cost", claims, samples, [table], out)


if __name__ == "__main__":
    main()
