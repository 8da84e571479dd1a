"""Planning with quotes: the controller quotes paths and rates for the volumes of a round.

A quote depends on the proportions of the volumes, which follow from the plan. So the volumes of the last plan are
quoted first; if the new plan has others, these are quoted, and if the offer differs, the round is planned again.

This alone can end in a local optimum: paths that are best for the plan's volumes and a plan that is best for these
paths, although another plan on other paths would be better. So a second plan is made as if only the first and last
links of all paths were limited; if it is better, its volumes are quoted, and the resulting plan is used if it is
worthwhile.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from trainer.errors import PlanError
from trainer.planning.plan import Offer, RoundPlan
from trainer.planning.planner import MIN_GAIN
from trainer.reservation.api_types import Quote, TransferVolume
from trainer.reservation.averaging_rates import Rates, Volumes
from trainer.reservation.bandwidth import PlanForOffer, QuoteStats
from trainer.reservation.controller_client import ControllerClient

INITIAL_VOLUME_BYTES = 1_000_000
"""Volume of every flow before the first plan; only proportions matter."""

SIMILARITY = 0.1
"""Relative difference of the shares of two volumes below which they count as similar."""


@dataclass(frozen=True, slots=True)
class QuotedPlan:
    """A plan, the offer it was made for, and the quotes requested for it."""

    plan: RoundPlan
    offer: Offer
    quote_stats: QuoteStats


class QuotePlanner:
    """Requests quotes before every plan; keeps the volumes of the last plan."""

    def __init__(self, floor_bps: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._floor_bps = floor_bps
        self._clock = clock
        self._last_volumes: Volumes = {}

    def plan(
        self,
        controller: ControllerClient,
        plan_for: PlanForOffer,
        nodes: Mapping[str, str],
        share: float,
        instead_of: str | None,
        retries: int | None = None,
    ) -> QuotedPlan:
        """Plan with the part `share` of the free capacity, to which the reservation `instead_of` counts.

        `nodes`: the node of the cloud that serves each edge.

        Raises: PlanError, ReservationRefusedError if a required link is full, ControllerUnreachableError.
        """

        def quoted_plan(volumes: Volumes, previous: QuotedPlan | None) -> QuotedPlan:
            began_s = self._clock()
            up, down = self._quotes(controller, volumes, nodes, instead_of, retries)
            stats = QuoteStats(2, self._clock() - began_s, up.transfer_ms / 1e3, down.transfer_ms / 1e3, up.bottleneck,
                               down.bottleneck).plus(previous.quote_stats if previous else None)
            offer = self._offer(up, down, share)
            plan = previous.plan if previous and previous.offer == offer else plan_for(offer)
            return QuotedPlan(plan, offer, stats)

        quoted = [{edge: self._last_volumes.get(edge, (INITIAL_VOLUME_BYTES, INITIAL_VOLUME_BYTES)) for edge in nodes}]
        best = quoted_plan(quoted[0], None)
        if not are_similar(quoted[0], volumes := plan_volumes(best.plan)):
            quoted.append(volumes)
            best = quoted_plan(volumes, best)
        candidate = plan_for(_access_links_only(best.offer), keep_cuts=False)
        volumes = plan_volumes(candidate)
        if _is_worthwhile(candidate, best.plan) and not any(are_similar(earlier, volumes) for earlier in quoted):
            with contextlib.suppress(PlanError):  # the quoted paths cannot carry the floors
                other = quoted_plan(volumes, best)
                best = other if _is_worthwhile(other.plan, best.plan) else replace(best, quote_stats=replace(
                    best.quote_stats, quotes=other.quote_stats.quotes, seconds=other.quote_stats.seconds))
        self._last_volumes = plan_volumes(best.plan)
        return best

    def offer(self, controller: ControllerClient, nodes: Mapping[str, str], share: float) -> Offer:
        """Return the offer for equal volumes of all edges, without retries; `nodes`, `share`: as in `plan`.

        Raises: ReservationRefusedError, ControllerUnreachableError.
        """
        volumes = dict.fromkeys(nodes, (INITIAL_VOLUME_BYTES, INITIAL_VOLUME_BYTES))
        return self._offer(*self._quotes(controller, volumes, nodes, None, 0), share)

    def rates(
        self, controller: ControllerClient, volumes: Volumes, nodes: Mapping[str, str], instead_of: str | None
    ) -> Rates:
        """Return the rates at which these volumes can be transferred together in each direction; without retries.

        Raises: ReservationRefusedError, ControllerUnreachableError.
        """
        up, down = self._quotes(controller, volumes, nodes, instead_of, 0)
        down_bps = {flow.name.removesuffix("-down"): flow.rate_bps for flow in down.flows}
        return {(edge := flow.name.removesuffix("-up")): (flow.rate_bps, down_bps[edge]) for flow in up.flows}

    def _quotes(
        self, controller: ControllerClient, volumes: Volumes, nodes: Mapping[str, str], instead_of: str | None,
        retries: int | None,
    ) -> tuple[Quote, Quote]:
        """Request one quote per direction; the directions share no capacity, so they need not end together."""
        up = [TransferVolume(f"{edge}-up", edge, nodes[edge], size) for edge, (size, _) in volumes.items()]
        down = [TransferVolume(f"{edge}-down", nodes[edge], edge, size) for edge, (_, size) in volumes.items()]
        return controller.quote(up, instead_of, retries), controller.quote(down, instead_of, retries)

    def _offer(self, up: Quote, down: Quote, share: float) -> Offer:
        usable_bps = {link.link: share * link.free_bps for quote in (up, down) for link in quote.links}
        return Offer(
            up_links={flow.name.removesuffix("-up"): flow.links for flow in up.flows},
            down_links={flow.name.removesuffix("-down"): flow.links for flow in down.flows},
            usable_bps=usable_bps, floor_bps=self._floor_bps,
        )


def _access_links_only(offer: Offer) -> Offer:
    """Return the offer reduced to the first and last link of each path, which all paths of a flow share."""

    def ends(links: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        return {edge: tuple(dict.fromkeys((path[0], path[-1]))) for edge, path in links.items()}

    return replace(offer, up_links=ends(offer.up_links), down_links=ends(offer.down_links))


def _is_worthwhile(plan: RoundPlan, current: RoundPlan) -> bool:
    """Whether the step is shorter by MIN_GAIN if the cuts differ, or shorter at all if they do not."""
    return plan.step_s * (1 + (MIN_GAIN if plan.cuts != current.cuts else 1e-9)) < current.step_s


def plan_volumes(plan: RoundPlan) -> Volumes:
    """Return the bytes that every flow of a plan can carry within the transmission delay."""
    return {
        edge.edge: (max(1, round(edge.up_bps * plan.transmission_delay_s / 8)),
                    max(1, round(edge.down_bps * plan.return_delay_s / 8)))
        for edge in plan.edges
    }


def are_similar(some: Volumes, others: Volumes) -> bool:
    """Whether the volumes have similar proportions in both directions."""
    for direction in (0, 1):
        total, other_total = (sum(sizes[direction] for sizes in volumes.values()) for volumes in (some, others))
        for edge in some.keys() & others.keys():
            share, other_share = some[edge][direction] / total, others[edge][direction] / other_total
            if abs(share - other_share) > SIMILARITY * share:
                return False
    return True
