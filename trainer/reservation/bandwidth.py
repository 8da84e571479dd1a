"""Bandwidth providers: the interface, what they grant for a round, and assumed rates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from trainer.planning.plan import Offer, RoundPlan
from trainer.reservation.averaging_rates import Rates, Volumes


class PlanForOffer(Protocol):
    """Makes a round plan for an offer of the network."""

    def __call__(self, offer: Offer, keep_cuts: bool = True) -> RoundPlan:
        """Plan; with `keep_cuts` the cuts of the last round stay unless changing them is worthwhile."""


@dataclass(frozen=True, slots=True)
class FlowGuarantee:
    """Rate and latency bound of one flow in a round; `network_latency_us` is None if nothing is guaranteed.

    `rate_bps` 0: there is no flow, because nothing is sent.
    """

    rate_bps: int
    network_latency_us: float | None = None
    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class QuoteStats:
    """Quotes requested for a plan: their number, the total response time, and the last results.

    `up_s`, `down_s`: shortest common transfer times of the quoted volumes, set by the bottlenecks.
    """

    quotes: int
    seconds: float
    up_s: float
    down_s: float
    up_bottleneck: str
    down_bottleneck: str

    def plus(self, earlier: QuoteStats | None) -> QuoteStats:
        """Return these results with the number and time of earlier quotes for the same plan added."""
        if earlier is None:
            return self
        return replace(self, quotes=self.quotes + earlier.quotes, seconds=self.seconds + earlier.seconds)


@dataclass(frozen=True, slots=True)
class Grant:
    """A plan with what is granted for it. `up`, `down`: by edge. `adaptations`: sentences on how the plan was reduced.

    `broken`: the reservation is lost, so no guarantee of this round holds. `quote_stats`: None if the controller did
    not answer. `rates_are_assumed`: no network was asked, so the planned rates say nothing about it.
    """

    plan: RoundPlan
    up: dict[str, FlowGuarantee]
    down: dict[str, FlowGuarantee]
    reservation_id: str | None = None
    reservation_version: int | None = None
    adaptations: tuple[str, ...] = ()
    broken: bool = False
    quote_stats: QuoteStats | None = None
    rates_are_assumed: bool = False

    @property
    def reserved(self) -> bool:
        """Whether the plan has a reservation."""
        return self.reservation_id is not None


class BandwidthProvider(Protocol):
    """Acquires bandwidth for the cloud's plans.

    `unreachable_rounds`: rounds without an answer of the controller; `broken_rounds`: rounds without the reservation
    they should have had; `assumed_bps`: the rate that plans assume for all edges together, None if the network is
    asked.
    """

    unreachable_rounds: int
    broken_rounds: int

    @property
    def assumed_bps(self) -> float | None: ...

    def acquire(self, plan_for: PlanForOffer) -> Grant:
        """Make a plan for the network's offer and acquire its bandwidth."""

    def plan_ahead(self, plan_for: PlanForOffer) -> None:
        """Make the plan of the next `acquire` for the network's present offer; never raises."""

    def forget_plan(self) -> None:
        """Forget a plan that was made ahead: it would be another one now."""

    def with_present_bounds(self, grant: Grant) -> Grant:
        """Return the grant with the bounds that hold now, where they have grown since it was made."""

    def acquire_for_averaging(self, volumes: Volumes) -> Rates | None:
        """Return the rates reserved for an averaging's volumes until the next plan; never raises.

        None: the rates of the round stay, or nothing is reserved.
        """

    def remove_edge(self, edge: str) -> None:
        """Release the bandwidth of a lost edge; never raises, reports failures."""

    def add_edge(self, endpoint: EdgeEndpoint) -> None:
        """Add an edge, or replace it; it is part of the next plan."""

    def offers_to(self, nodes: Sequence[str]) -> dict[str, Offer]:
        """Return what the network offers to all edges towards each of these nodes of the cloud, where it can tell.

        Raises: ReservationRefusedError, ControllerUnreachableError if it can tell of none.
        """

    def release(self) -> None:
        """Release all bandwidth; never raises, reports failures."""


@dataclass(frozen=True, slots=True)
class EdgeEndpoint:
    """The host and the TCP port of an edge; `cloud_port`, `cloud_node`: what serves it, None: the cloud's own."""

    name: str
    port: int
    cloud_port: int | None = None
    cloud_node: str | None = None


class AssumedBandwidth:
    """Best effort without a network to ask: plans assume a rate for all edges together, and nothing is reserved."""

    unreachable_rounds = 0
    broken_rounds = 0

    def __init__(self, endpoints: Sequence[EdgeEndpoint], usable_bps: float, floor_bps: float) -> None:
        self._names = [endpoint.name for endpoint in endpoints]
        self.assumed_bps = usable_bps
        self._floor_bps = floor_bps

    def acquire(self, plan_for: PlanForOffer) -> Grant:
        """Return a plan for the assumed rates. A least rate that they cannot give to every edge is lowered."""
        return replace(best_effort_grant(plan_for(self._offer())), rates_are_assumed=True)

    def _offer(self) -> Offer:
        fair_bps = self.assumed_bps / max(1, len(self._names))
        return Offer(
            up_links=dict.fromkeys(self._names, ("up",)),
            down_links=dict.fromkeys(self._names, ("down",)),
            usable_bps={"up": self.assumed_bps, "down": self.assumed_bps},
            floor_bps=self._floor_bps if self._floor_bps <= fair_bps else fair_bps / 2,
        )

    def offers_to(self, nodes: Sequence[str]) -> dict[str, Offer]:
        """Return the assumed rates for each of these nodes."""
        return dict.fromkeys(nodes, self._offer())

    def plan_ahead(self, plan_for: PlanForOffer) -> None:
        """Do nothing: no network is asked, so a plan takes no time."""

    def forget_plan(self) -> None:
        """Do nothing: no plan is made ahead."""

    def with_present_bounds(self, grant: Grant) -> Grant:
        """Return the grant: nothing is guaranteed."""
        return grant

    def acquire_for_averaging(self, volumes: Volumes) -> None:
        """Return None: nothing is reserved."""

    def remove_edge(self, edge: str) -> None:
        """Plan without this edge."""
        self._names = [name for name in self._names if name != edge]

    def add_edge(self, endpoint: EdgeEndpoint) -> None:
        """Plan with this edge."""
        self.remove_edge(endpoint.name)
        self._names.append(endpoint.name)

    def release(self) -> None:
        """Do nothing: nothing is reserved."""


def best_effort_grant(plan: RoundPlan, quote_stats: QuoteStats | None = None) -> Grant:
    """Return the grant of a plan without guarantees."""
    return Grant(
        plan,
        up={edge.edge: FlowGuarantee(edge.up_bps) for edge in plan.edges},
        down={edge.edge: FlowGuarantee(edge.down_bps) for edge in plan.edges},
        quote_stats=quote_stats,
    )
