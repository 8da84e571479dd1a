"""What the network offers for a round: the controller is asked how the round's volumes would travel.

Its answer depends on how the volumes stand to one another, and they follow from the plan. So the question names those
of the last plan; if the new plan sends others, it is asked once more and, if the answer is another, planned once more.

That alone can end in a circle: paths that are best for a plan's volumes, and a plan that is best for these paths,
though another plan on other paths would be better. So a plan is also sketched for the ends of all paths, as if nothing
between them were narrow; if it is better, the controller is asked for its volumes, and what is planned then counts if
it pays.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from trainer.errors import PlanError
from trainer.planning.plan import Offer, RoundPlan
from trainer.planning.planner import MIN_GAIN
from trainer.reservation.api_types import Quote, Volume
from trainer.reservation.averaging_rates import Rates, Volumes
from trainer.reservation.bandwidth import Draft, Enquiry
from trainer.reservation.controller_client import Controller

FIRST_BYTES = 1_000_000
"""Before the first plan all volumes count as equal; only how they stand to one another matters."""

ALIKE = 0.1
"""Volumes whose share of the whole differs by less than this, relative to it, would travel in the same way."""


@dataclass(frozen=True, slots=True)
class Surveyed:
    """A plan, the offer it was made for, and what was asked."""

    plan: RoundPlan
    offer: Offer
    enquiry: Enquiry


class QuotePlanner:
    """Asks before every plan; remembers what the last plan sends."""

    def __init__(self, cloud: str, floor_bps: float, clock: Callable[[], float] = time.perf_counter) -> None:
        self._cloud = cloud
        self._floor_bps = floor_bps
        self._clock = clock
        self._last: Volumes = {}

    def draft(
        self, controller: Controller, draft: Draft, edges: Sequence[str], share: float, instead_of: str | None,
        retries: int | None = None,
    ) -> Surveyed:
        """The plan for the part `share` of what is free; what the reservation `instead_of` takes counts as free.

        Raises: PlanError, ReservationRefusedError if a link that must be crossed is full, ControllerUnreachableError.
        """
        def look(volumes: Volumes, before: Surveyed | None) -> Surveyed:
            began_s = self._clock()
            up, down = self._ask(controller, volumes, instead_of, retries)
            asked = Enquiry(2, self._clock() - began_s, up.transfer_ms / 1e3, down.transfer_ms / 1e3, up.bottleneck,
                            down.bottleneck).after(before.enquiry if before else None)
            offer = self._offer(up, down, share)
            plan = before.plan if before and before.offer == offer else draft(offer)
            return Surveyed(plan, offer, asked)

        asked = [{edge: self._last.get(edge, (FIRST_BYTES, FIRST_BYTES)) for edge in edges}]
        found = look(asked[0], None)
        if not alike(asked[0], sent := volumes_of(found.plan)):
            asked.append(sent)
            found = look(sent, found)
        sketch = draft(_ends_of(found.offer), keep=False)
        sent = volumes_of(sketch)
        if _pays(sketch, found.plan) and not any(alike(before, sent) for before in asked):
            with contextlib.suppress(PlanError):  # on those paths it cannot even have its floors
                other = look(sent, found)
                found = other if _pays(other.plan, found.plan) else replace(found, enquiry=replace(
                    found.enquiry, quotes=other.enquiry.quotes, seconds=other.enquiry.seconds))
        self._last = volumes_of(found.plan)
        return found

    def rates(self, controller: Controller, volumes: Volumes, instead_of: str) -> Rates:
        """Those at which these can go to the cloud together, and come back together; asked once.

        Raises: ReservationRefusedError, ControllerUnreachableError.
        """
        up, down = self._ask(controller, volumes, instead_of, 0)
        back_bps = {flow.name.removesuffix("-down"): flow.rate_bps for flow in down.flows}
        return {(edge := flow.name.removesuffix("-up")): (flow.rate_bps, back_bps[edge]) for flow in up.flows}

    def _ask(
        self, controller: Controller, volumes: Volumes, instead_of: str | None, retries: int | None
    ) -> tuple[Quote, Quote]:
        """One question for each direction: they share no fibre, so neither must wait for the other."""
        up = [Volume(f"{edge}-up", edge, self._cloud, size) for edge, (size, _) in volumes.items()]
        down = [Volume(f"{edge}-down", self._cloud, edge, size) for edge, (_, size) in volumes.items()]
        return controller.quote(up, instead_of, retries), controller.quote(down, instead_of, retries)

    def _offer(self, up: Quote, down: Quote, share: float) -> Offer:
        usable_bps = {link.link: share * link.free_bps for quote in (up, down) for link in quote.links}
        return Offer(
            up_links={flow.name.removesuffix("-up"): flow.links for flow in up.flows},
            down_links={flow.name.removesuffix("-down"): flow.links for flow in down.flows},
            usable_bps=usable_bps, floor_bps=self._floor_bps,
        )


def _ends_of(offer: Offer) -> Offer:
    """The same, as if only the first and the last link of a path could be narrow: all its paths cross these."""
    def ends(links: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        return {edge: tuple(dict.fromkeys((path[0], path[-1]))) for edge, path in links.items()}

    return replace(offer, up_links=ends(offer.up_links), down_links=ends(offer.down_links))


def _pays(plan: RoundPlan, than: RoundPlan) -> bool:
    """Whether a plan's step is shorter by so much that it is worth other cuts, or with the same cuts at all."""
    return plan.step_s * (1 + (MIN_GAIN if plan.cuts != than.cuts else 1e-9)) < than.step_s


def volumes_of(plan: RoundPlan) -> Volumes:
    """What every flow of a plan carries in the transmission delay, control frames' floor included."""
    return {
        edge.edge: (max(1, round(edge.up_bps * plan.transmission_delay_s / 8)),
                    max(1, round(edge.down_bps * plan.return_delay_s / 8)))
        for edge in plan.edges
    }


def alike(some: Mapping[str, tuple[int, int]], others: Mapping[str, tuple[int, int]]) -> bool:
    """Whether these stand to one another as those do, in either direction."""
    for way in (0, 1):
        whole, other_whole = (sum(one[way] for one in each.values()) for each in (some, others))
        for edge in some.keys() & others.keys():
            part, other_part = some[edge][way] / whole, others[edge][way] / other_whole
            if abs(part - other_part) > ALIKE * part:
                return False
    return True
