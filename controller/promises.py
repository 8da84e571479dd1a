"""Every carried flow's proven bound, whichever one span is down: one analysis for no failure and one for each failure.

While a span is down the protected flows across it go back and around; all others are taken to stay where they are. A
bound is the worst over all these networks. What is under way at the moment of a failure may be lost or late; the bound
is for what is sent before it and after the switch-over.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import inf

from immutables import Map

from controller.bounds import DEFAULT_CALIBRATION, Analysis, Bound, Calibration, ShapedFlow
from controller.network import Network
from controller.peaks import ALWAYS, Activity
from controller.reservation import END_GUARD_S, Window
from controller.routes import Route, spans_of, walk_under

FlowKey = tuple[str, str]
"""(reservation id, flow name)."""


@dataclass(frozen=True, slots=True)
class Carried:
    """A flow as the network carries it: where, how much, and when."""

    route: Route
    rate_bps: int
    burst_bytes: int
    activity: Activity = ALWAYS

    @staticmethod
    def during(
        route: Route, rate_bps: int, burst_bytes: int, start_s: float, end_s: float, window: Window | None
    ) -> Carried:
        """Let in from start until shortly before the end, and with a window only in that part of every period."""
        plain = window is None and start_s == -inf and end_s == inf
        activity = ALWAYS if plain else Activity(start_s, max(start_s, end_s - END_GUARD_S), window)
        return Carried(route, rate_bps, burst_bytes, activity)

    @property
    def failures(self) -> tuple[str, ...]:
        """The spans that it survives the failure of."""
        return spans_of(self.route.path) if self.route.backup else ()

    def shaped(self, failure: str | None) -> ShapedFlow:
        """What it is to the ports while that span is down (None: none)."""
        path = walk_under(self.route, failure) if failure in self.failures and failure else self.route.path
        return ShapedFlow(path, self.rate_bps, self.burst_bytes, self.activity)


@dataclass(frozen=True, slots=True)
class Promises:
    """The bounds of all carried flows. Immutable: `changed` makes the next.

    `moved`: the flows whose bounds may differ from those before the last change.
    """

    network: Network
    calibration: Calibration
    carried: Map[FlowKey, Carried]
    bounds: Map[FlowKey, Bound]
    moved: Collection[FlowKey]
    _survivors: Map[str, frozenset[FlowKey]]
    """For every span whose failure somebody survives: who."""
    _analyses: Map[str | None, Analysis[FlowKey]]
    """For each of these spans down, and for none."""

    @staticmethod
    def none(network: Network, calibration: Calibration = DEFAULT_CALIBRATION) -> Promises:
        """Nothing carried."""
        whole: Analysis[FlowKey] = Analysis.of(network, {}, calibration)
        return Promises(network, calibration, Map(), Map(), (), Map(), Map({None: whole}.items()))

    def changed(self, added: Mapping[FlowKey, Carried], removed: Collection[FlowKey] = ()) -> Promises:
        """With these flows added or in a new way, and those no longer.

        Raises: NoBound if nothing finite can be proven.
        """
        gone = [key for key in dict.fromkeys((*removed, *added)) if key in self.carried]
        carried = self.carried.mutate()
        for key in gone:
            del carried[key]
        carried.update(added)
        now = carried.finish()
        survivors = self._survivors_after(gone, added)
        analyses, moved = self._analyses_after(now, survivors, gone, added)
        bounds = self.bounds.mutate()
        for key in gone:
            bounds.pop(key, None)
        for key in moved:
            bounds[key] = _worst(tuple(analysis.bound(key) for analysis in analyses.values()))
        return Promises(self.network, self.calibration, now, bounds.finish(), moved, survivors, analyses)

    def _survivors_after(
        self, gone: Collection[FlowKey], added: Mapping[FlowKey, Carried]
    ) -> Map[str, frozenset[FlowKey]]:
        survivors = self._survivors.mutate()
        for key in gone:
            for failure in self.carried[key].failures:
                survivors[failure] -= {key}
                if not survivors[failure]:
                    del survivors[failure]
        for key, flow in added.items():
            for failure in flow.failures:
                survivors[failure] = survivors.get(failure, frozenset()) | {key}
        return survivors.finish()

    def _analyses_after(
        self,
        carried: Map[FlowKey, Carried],
        survivors: Map[str, frozenset[FlowKey]],
        gone: Collection[FlowKey],
        added: Mapping[FlowKey, Carried],
    ) -> tuple[Map[str | None, Analysis[FlowKey]], frozenset[FlowKey]]:
        """The analyses with the change, and the flows whose bound may be another."""

        def turned(before: Analysis[FlowKey], failure: str | None) -> Analysis[FlowKey]:
            return before.changed({key: flow.shaped(failure) for key, flow in added.items()}, gone)

        whole = turned(self._analyses[None], None)
        analyses: dict[str | None, Analysis[FlowKey]] = {None: whole}
        moved = set(whole.moved) | set(added)
        for failure in sorted(survivors):
            if failure in self._analyses:
                analyses[failure] = turned(self._analyses[failure], failure)
            else:
                around = {key: carried[key].shaped(failure) for key in sorted(survivors[failure])}
                analyses[failure] = whole.changed(around)
            moved |= analyses[failure].moved
        if any(failure not in analyses for failure in self._analyses):
            moved |= set(carried)  # what bound them may have been the failure that matters to nobody any more
        return Map(analyses.items()), frozenset(key for key in moved if key in carried)


def _worst(bounds: tuple[Bound, ...]) -> Bound:
    """The bound that holds for a flow to which any of these may apply."""
    if len(bounds) == 1:
        return bounds[0]
    least_us = min(bound.accumulated_latency_us - bound.latency_variation_us for bound in bounds)
    worst_us = max(bound.accumulated_latency_us for bound in bounds)
    return Bound(worst_us, worst_us - least_us)
