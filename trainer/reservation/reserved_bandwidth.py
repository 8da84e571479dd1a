"""Reserved bandwidth: one reservation per run, modified every round; best effort once it is lost."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from trainer.config.settings import Protection
from trainer.errors import ControllerUnreachableError, NetworkError, PlanError, ReservationRefusedError, TrainerError
from trainer.planning.plan import Offer, RoundPlan
from trainer.reservation.api_types import FlowRequest, Reservation
from trainer.reservation.averaging_rates import MIN_SAVING_S, Rates, Volumes, averaging_time_s, rates_with_floor
from trainer.reservation.bandwidth import (
    AssumedBandwidth,
    EdgeEndpoint,
    FlowGuarantee,
    Grant,
    PlanForOffer,
    QuoteStats,
    best_effort_grant,
)
from trainer.reservation.held_reservation import HeldReservation, ReservationGoneError
from trainer.reservation.quote_planning import QuotedPlan, QuotePlanner
from trainer.transport.pacing import burst_bytes

CAPACITY_CODES = ("no_capacity", "no_spectrum", "latency_not_met")
"""Codes of refusals after which a smaller request may succeed.

The trainer gives no latency limits, so `latency_not_met` protects the promise to another reservation."""

BOUND_SLACK = 1.5
"""How much later reservations of others may raise a promised bound, as a share of it. A second run of the same size
raises it by 0.6 to 1.4 (metro map), so it is still admitted. The bound with its slack is what transfers are judged by:
of a transfer that takes a second, some tenths at most (docs/training.md)."""

Guarantees = dict[str, FlowGuarantee]
"""By edge."""

MAX_ATTEMPTS = 6
"""Attempts to reserve for one plan before the refusal is final."""


@dataclass
class ReservedBandwidth:
    """One reservation for the whole run, modified from round to round and for averagings.

    `held` belongs to the cloud. `reserve=False` only requests quotes (best effort).

    Quotes do not include backup paths, so the first plan of a protected run usually requests too much. Later plans
    start with the share that was granted then.
    """

    held: HeldReservation
    endpoints: Sequence[EdgeEndpoint]
    cloud_port: int
    share: float
    floor_bps: float
    reserve: bool = True
    protection: Protection = "none"
    unreachable_rounds: int = 0
    broken_rounds: int = 0
    assumed_bps: None = None
    _usable_bps: float = 0.0
    _granted_share: float | None = None
    _unreachable: bool = False
    _reserved_for_averaging: bool = False
    """Whether the reservation has the rates of an averaging instead of the last grant's."""
    _last_grant: Grant | None = field(default=None)
    _planned_ahead: QuotedPlan | None = field(default=None)
    _quote_planner: QuotePlanner = field(init=False)

    def __post_init__(self) -> None:
        self._quote_planner = QuotePlanner(self.floor_bps)

    def acquire(self, plan_for: PlanForOffer) -> Grant:
        """Plan and reserve; after a refusal with a smaller share, at most MAX_ATTEMPTS times.

        After the first grant this always returns one. If the controller does not answer or refuses every change, the
        last plan continues while its lease lasts. Once the lease has expired or the reservation is lost, the plan is
        best effort and its guarantees count as broken. Every round tries to reserve again.

        Raises: ReservationRefusedError, ControllerUnreachableError, PlanError, before the first grant.
        """
        with self.held.lock:
            try:
                grant = self._plan_and_reserve(plan_for)
            except NetworkError as error:
                if self._last_grant is None:
                    raise
                return self._continue_after(plan_for, error)
            if self._unreachable or (self._last_grant is not None and self._last_grant.broken):
                self.held.notify("The controller answers again; the flows are reserved again.")
            self._unreachable, self._reserved_for_averaging, self._last_grant = False, False, grant
            if grant.reserved:
                self.held.start_renewal()
            return grant

    def plan_ahead(self, plan_for: PlanForOffer) -> None:
        """Make the plan of the next `acquire` for the present quotes; what fails now fails again, and is told, then."""
        with self.held.lock:
            self._planned_ahead = None
            if self._unreachable or self.held.reservation is None:
                return
            with contextlib.suppress(TrainerError):
                self._planned_ahead = self._quote_planner.plan(
                    self.held.controller, plan_for, self._nodes(), self._granted_share or self.share,
                    self.held.reservation.id, 0)

    def forget_plan(self) -> None:
        """Forget a plan that was made ahead."""
        self._planned_ahead = None

    def _continue_after(self, plan_for: PlanForOffer, error: NetworkError) -> Grant:
        assert self._last_grant is not None
        self._unreachable = isinstance(error, ControllerUnreachableError)
        self.unreachable_rounds += self._unreachable
        present, planned = {endpoint.name for endpoint in self.endpoints}, self._last_grant.plan.edges
        all_planned = present <= {edge.edge for edge in planned}
        if self._last_grant.reserved and all_planned and self.held.is_valid:
            if self._reserved_for_averaging:
                return self._continue_with_averaging_rates(plan_for, error)
            sentence = f"{error} The last round's plan and reservation continue while the lease lasts."
            self.held.notify(sentence)
            plan = dataclasses.replace(self._last_grant.plan, edges=tuple(e for e in planned if e.edge in present))
            return dataclasses.replace(self._last_grant, plan=plan, adaptations=(sentence,), quote_stats=None)
        self.broken_rounds += 1
        sentence = f"{error} Nothing is reserved; this round is best effort and its guarantees are broken."
        self.held.notify(sentence)
        usable_bps = max(self._usable_bps, self.floor_bps * len(self.endpoints))
        best_effort = AssumedBandwidth(self.endpoints, usable_bps, self.floor_bps).acquire(plan_for)
        self._last_grant = dataclasses.replace(
            best_effort, adaptations=(sentence,), broken=self.reserve, rates_are_assumed=not self._usable_bps)
        return self._last_grant

    def with_present_bounds(self, grant: Grant) -> Grant:
        """Return the grant with the bounds that the controller has told since, where they are larger.

        They are read from the answers to renewals.
        """
        reservation = self.held.reservation
        if reservation is None or grant.reservation_id != reservation.id:
            return grant
        up, down = (_with_present_bounds(grant.up, reservation, "up"),
                    _with_present_bounds(grant.down, reservation, "down"))
        if (up, down) == (grant.up, grant.down):
            return grant
        sentence = f"Bounds of reservation {reservation.id} have grown beyond their slack"
        self.held.notify(f"{sentence}; from now on the new ones count.")
        return dataclasses.replace(grant, up=up, down=down, reservation_version=reservation.version)

    def acquire_for_averaging(self, volumes: Volumes) -> Rates | None:
        """Change the reservation to the rates at which these volumes end together, if that saves enough time.

        If the controller does not answer or refuses, the rates of the round stay. Where the round sends nothing, a
        reservation is made for the averaging.
        """
        with self.held.lock:
            reservation, last = self.held.reservation, self._last_grant
            is_idle = reservation is None and last is not None and not last.broken and self.reserve
            if last is None or self._unreachable or not (is_idle or (reservation is not None and last.reserved)):
                return None
            floor_bps = int(self.floor_bps)  # without a flow in one direction, about what best effort leaves
            current: Rates = {edge: (last.up[edge].rate_bps or floor_bps, last.down[edge].rate_bps or floor_bps)
                              for edge in volumes}
            try:
                full = self._quote_planner.rates(self.held.controller, volumes, self._nodes(),
                                                 None if reservation is None else reservation.id)
                proposed = rates_with_floor(full, self._granted_share or self.share, self.floor_bps)
                if averaging_time_s(volumes, current) - averaging_time_s(volumes, proposed) < MIN_SAVING_S:
                    return None
                reservation = self.held.reserve(self._flow_requests(proposed), 0)
            except NetworkError as error:
                self.held.notify(f"{error} The averaging continues at the rates of the round.")
                return None
            self._reserved_for_averaging = True
            flow = reservation.flow
            return {edge: (flow(f"{edge}-up").reserved_bps, flow(f"{edge}-down").reserved_bps) for edge in volumes}

    def _continue_with_averaging_rates(self, plan_for: PlanForOffer, error: NetworkError) -> Grant:
        """Plan for the rates reserved for the averaging; this plan then continues.

        Raises: PlanError.
        """
        reservation = self.held.reservation
        assert reservation is not None
        sentence = (
            f"{error} The reservation of the averaging continues while the lease lasts; the round is planned for it."
        )
        self.held.notify(sentence)
        names = [endpoint.name for endpoint in self.endpoints]
        plan = plan_for(Offer(
            up_links={edge: (f"{edge}-up",) for edge in names},
            down_links={edge: (f"{edge}-down",) for edge in names},
            usable_bps={flow.name: float(flow.reserved_bps) for flow in reservation.flows},
            floor_bps=self.floor_bps,
        ))
        self._reserved_for_averaging, self._last_grant = False, self._grant_for(plan, reservation, [sentence], None)
        return self._last_grant

    def remove_edge(self, edge: str) -> None:
        """Release the edge's flows immediately; the other flows stay."""
        self.endpoints = [endpoint for endpoint in self.endpoints if endpoint.name != edge]
        self.forget_plan()
        with self.held.lock:
            self.held.release_edge(edge)

    def add_edge(self, endpoint: EdgeEndpoint) -> None:
        """Reserve for this edge from the next plan on."""
        self.forget_plan()
        self.endpoints = [*(other for other in self.endpoints if other.name != endpoint.name), endpoint]

    def offers_to(self, nodes: Sequence[str]) -> dict[str, Offer]:
        """Return what the network offers to all edges towards each of these nodes, as far as it is reached by all.

        Raises: ReservationRefusedError, ControllerUnreachableError if none is.
        """
        offers, refusal = {}, None
        for node in nodes:
            try:
                offers[node] = self._quote_planner.offer(
                    self.held.controller, {endpoint.name: node for endpoint in self.endpoints}, self.share)
            except ReservationRefusedError as error:
                self.held.notify(f"{error} No edge is assigned to workers at {node}.")
                refusal = error
        if refusal is not None and not offers:
            raise refusal
        return offers

    def _nodes(self) -> dict[str, str]:
        """Return the node that serves every edge."""
        return {endpoint.name: endpoint.cloud_node or self.held.owner for endpoint in self.endpoints}

    def release(self) -> None:
        """Release the reservation once; if the controller does not answer, it expires with its lease."""
        self.held.release()

    def _plan_and_reserve(self, plan_for: PlanForOffer) -> Grant:
        share, adaptations = self._granted_share or self.share, []
        stats: QuoteStats | None = None
        last_refusal: ReservationRefusedError | None = None
        for attempt in range(1, MAX_ATTEMPTS + 1):
            ahead, self._planned_ahead = self._planned_ahead, None
            try:
                quoted = ahead or self._quoted_plan(plan_for, share)
            except PlanError as error:
                raise last_refusal or error from error  # the controller's refusal names the cause more exactly
            plan, stats = quoted.plan, quoted.quote_stats.plus(stats)
            if not self.reserve:
                return best_effort_grant(plan, stats)
            rates = {edge.edge: (edge.up_bps, edge.down_bps) for edge in plan.edges}
            if not any(up_bps or down_bps for up_bps, down_bps in rates.values()):
                self.held.drop_flows()
                return best_effort_grant(plan, stats)
            try:
                reservation = self.held.reserve(self._flow_requests(rates))
            except ReservationGoneError as gone:
                self.held.discard(gone)
                continue
            except ReservationRefusedError as refusal:
                if refusal.problem.get("code") not in CAPACITY_CODES or attempt == MAX_ATTEMPTS:
                    raise
                if ahead is not None:  # what it was planned for is no longer free
                    continue
                last_refusal = refusal
                share *= _reduction_factor(refusal.problem)
                adaptations.append(
                    f"{refusal} The plan adapts: {share:.0%} of the free capacity, a longer transmission delay."
                )
                self.held.notify(adaptations[-1])
                continue
            if self.protection != "none":
                self._granted_share = share
            self._usable_bps = min(quoted.offer.usable_bps.values())
            return self._grant_for(plan, reservation, adaptations, stats)
        raise NetworkError(f"The reservation was lost in each of {MAX_ATTEMPTS} attempts to use it.")

    def _quoted_plan(self, plan_for: PlanForOffer, share: float) -> QuotedPlan:
        """Plan with the controller's current quotes; the held bandwidth counts as free."""
        nodes = self._nodes()
        retries = 0 if self._unreachable else None
        controller, reservation = self.held.controller, self.held.reservation
        held_id = None if reservation is None else reservation.id
        try:
            return self._quote_planner.plan(controller, plan_for, nodes, share, held_id, retries)
        except ReservationRefusedError as refusal:
            if reservation is None or refusal.problem.get("code") != "not_found":
                raise
            self.held.discard(refusal)
            return self._quote_planner.plan(controller, plan_for, nodes, share, None, retries)

    def _flow_requests(self, rates: Rates) -> list[FlowRequest]:
        ports = {endpoint.name: (endpoint.port, endpoint.cloud_port or self.cloud_port) for endpoint in self.endpoints}
        flows, nodes = [], self._nodes()
        for edge, (up_bps, down_bps) in rates.items():
            (port, cloud_port), cloud = ports[edge], nodes[edge]
            up, down = ((bps, burst_bytes(bps), self.protection, BOUND_SLACK) for bps in (up_bps, down_bps))
            if up_bps:
                flows.append(FlowRequest(f"{edge}-up", edge, cloud, port, cloud_port, *up))
            if down_bps:
                flows.append(FlowRequest(f"{edge}-down", cloud, edge, cloud_port, port, *down))
        return flows

    def _grant_for(
        self, plan: RoundPlan, reservation: Reservation, adaptations: list[str], stats: QuoteStats | None
    ) -> Grant:
        if reservation.state != "active":
            reason = reservation.reason or "no reason given"
            adaptations.append(f"Reservation {reservation.id} is {reservation.state}: {reason}.")
            self.held.notify(adaptations[-1])
        return Grant(
            plan,
            up={edge.edge: _guarantee(reservation, f"{edge.edge}-up", edge.up_bps) for edge in plan.edges},
            down={edge.edge: _guarantee(reservation, f"{edge.edge}-down", edge.down_bps) for edge in plan.edges},
            reservation_id=reservation.id,
            reservation_version=reservation.version,
            adaptations=tuple(adaptations),
            quote_stats=stats,
        )


