"""What the controller is asked before a plan, and that plan and paths do not hold each other fast."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from controller.booking.calendar import Calendar
from controller.domain.network import network_from_map
from controller.routing.coflow import Volume as Wanted
from controller.routing.coflow import shortest_common_transfer
from topologies.loader import load_map
from trainer.planning.plan import EdgeForecast, Offer, Option, RoundPlan
from trainer.planning.planner import MIN_GAIN, plan_round
from trainer.reservation.api_types import Quote, Volume
from trainer.reservation.controller_client import Controller
from trainer.reservation.quote_planning import QuotePlanner

METRO = network_from_map(load_map("metro"))
EDGES = ("edge1", "edge2", "edge3", "edge4")
SLOWNESS = (2.82, 1.79, 1.30, 1.0)
CUTS_MS_AND_BITS = {
    4: (11.6, 8.2, 31.9, 1_575_000), 6: (15.5, 13.1, 26.7, 1_039_000), 8: (22.6, 22.4, 16.2, 771_000),
    9: (27.4, 31.6, 6.2, 1_039_000), 10: (28.4, 31.8, 5.7, 503_000), 12: (31.1, 36.7, 0.5, 168_000),
}
"""As learnt on the metro map: milliseconds forward, backward, and in the cloud, for one micro-batch of edge4."""


class Asked(Controller):
    """The controller's own answers for a metro network in which nothing is reserved, without the way there."""

    def __init__(self) -> None:
        self.questions: list[list[Volume]] = []

    def quote(self, volumes: Sequence[Volume], instead_of: str | None, retries: int | None = None) -> Quote:  # noqa: ARG002
        self.questions.append(list(volumes))
        wanted = [Wanted(one.name, one.source, one.destination, one.transfer_bytes) for one in volumes]
        found = shortest_common_transfer(METRO, Calendar(), wanted, 0.0)
        flows = [{"name": one.name, "path": each.path, "rate_bps": each.rate_bps}
                 for one, each in zip(wanted, found.quotes, strict=True)]
        links = [{"link": name, "free_bps": link.reservable_bps} for name, link in METRO.links.items()]
        return Quote.model_validate({"transfer_ms": found.transfer_ms, "flows": flows, "links": links,
                                     "bottleneck": found.bottleneck})


def forecasts(only: Sequence[int] | None = None) -> list[EdgeForecast]:
    return [
        EdgeForecast(edge, tuple(
            Option(cut, "fp32", slowness * forward / 1e3, slowness * backward / 1e3, cloud / 1e3, bits, bits)
            for cut, (forward, backward, cloud, bits) in CUTS_MS_AND_BITS.items() if only is None or only[row] == cut
        ), tuple(4e4 * layer**2 for layer in range(14)), 0.08)
        for row, (edge, slowness) in enumerate(zip(EDGES, SLOWNESS, strict=True))
    ]


def test_a_plan_and_the_paths_for_its_volumes_do_not_keep_each_other_from_a_better_pair() -> None:
    """With the cuts 6, 8, 9 and 12 two ways to share the ring are as fast; on one of them no cuts are better."""
    controller, survey, current = Asked(), QuotePlanner("cloud", 2e6), (6, 8, 9, 12)

    def first(offer: Offer, keep: bool = True) -> RoundPlan:  # noqa: ARG001
        return plan_round(forecasts(current), offer, 4)

    def later(offer: Offer, keep: bool = True) -> RoundPlan:
        return plan_round(forecasts(), offer, 4, current if keep else None, 8)

    before = survey.draft(controller, first, EDGES, 0.75, None)
    assert later(before.offer).cuts == current
    after = survey.draft(controller, later, EDGES, 0.75, "r-1")
    assert after.plan.cuts != current
    assert after.plan.step_s * (1 + MIN_GAIN) < before.plan.step_s
    assert after.enquiry.quotes == 4
    assert plan_round(forecasts(after.plan.cuts), after.offer, 4).step_s == pytest.approx(after.plan.step_s)


def test_nothing_more_is_asked_when_no_paths_could_help() -> None:
    controller, survey = Asked(), QuotePlanner("cloud", 2e6)

    def computing_alone(offer: Offer, keep: bool = True) -> RoundPlan:  # noqa: ARG001
        slow = [EdgeForecast(edge, (Option(1, "fp32", 1.0, 1.0, 0.1, 1e6, 1e6),), (0.0, 0.0)) for edge in EDGES]
        return plan_round(slow, offer, 4)

    found = survey.draft(controller, computing_alone, EDGES, 0.75, None)
    assert found.enquiry.quotes == len(controller.questions) == 2
