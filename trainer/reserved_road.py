"""One reservation for a run: asked for anew every round, adapted to refusals, gone on without if need be."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from trainer.contract import FlowRequest, Reservation
from trainer.errors import ControllerUnreachableError, NetworkError, PlanError, ReservationRefusedError
from trainer.pacing import BURST_BYTES
from trainer.plans import RoundPlan
from trainer.reservations import Controller
from trainer.roads import Draft, Enquiry, FlowPromise, Grant, OpenRoad, Traveller, unreserved
from trainer.settings import Protection
from trainer.survey import Survey, Surveyed

log = logging.getLogger(__name__)

LIVE_STATES = ("active", "degraded")

TOO_MUCH = ("no_capacity", "no_spectrum")
"""Refusals after which asking for less may help."""

TRIES = 6
"""How often a plan is adapted to a refusal before the run gives up."""


class _ReservationGoneError(NetworkError):
    """What we held is held no more: plan anew without it."""

    code = "reservation_gone"


class LeaseRenewal:
    """Calls `renew` every `every_s` seconds until `stop`."""

    def __init__(self, every_s: float, renew: Callable[[], None]) -> None:
        self._over = threading.Event()
        threading.Thread(target=self._run, args=(every_s, renew), daemon=True).start()

    def stop(self) -> None:
        """Renew no more."""
        self._over.set()

    def _run(self, every_s: float, renew: Callable[[], None]) -> None:
        while not self._over.wait(every_s):
            renew()


@dataclass
class ReservedRoad:
    """One reservation for the whole run, changed from round to round.

    `reserve=False` only reads the offer (best effort). `say` hears every adaptation and trouble.

    The offer knows nothing of spare paths. So the first plan of a protected run mostly asks for too much, and those
    after it begin with the share that fitted then.
    """

    controller: Controller
    travellers: Sequence[Traveller]
    cloud: str
    cloud_port: int
    share: float
    floor_bps: float
    lease_s: float
    say: Callable[[str], None]
    reserve: bool = True
    protection: Protection = "none"
    clock: Callable[[], float] = time.monotonic
    unreachable_rounds: int = 0
    broken_rounds: int = 0
    _live: Reservation | None = None
    _asked: list[FlowRequest] = field(default_factory=list)
    _lease_ends_s: float = 0.0
    _usable_bps: float = 0.0
    _fitting: float | None = None
    _away: bool = False
    _renewal: LeaseRenewal | None = None
    _busy: threading.Lock = field(default_factory=threading.Lock)
    _last: Grant | None = field(default=None)
    _survey: Survey = field(init=False)

    def __post_init__(self) -> None:
        self._survey = Survey(self.cloud, self.floor_bps)

    def adopt(self, reservation: str) -> None:
        """Go on with what a cloud that was killed had reserved, if it is still there: its flows are in our way."""
        try:
            live = self.controller.find(reservation)
        except NetworkError as error:
            self.say(f"Reservation {reservation} of before cannot be gone on with: {error}")
            return
        if live.state in LIVE_STATES:
            self._live, self._lease_ends_s = live, self.clock() + self.lease_s

    def secure(self, draft: Draft) -> Grant:
        """Draft, ask, and adapt to what is refused, TRIES times.

        Once there was a grant there always is one: without an answer from the controller the last one goes on while its
        lease lasts; after that, and when what was reserved is lost, the plan goes on at best effort and every promise
        of it counts as broken. Every round asks again.

        Raises: ReservationRefusedError, ControllerUnreachableError, PlanError, if nothing was ever granted.
        """
        with self._busy:
            return self._secure(draft)

    def _secure(self, draft: Draft) -> Grant:
        try:
            grant = self._adapt(draft)
        except NetworkError as error:
            if self._last is None:
                raise
            return self._go_on(draft, error)
        if self._away or (self._last is not None and self._last.broken):
            self.say("The controller answers, and the flows are reserved again.")
        self._away, self._last = False, grant
        if grant.reserved and self._renewal is None:
            self._renewal = LeaseRenewal(self.lease_s / 3, self._renew)
        return grant

    def _go_on(self, draft: Draft, error: NetworkError) -> Grant:
        assert self._last is not None
        self._away = isinstance(error, ControllerUnreachableError)
        self.unreachable_rounds += self._away
        present, before = {one.name for one in self.travellers}, self._last.plan.edges
        known = present <= {edge.edge for edge in before}
        if self._away and self._last.reserved and known and self.clock() < self._lease_ends_s:
            sentence = f"{error} The last round's plan and reservation go on while the lease lasts."
            self.say(sentence)
            plan = dataclasses.replace(self._last.plan, edges=tuple(e for e in before if e.edge in present))
            return dataclasses.replace(self._last, plan=plan, adaptations=(sentence,), enquiry=None)
        self.broken_rounds += 1
        sentence = f"{error} Nothing is reserved now: this round goes on at best effort, its promises are broken."
        self.say(sentence)
        least_bps = self.floor_bps * len(self.travellers)
        open_grant = OpenRoad(self.travellers, max(self._usable_bps, least_bps), self.floor_bps).secure(draft)
        self._last = dataclasses.replace(open_grant, adaptations=(sentence,), broken=self.reserve)
        return self._last

    def _renew(self) -> None:
        """Keep the lease alive in a long round or a pause, unless a plan is being secured, which renews it, too."""
        if not self._busy.acquire(blocking=False):
            return
        try:
            if self._live is not None:
                began_s = self.clock()
                self.controller.renew(self._live.id, self.lease_s)
                self._lease_ends_s = began_s + self.lease_s
        except NetworkError as error:
            log.info("lease=%s renewed=no reason=%r", self.lease_s, str(error))  # the next round will tell
        finally:
            self._busy.release()

    def leave(self, edge: str) -> None:
        """Give the edge's flows back at once; what the others have stays."""
        self.travellers = [traveller for traveller in self.travellers if traveller.name != edge]
        with self._busy:
            self._give_back(edge)

    def _give_back(self, edge: str) -> None:
        if self._live is None:
            return
        flows = [flow for flow in self._asked if flow.name not in (f"{edge}-up", f"{edge}-down")]
        try:
            if flows:
                self._live = self.controller.modify(self._live.id, self.lease_s, flows, retries=0)
                self._asked = flows
            else:
                live, self._live = self._live, None
                self.controller.release(live.id)
        except NetworkError as error:
            self.say(f"The bandwidth of {edge} could not be given back: {error} It ends with the lease.")

    def join(self, edge: str, port: int) -> None:
        """Reserve for this edge from the next plan on."""
        self.travellers = [*(one for one in self.travellers if one.name != edge), Traveller(edge, port)]

    def release(self) -> None:
        """Release the reservation, once; a controller that is gone lets the lease run out."""
        if self._renewal is not None:
            self._renewal.stop()
        with self._busy:
            live, self._live = self._live, None
        if live is None:
            return
        try:
            self.controller.release(live.id)
        except NetworkError as error:
            self.say(f"Reservation {live.id} could not be released: {error} It ends with its lease.")

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
                flows = self._flows(plan)
                began_s = self.clock()
                self._live = self._ask(flows)
                self._asked, self._lease_ends_s = flows, began_s + self.lease_s
            except _ReservationGoneError as gone:
                self._forget(gone)
                continue
            except ReservationRefusedError as refusal:
                if refusal.problem.get("code") not in TOO_MUCH or attempt == TRIES:
                    raise
                last_refusal = refusal
                share *= _shrink(refusal.problem)
                adaptations.append(
                    f"{refusal} The plan adapts: {share:.0%} of what is free, a longer transmission delay."
                )
                self.say(adaptations[-1])
                continue
            if self.protection != "none":
                self._fitting = share
            self._usable_bps = min(surveyed.offer.usable_bps.values())
            return self._granted(plan, self._live, adaptations, enquiry)
        raise NetworkError(f"No reservation lasted long enough to be used, in {TRIES} tries.")

    def _look(self, draft: Draft, share: float) -> Surveyed:
        """Plan for what the controller offers now; what we hold ourselves counts as free."""
        edges = [traveller.name for traveller in self.travellers]
        retries = 0 if self._away else None
        try:
            held = None if self._live is None else self._live.id
            return self._survey.draft(self.controller, draft, edges, share, held, retries)
        except ReservationRefusedError as refusal:
            if self._live is None or refusal.problem.get("code") != "not_found":
                raise
            self._forget(refusal)
            return self._survey.draft(self.controller, draft, edges, share, None, retries)

    def _forget(self, why: NetworkError) -> None:
        self.say(f"{why} A new one is made.")
        self._live = None

    def _ask(self, flows: list[FlowRequest]) -> Reservation:
        if self._live is None:
            return self.controller.create(self.cloud, self.lease_s, flows)
        try:
            return self.controller.modify(self._live.id, self.lease_s, flows, retries=1)
        except ReservationRefusedError as refusal:
            if refusal.problem.get("code") in TOO_MUCH:
                raise
            raise _ReservationGoneError(f"Reservation {self._live.id} cannot go on: {refusal}") from refusal

    def _flows(self, plan: RoundPlan) -> list[FlowRequest]:
        ports = {traveller.name: traveller.port for traveller in self.travellers}
        flows = []
        for edge in plan.edges:
            port = ports[edge.edge]
            flows.append(FlowRequest(f"{edge.edge}-up", edge.edge, self.cloud, port, self.cloud_port, edge.up_bps,
                                     BURST_BYTES, self.protection))
            flows.append(FlowRequest(f"{edge.edge}-down", self.cloud, edge.edge, self.cloud_port, port, edge.down_bps,
                                     BURST_BYTES, self.protection))
        return flows

    def _granted(
        self, plan: RoundPlan, live: Reservation, adaptations: list[str], enquiry: Enquiry
    ) -> Grant:
        def promise(name: str) -> FlowPromise:
            flow = live.flow(name)
            return FlowPromise(flow.reserved_bps, flow.accumulated_latency_us, flow.path)

        if live.state != "active":
            adaptations.append(f"Reservation {live.id} is {live.state}: {live.reason or 'no reason was given'}.")
            self.say(adaptations[-1])
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
