"""Where a run's plans meet the network: what was granted for a round, and the way without reservations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from trainer.planning.plan import Offer, RoundPlan
from trainer.reservation.averaging_rates import Rates, Volumes


class Draft(Protocol):
    """Makes a plan for an offer."""

    def __call__(self, offer: Offer, keep: bool = True) -> RoundPlan:
        """`keep`: the last round's cuts stay unless a change pays."""


@dataclass(frozen=True, slots=True)
class FlowPromise:
    """What holds for one flow in a round; nothing is promised if `network_latency_us` is None."""

    rate_bps: int
    network_latency_us: float | None = None
    path: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Enquiry:
    """What the controller was asked before a plan: how many questions, and how long its answers took in all.

    `up_s`, `down_s`: the shortest common time for the asked volumes over all that is free; the bottlenecks set them.
    """

    quotes: int
    seconds: float
    up_s: float
    down_s: float
    up_bottleneck: str
    down_bottleneck: str

    def after(self, earlier: Enquiry | None) -> Enquiry:
        """This one, with the questions of an earlier one for the same plan."""
        if earlier is None:
            return self
        return replace(self, quotes=self.quotes + earlier.quotes, seconds=self.seconds + earlier.seconds)


@dataclass(frozen=True, slots=True)
class Grant:
    """A plan that the network has agreed to. `up`, `down`: by edge. `adaptations`: what had to give, in sentences.

    `broken`: there should be a reservation and there is none, so every promise of this round is broken. `enquiry`: None
    if the controller could not be asked.
    """

    plan: RoundPlan
    up: dict[str, FlowPromise]
    down: dict[str, FlowPromise]
    reservation_id: str | None = None
    reservation_version: int | None = None
    adaptations: tuple[str, ...] = ()
    broken: bool = False
    enquiry: Enquiry | None = None

    @property
    def reserved(self) -> bool:
        """Whether anything is promised."""
        return self.reservation_id is not None


class BandwidthProvider(Protocol):
    """Where the cloud's plans meet the network; `unreachable_rounds` had no answer from the controller,
    `broken_rounds` nothing reserved although there should be."""

    unreachable_rounds: int
    broken_rounds: int

    def acquire(self, draft: Draft) -> Grant:
        """Draft a plan for what the network offers, and have it granted."""

    def acquire_for_averaging(self, volumes: Volumes) -> Rates | None:
        """Before an averaging: the rates that are reserved for these volumes until the next plan; never fails.

        None: those of the round stay, or nothing is reserved.
        """

    def remove_edge(self, edge: str) -> None:
        """Give back what an edge has that is gone; never fails, says what could not be done."""

    def add_edge(self, edge: str, port: int) -> None:
        """An edge is there (again), talking from that port; the next plan may count on it."""

    def release(self) -> None:
        """Give everything back; never fails, says what could not be done."""


@dataclass(frozen=True, slots=True)
class EdgeEndpoint:
    """An edge as the network sees it."""

    name: str
    port: int


class BestEffortBandwidth:
    """No reservations: plans are made for the rates the network should have, and nothing is promised."""

    unreachable_rounds = 0
    broken_rounds = 0

    def __init__(self, travellers: Sequence[EdgeEndpoint], usable_bps: float, floor_bps: float) -> None:
        self._names = [traveller.name for traveller in travellers]
        self._usable_bps = usable_bps
        self._floor_bps = floor_bps

    def acquire(self, draft: Draft) -> Grant:
        """The plan as drafted."""
        return unreserved(draft(Offer(
            up_links=dict.fromkeys(self._names, ("up",)),
            down_links=dict.fromkeys(self._names, ("down",)),
            usable_bps={"up": self._usable_bps, "down": self._usable_bps},
            floor_bps=self._floor_bps,
        )))

    def acquire_for_averaging(self, volumes: Volumes) -> None:
        """Nothing is reserved."""

    def remove_edge(self, edge: str) -> None:
        """One less to share with."""
        self._names = [name for name in self._names if name != edge]

    def add_edge(self, edge: str, port: int) -> None:  # noqa: ARG002
        """One more to share with."""
        self.remove_edge(edge)
        self._names.append(edge)

    def release(self) -> None:
        """Nothing to give back."""


def unreserved(plan: RoundPlan, enquiry: Enquiry | None = None) -> Grant:
    """A plan of which nothing is promised."""
    return Grant(
        plan,
        up={edge.edge: FlowPromise(edge.up_bps) for edge in plan.edges},
        down={edge.edge: FlowPromise(edge.down_bps) for edge in plan.edges},
        enquiry=enquiry,
    )