def _guarantee(reservation: Reservation, name: str, planned_bps: int) -> FlowGuarantee:
    """Return what is guaranteed to a flow; of rate 0 if none was planned."""
    if not planned_bps:
        return FlowGuarantee(0)
    flow = reservation.flow(name)
    return FlowGuarantee(flow.reserved_bps, flow.guaranteed_latency_us, flow.path)


def _with_present_bounds(
    guarantees: Mapping[str, FlowGuarantee], reservation: Reservation, direction: str
) -> Guarantees:
    """Return the guarantees with the latencies that the reservation has now, where these are larger."""
    present = {flow.name: flow.guaranteed_latency_us for flow in reservation.flows}
    return {
        edge: dataclasses.replace(
            known, network_latency_us=max(known.network_latency_us or 0.0, present.get(f"{edge}-{direction}", 0.0))
        ) if known.rate_bps else known
        for edge, known in guarantees.items()
    }


def _reduction_factor(problem: dict[str, object]) -> float:
    """Return the factor for the next request: the free part of the requested rate, between 0.05 and 0.9."""
    bottleneck = problem.get("bottleneck")
    if isinstance(bottleneck, dict):
        free_bps, requested_bps = bottleneck.get("free_bps"), bottleneck.get("asked_bps")
        if isinstance(free_bps, int | float) and isinstance(requested_bps, int | float) and requested_bps > 0:
            return min(0.9, max(0.05, free_bps / requested_bps))
    return 0.7
