"""One reservation for a run: asked for anew every round, adapted to refusals, gone on without if need be."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

from trainer.config.settings import Protection
from trainer.errors import ControllerUnreachableError, NetworkError, PlanError, ReservationRefusedError
from trainer.planning.plan import Offer, RoundPlan
from trainer.reservation.api_types import FlowRequest, Reservation
from trainer.reservation.averaging_rates import WORTH_S, Rates, Volumes, haul_rates, haul_s
from trainer.reservation.bandwidth import (
    BestEffortBandwidth,
    Draft,
    EdgeEndpoint,
    Enquiry,
    FlowPromise,
    Grant,
    unreserved,
)
from trainer.reservation.held_reservation import HeldReservation, ReservationGoneError
from trainer.reservation.quote_planning import QuotePlanner, Surveyed
from trainer.transport.pacing import BURST_BYTES

TOO_MUCH = ("no_capacity", "no_spectrum")
"""Refusals after which asking for less may help."""

TRIES = 6
"""How often a plan is adapted to a refusal before the run gives up."""


@dataclass
class ReservedBandwidth:
    """One reservation for the whole run, changed from round to round, and for averagings.

    `holding`: of the cloud. `reserve=False` only reads the offer (best effort).

    The offer knows nothing of spare paths. So the first plan of a protected run mostly asks for too much, and those
    after it begin with the share that fitted then.
    """

    holding: HeldReservation
    travellers: Sequence[EdgeEndpoint]
    cloud_port: int
    share: float
    floor_bps: float
    reserve: bool = True
    protection: Protection = "none"
    unreachable_rounds: int = 0
    broken_rounds: int = 0
    _usable_bps: float = 0.0
    _fitting: float | None = None
    _away: bool = False
    _hauls: bool = False
    """Whether what is reserved is for an averaging, and not for the last grant."""
    _last: Grant | None = field(default=None)
    _survey: QuotePlanner = field(init=False)

    def __post_init__(self) -> None:
        self._survey = QuotePlanner(self.holding.owner, self.floor_bps)

    def acquire(self, draft: Draft) -> Grant:
        """Draft, ask, and adapt to what is refused, TRIES times.

        Once there was a grant there always is one: without an answer from the controller, or if no change can be had
        (others have taken what there was, say), the last one goes on while its lease lasts; after that, and when what
        was reserved is lost, the plan goes on at best effort and every promise of it counts as broken. Every round asks
        again.

        Raises: ReservationRefusedError, ControllerUnreachableError, PlanError, if nothing was ever granted.
        """
        with self.holding.busy:
            return self._secure(draft)

    def _secure(self, draft: Draft) -> Grant:
        try:
            grant = self._adapt(draft)
        except NetworkError as error:
            if self._last is None:
                raise
            return self._go_on(draft, error)
        if self._away or (self._last is not None and self._last.broken):
            self.holding.say("The controller answers, and the flows are reserved again.")
        self._away, self._hauls, self._last = False, False, grant
        if grant.reserved:
            self.holding.keep_alive()
        return grant

    def _go_on(self, draft: Draft, error: NetworkError) -> Grant:
        assert self._last is not None
        self._away = isinstance(error, ControllerUnreachableError)
        self.unreachable_rounds += self._away
        present, before = {one.name for one in self.travellers}, self._last.plan.edges
        known = present <= {edge.edge for edge in before}
        if self._last.reserved and known and self.holding.lasts:
            if self._hauls:
                return self._go_on_after_haul(draft, error)
            sentence = f"{error} The last round's plan and reservation go on while the lease lasts."
            self.holding.say(sentence)
            plan = dataclasses.replace(self._last.plan, edges=tuple(e for e in before if e.edge in present))
            return dataclasses.replace(self._last, plan=plan, adaptations=(sentence,), enquiry=None)
        self.broken_rounds += 1
        sentence = f"{error} Nothing is reserved now: this round goes on at best effort, its promises are broken."
        self.holding.say(sentence)
        least_bps = self.floor_bps * len(self.travellers)
        open_grant = BestEffortBandwidth(self.travellers, max(self._usable_bps, least_bps), self.floor_bps).acquire(
            draft
        )
        self._last = dataclasses.replace(open_grant, adaptations=(sentence,), broken=self.reserve)
        return self._last

    def acquire_for_averaging(self, volumes: Volumes) -> Rates | None:
        """Change the reservation to the rates at which these volumes can go together, if that pays.

        Without an answer of the controller, or refused, the round's rates stay.
        """
        with self.holding.busy:
            live, last = self.holding.live, self._last
            if live is None or last is None or not last.reserved or self._away:
                return None
            now: Rates = {edge: (last.up[edge].rate_bps, last.down[edge].rate_bps) for edge in volumes}
            try:
                whole = self._survey.rates(self.holding.controller, volumes, live.id)
                wanted = haul_rates(whole, self._fitting or self.share, self.floor_bps)
                if haul_s(volumes, now) - haul_s(volumes, wanted) < WORTH_S:
                    return None
                live = self.holding.change(self._flows(wanted), 0)
            except NetworkError as error:
                self.holding.say(f"{error} The averaging goes on at the rates of the round.")
                return None
            self._hauls = True
            flow = live.flow
            return {edge: (flow(f"{edge}-up").reserved_bps, flow(f"{edge}-down").reserved_bps) for edge in volumes}

    def _go_on_after_haul(self, draft: Draft, error: NetworkError) -> Grant:
        """What is reserved is for an averaging: it is planned for, and that plan goes on from then on.

        Raises: PlanError.
        """
        live = self.holding.live
        assert live is not None
        sentence = f"{error} What is reserved for the averaging goes on while the lease lasts, with a plan for it."
        self.holding.say(sentence)
        names = [traveller.name for traveller in self.travellers]
        plan = draft(Offer(
            up_links={edge: (f"{edge}-up",) for edge in names},
            down_links={edge: (f"{edge}-down",) for edge in names},
            usable_bps={flow.name: float(flow.reserved_bps) for flow in live.flows},
            floor_bps=self.floor_bps,
        ))
        self._hauls, self._last = False, self._granted(plan, live, [sentence], None)
        return self._last

    def remove_edge(self, edge: str) -> None:
        """Give the edge's flows back at once; what the others have stays."""
        self.travellers = [traveller for traveller in self.travellers if traveller.name != edge]
        with self.holding.busy:
            self.holding.give_back(edge)

    def add_edge(self, edge: str, port: int) -> None:
        """Reserve for this edge from the next plan on."""
        self.travellers = [*(one for one in self.travellers if one.name != edge), EdgeEndpoint(edge, port)]

    def release(self) -> None:
        """Release the reservation, once; a controller that is gone lets the lease run out."""
        self.holding.release()

    def _adapt(self, draft: Draft) -> Grant:
        share, adaptations = self._fitting or self.share, []
        enquiry: Enquiry | None = None
        last_refusal: ReservationRefusedError | None = None
        for attempt in range(1, TRIES + 1):
            try:
                surveyed = self._look(draft, share)
            except PlanError as error:
                raise last_refusal or error from error  # the controller knows better what is in the way
            plan, enquiry = surveyed.plan, surveyed.enquiry.after(enquiry)
            if not self.reserve:
                return unreserved(plan, enquiry)
            try:
                live = self.holding.change(self._flows({e.edge: (e.up_bps, e.down_bps) for e in plan.edges}))
            except ReservationGoneError as gone:
                self.holding.forget(gone)
                continue
            except ReservationRefusedError as refusal:
                if refusal.problem.get("code") not in TOO_MUCH or attempt == TRIES:
                    raise
                last_refusal = refusal
                share *= _shrink(refusal.problem)
                adaptations.append(
                    f"{refusal} The plan adapts: {share:.0%} of what is free, a longer transmission delay."
                )
                self.holding.say(adaptations[-1])
                continue
            if self.protection != "none":
                self._fitting = share
            self._usable_bps = min(surveyed.offer.usable_bps.values())
            return self._granted(plan, live, adaptations, enquiry)
        raise NetworkError(f"No reservation lasted long enough to be used, in {TRIES} tries.")

    def _look(self, draft: Draft, share: float) -> Surveyed:
        """Plan for what the controller offers now; what we hold ourselves counts as free."""
        edges = [traveller.name for traveller in self.travellers]
        retries = 0 if self._away else None
        controller, live = self.holding.controller, self.holding.live
        held = None if live is None else live.id
        try:
            return self._survey.draft(controller, draft, edges, share, held, retries)
        except ReservationRefusedError as refusal:
            if live is None or refusal.problem.get("code") != "not_found":
                raise
            self.holding.forget(refusal)
            return self._survey.draft(controller, draft, edges, share, None, retries)

    def _flows(self, rates: Rates) -> list[FlowRequest]:
        ports = {traveller.name: traveller.port for traveller in self.travellers}
        flows, cloud = [], self.holding.owner
        for edge, (up_bps, down_bps) in rates.items():
            port, more = ports[edge], (BURST_BYTES, self.protection)
            flows.append(FlowRequest(f"{edge}-up", edge, cloud, port, self.cloud_port, up_bps, *more))
            flows.append(FlowRequest(f"{edge}-down", cloud, edge, self.cloud_port, port, down_bps, *more))
        return flows

    def _granted(
        self, plan: RoundPlan, live: Reservation, adaptations: list[str], enquiry: Enquiry | None
    ) -> Grant:
        def promise(name: str) -> FlowPromise:
            flow = live.flow(name)
            return FlowPromise(flow.reserved_bps, flow.accumulated_latency_us, flow.path)

        if live.state != "active":
            adaptations.append(f"Reservation {live.id} is {live.state}: {live.reason or 'no reason was given'}.")
            self.holding.say(adaptations[-1])
        return Grant(
            plan,
            up={edge.edge: promise(f"{edge.edge}-up") for edge in plan.edges},
            down={edge.edge: promise(f"{edge.edge}-down") for edge in plan.edges},
            reservation_id=live.id,
            reservation_version=live.version,
            adaptations=tuple(adaptations),
            enquiry=enquiry,
        )


def _shrink(problem: dict[str, object]) -> float:
    """By how much to ask for less: to what is free of what was asked, and at least a tenth less."""
    bottleneck = problem.get("bottleneck")
    if isinstance(bottleneck, dict):
        free, asked = bottleneck.get("free_bps"), bottleneck.get("asked_bps")
        if isinstance(free, int | float) and isinstance(asked, int | float) and asked > 0:
            return min(0.9, max(0.05, free / asked))
    return 0.7
