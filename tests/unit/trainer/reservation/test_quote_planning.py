"""Planning with quotes: which quotes are requested, and no local optimum of plan and paths."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from controller.booking.calendar import Calendar
from controller.domain.network import network_from_map
from controller.routing.coflow import Volume as CoflowVolume
from controller.routing.coflow import shortest_coflow_completion
from topologies.map_file.loader import load_map
from trainer.planning.plan import EdgeForecast, Offer, Option, RoundPlan
from trainer.planning.planner import MIN_GAIN, plan_round
from trainer.reservation.api_types import Quote, TransferVolume
from trainer.reservation.controller_client import ControllerClient
from trainer.reservation.quote_planning import QuotePlanner

METRO = network_from_map(load_map("metro"))
EDGES = ("edge1", "edge2", "edge3", "edge4")
SERVED = dict.fromkeys(EDGES, "cloud")
SLOWNESS = (2.82, 1.79, 1.30, 1.0)
CUTS_MS_AND_BITS = {
    4: (11.6, 8.2, 31.9, 1_575_000), 6: (15.5, 13.1, 26.7, 1_039_000), 8: (22.6, 22.4, 16.2, 771_000),
    9: (27.4, 31.6, 6.2, 1_039_000), 10: (28.4, 31.8, 5.7, 503_000), 12: (31.1, 36.7, 0.5, 168_000),
}
"""Measured on the metro map: milliseconds forward, backward, and in the cloud, and bits, per micro-batch of edge4."""


class LocalController(ControllerClient):
    """Quotes computed by the controller's code for an empty metro network, without a connection."""

    def __init__(self) -> None:
        self.quote_requests: list[list[TransferVolume]] = []

    def quote(self, volumes: Sequence[TransferVolume], instead_of: str | None, retries: int | None = None) -> Quote:  # noqa: ARG002
        self.quote_requests.append(list(volumes))
        coflow = [CoflowVolume(v.name, v.source, v.destination, v.transfer_bytes) for v in volumes]
        transfer = shortest_coflow_completion(METRO, Calendar(), coflow, 0.0)
        flows = [{"name": volume.name, "path": quote.path, "rate_bps": quote.rate_bps}
                 for volume, quote in zip(coflow, transfer.quotes, strict=True)]
        links = [{"link": name, "free_bps": link.reservable_bps} for name, link in METRO.links.items()]
        return Quote.model_validate({"transfer_ms": transfer.transfer_ms, "flows": flows, "links": links,
                                     "bottleneck": transfer.bottleneck})


def forecasts(only: Sequence[int] | None = None) -> list[EdgeForecast]:
    return [
        EdgeForecast(edge, tuple(
            Option(cut, "fp32", slowness * forward / 1e3, slowness * backward / 1e3, cloud / 1e3, bits, bits)
            for cut, (forward, backward, cloud, bits) in CUTS_MS_AND_BITS.items() if only is None or only[row] == cut
        ), tuple(4e4 * layer**2 for layer in range(14)), 0.08)
        for row, (edge, slowness) in enumerate(zip(EDGES, SLOWNESS, strict=True))
    ]


def test_planning_leaves_a_local_optimum_of_plan_and_paths() -> None:
    """With cuts 6, 8, 9 and 12 two assignments of paths are equally fast; with one of them no other cuts are better."""
    controller, planner, current = LocalController(), QuotePlanner(2e6), (6, 8, 9, 12)

    def first(offer: Offer, keep_cuts: bool = True) -> RoundPlan:  # noqa: ARG001
        return plan_round(forecasts(current), offer, 4)

    def later(offer: Offer, keep_cuts: bool = True) -> RoundPlan:
        return plan_round(forecasts(), offer, 4, current if keep_cuts else None, 8)

    before = planner.plan(controller, first, SERVED, 0.75, None)
    assert later(before.offer).cuts == current
    after = planner.plan(controller, later, SERVED, 0.75, "r-1")
    assert after.plan.cuts != current
    assert after.plan.step_s * (1 + MIN_GAIN) < before.plan.step_s
    assert after.quote_stats.quotes == 4
    assert plan_round(forecasts(after.plan.cuts), after.offer, 4).step_s == pytest.approx(after.plan.step_s)


def test_no_more_quotes_are_requested_if_no_paths_could_help() -> None:
    controller, planner = LocalController(), QuotePlanner(2e6)

    def compute_bound(offer: Offer, keep_cuts: bool = True) -> RoundPlan:  # noqa: ARG001
        slow = [EdgeForecast(edge, (Option(1, "fp32", 1.0, 1.0, 0.1, 1e6, 1e6),), (0.0, 0.0)) for edge in EDGES]
        return plan_round(slow, offer, 4)

    quoted = planner.plan(controller, compute_bound, SERVED, 0.75, None)
    assert quoted.quote_stats.quotes == len(controller.quote_requests) == 2
