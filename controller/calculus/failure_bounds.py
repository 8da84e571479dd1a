"""Every carried flow's proven bound, whichever one span or duct is down: one analysis for no failure, one for each.

While a span or a duct is down the protected flows across it go back and around; all others are taken to stay where they
are. A bound is the worst over all these networks. What is under way at the moment of a failure may be lost or late; the
bound is for what is sent before it and after the switch-over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from math import inf

from immutables import Map

from controller.booking.peak_load import ALWAYS, Activity
from controller.calculus.network_bounds import DEFAULT_CALIBRATION, Analysis, Bound, Calibration, ShapedFlow
from controller.domain.frozen import frozen
from controller.domain.network import Network
from controller.domain.path import Path, link_names
from controller.domain.reservation import END_GUARD_S, Window
from controller.domain.route import Route, SrlgBySpan, path_under_failure, survivable_failures

FlowKey = tuple[str, str]
"""(reservation id, flow name)."""


@frozen
class CarriedFlow:
    """A flow as the network carries it: where, how much, when, and whether it was promised a limit."""

    route: Route
    rate_bps: int
    burst_bytes: int
    activity: Activity = ALWAYS
    has_limit: bool = False

    @staticmethod
    def during(
        route: Route, size: tuple[int, int], start_s: float, end_s: float, window: Window | None, has_limit: bool
    ) -> CarriedFlow:
        """Let in from start until shortly before the end, and with a window only in that part of every period.

        `size`: rate in bit/s, burst in bytes.
        """
        plain = window is None and start_s == -inf and end_s == inf
        activity = ALWAYS if plain else Activity(start_s, max(start_s, end_s - END_GUARD_S), window)
        return CarriedFlow(route, *size, activity, has_limit)

    def failures(self, ducts: SrlgBySpan) -> tuple[str, ...]:
        """The spans and ducts whose failure cuts its path, and that it survives."""
        return survivable_failures(self.route, ducts)

    def way(self, failure: str | None, ducts: SrlgBySpan) -> Path:
        """Where it goes while that span or duct is down (None: none)."""
        if failure is None or failure not in self.failures(ducts):
            return self.route.path
        return path_under_failure(self.route, failure, ducts)

    def links(self, ducts: SrlgBySpan) -> frozenset[str]:
        """Every link that it may cross, whatever fails."""
        failures = (None, *self.failures(ducts))
        return frozenset(link for failure in failures for link in link_names(self.way(failure, ducts)))

    def shaped(self, failure: str | None, ducts: SrlgBySpan) -> ShapedFlow:
        """What it is to the ports while that span or duct is down."""
        return ShapedFlow(self.way(failure, ducts), self.rate_bps, self.burst_bytes, self.activity)


@frozen
class FailureBounds:
    """The bounds of all carried flows. Immutable: `changed` makes the next."""

    network: Network
    calibration: Calibration
    carried: Map[FlowKey, CarriedFlow]
    _limited: Map[str, frozenset[FlowKey]]
    """For every link: the flows with limits that may cross it."""
    _survivors: Map[str, frozenset[FlowKey]]
    """For every span and duct whose failure somebody survives: who."""
    _analyses: Map[str | None, Analysis[FlowKey]]
    """For each of these down, and for none."""
    _added: tuple[FlowKey, ...] = ()
    _is_failure_gone: bool = False
    """Whether a failure matters to nobody any more that may have been what bound the others."""

    @staticmethod
    def none(network: Network, calibration: Calibration = DEFAULT_CALIBRATION) -> FailureBounds:
        """Nothing carried."""
        whole: Analysis[FlowKey] = Analysis.of(network, {}, calibration)
        return FailureBounds(network, calibration, Map(), Map(), Map(), Map({None: whole}.items()))

    def changed(self, added: Mapping[FlowKey, CarriedFlow], removed: Collection[FlowKey] = ()) -> FailureBounds:
        """With these flows added or in a new way, and those no longer.

        Raises: NoBound if nothing finite can be proven.
        """
        gone = [key for key in dict.fromkeys((*removed, *added)) if key in self.carried]
        carried = self.carried.mutate()
        for key in gone:
            del carried[key]
        carried.update(added)
        now = carried.finish()
        ducts = self.network.srlg_by_span
        survivors = self._changed(self._survivors, gone, added, lambda flow: flow.failures(ducts))
        limited = self._changed(self._limited, gone, added, lambda flow: flow.links(ducts) if flow.has_limit else ())
        analyses = self._analyses_after(now, survivors, gone, added)
        lost = any(failure not in survivors for failure in self._survivors)
        facts = self.network, self.calibration, now, limited, survivors, analyses
        return FailureBounds(*facts, tuple(added), lost)

    def bound(self, key: FlowKey) -> Bound:
        """The bound of one flow.

        Raises: NoBound if nothing finite can be proven.
        """
        if not self._survivors:
            return self._analyses[None].bound(key)
        bounds = [analysis.bound(key) for analysis in self._analyses.values()]
        least_us = min(bound.accumulated_latency_us - bound.latency_variation_us for bound in bounds)
        worst_us = max(bound.accumulated_latency_us for bound in bounds)
        return Bound(worst_us, worst_us - least_us)

    def changed_limited_flows(self) -> list[FlowKey]:
        """The flows with limits whose bounds may differ from those before the last change; new ones are among them."""
        if self._is_failure_gone:
            return sorted(key for key, flow in self.carried.items() if flow.has_limit)
        if not self._limited:
            return []
        links = frozenset(self._new_links()).union(*(analysis.moved_links for analysis in self._analyses.values()))
        return sorted({key for link in links for key in self._limited.get(link, ())})

    def _new_links(self) -> list[str]:
        return [link for key in self._added for link in self.carried[key].links(self.network.srlg_by_span)]

    def _changed(
        self,
        index: Map[str, frozenset[FlowKey]],
        gone: Collection[FlowKey],
        added: Mapping[FlowKey, CarriedFlow],
        names: Callable[[CarriedFlow], Iterable[str]],
    ) -> Map[str, frozenset[FlowKey]]:
        left = [(key, name) for key in gone for name in names(self.carried[key])]
        come = [(key, name) for key, flow in added.items() for name in names(flow)]
        if not left and not come:
            return index
        following = index.mutate()
        for key, name in left:
            rest = following[name] - {key}
            if rest:
                following[name] = rest
            else:
                del following[name]
        for key, name in come:
            following[name] = following.get(name, frozenset()) | {key}
        return following.finish()

    def _analyses_after(
        self,
        carried: Map[FlowKey, CarriedFlow],
        survivors: Map[str, frozenset[FlowKey]],
        gone: Collection[FlowKey],
        added: Mapping[FlowKey, CarriedFlow],
    ) -> Map[str | None, Analysis[FlowKey]]:

        ducts = self.network.srlg_by_span

        def turned(before: Analysis[FlowKey], failure: str | None) -> Analysis[FlowKey]:
            return before.changed({key: flow.shaped(failure, ducts) for key, flow in added.items()}, gone)

        whole = turned(self._analyses[None], None)
        analyses: dict[str | None, Analysis[FlowKey]] = {None: whole}
        for failure in sorted(survivors):
            if failure in self._analyses:
                analyses[failure] = turned(self._analyses[failure], failure)
            else:
                around = {key: carried[key].shaped(failure, ducts) for key in sorted(survivors[failure])}
                analyses[failure] = whole.changed(around)
        return Map(analyses.items())
