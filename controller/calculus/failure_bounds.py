"""The bound of every carried flow over all single failures: one analysis without failure, one per failure.

While a span or an SRLG is down, the protected flows that cross it return and take their backup paths; all others are
assumed to stay. The bound is the maximum over all these states. Packets in flight at the time of a failure may be lost
or late; the bound holds for packets sent before it and after the switch-over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from math import inf

from immutables import Map

from controller.booking.peak_load import ALWAYS, Activity
from controller.calculus.network_bounds import DEFAULT_CALIBRATION, Analysis, Bound, Calibration, ShapedFlow
from controller.calculus.programme_bounds import tighter_bound
from controller.domain.frozen import frozen
from controller.domain.network import Network
from controller.domain.path import Path, link_names
from controller.domain.reservation import END_GUARD_S, Window
from controller.domain.route import Route, SrlgBySpan, path_under_failure, survivable_failures

FlowKey = tuple[str, str]
"""(reservation id, flow name)."""


@frozen
class CarriedFlow:
    """A flow that the network carries: route, token bucket, activity, and whether it has a latency limit.

    `by_programmes`: its bounds are proven by linear programmes where these yield smaller ones. `meter_burst_bytes`: the
    burst of the meter at its first switch; None: it has none.
    """

    route: Route
    rate_bps: int
    burst_bytes: int
    activity: Activity = ALWAYS
    has_limit: bool = False
    by_programmes: bool = False
    meter_burst_bytes: int | None = None

    @staticmethod
    def for_lifetime(
        route: Route,
        size: tuple[int, int],
        start_s: float,
        end_s: float,
        window: Window | None,
        has_limit: bool,
        by_programmes: bool = False,
    ) -> CarriedFlow:
        """Return a flow active from start until shortly before the end; with a window, only in that part of every
        period.

        `size`: rate in bit/s, burst in bytes.
        """
        is_always_active = window is None and start_s == -inf and end_s == inf
        activity = ALWAYS if is_always_active else Activity(start_s, max(start_s, end_s - END_GUARD_S), window)
        return CarriedFlow(route, *size, activity, has_limit, by_programmes)

    @property
    def copy(self) -> ShapedFlow | None:
        """What is on the backup path at all times; None unless every packet takes both paths."""
        if not self.route.seamless or self.route.backup is None:
            return None
        return self._shaped(self.route.backup)

    def failures(self, srlgs: SrlgBySpan) -> tuple[str, ...]:
        """Return the failures that cut its path and not its backup."""
        return survivable_failures(self.route, srlgs)

    def path_under(self, failure: str | None, srlgs: SrlgBySpan) -> Path:
        """Return its path while that span or SRLG is down (None: no failure)."""
        if failure is None or failure not in self.failures(srlgs):
            return self.route.path
        return path_under_failure(self.route, failure, srlgs)

    def possible_links(self, srlgs: SrlgBySpan) -> frozenset[str]:
        """Return every link that it may cross, over all failures."""
        paths = [self.path_under(failure, srlgs) for failure in (None, *self.failures(srlgs))]
        if self.copy is not None:
            paths.append(self.copy.path)
        return frozenset(link for path in paths for link in link_names(path))

    def shaped(self, failure: str | None, srlgs: SrlgBySpan) -> ShapedFlow:
        """Return the flow as the analysis sees it while that span or SRLG is down."""
        return self._shaped(self.path_under(failure, srlgs))

    def _shaped(self, path: Path) -> ShapedFlow:
        return ShapedFlow(path, self.rate_bps, self.burst_bytes, self.activity, self.meter_burst_bytes)


@frozen
class Backlog:
    """What the queue of a link's port holds at most while that span or SRLG is down (None: no failure)."""

    link: str
    failure: str | None
    backlog_bytes: int


@frozen
class FailureBounds:
    """The bounds of all carried flows. Immutable: `changed` returns a new one."""

    network: Network
    calibration: Calibration
    carried_flows: Map[FlowKey, CarriedFlow]
    _limited_flows_by_link: Map[str, frozenset[FlowKey]]
    """For every link: the flows with limits that may cross it."""
    _flows_by_failure: Map[str, frozenset[FlowKey]]
    """For every span and SRLG: the flows that its failure cuts and that have a backup."""
    _analyses: Map[str | None, Analysis[FlowKey]]
    """For each of these failures, and for none."""
    _added: tuple[FlowKey, ...] = ()
    _is_failure_removed: bool = False
    """Whether a failure that may have determined the bounds of other flows no longer affects any."""
    _programme_flows: frozenset[FlowKey] = frozenset()
    """The flows with limits whose bounds are proven by linear programmes."""

    @staticmethod
    def empty(network: Network, calibration: Calibration = DEFAULT_CALIBRATION) -> FailureBounds:
        """Return the bounds of a network without flows."""
        no_failure: Analysis[FlowKey] = Analysis.of(network, {}, calibration)
        return FailureBounds(network, calibration, Map(), Map(), Map(), Map({None: no_failure}.items()))

    def changed(self, added: Mapping[FlowKey, CarriedFlow], removed: Collection[FlowKey] = ()) -> FailureBounds:
        """Return the bounds with these flows added or replaced, and without those removed.

        Raises: NoBound if there is no finite bound.
        """
        removed_flows = [key for key in dict.fromkeys((*removed, *added)) if key in self.carried_flows]
        flows = self.carried_flows.mutate()
        for key in removed_flows:
            del flows[key]
        flows.update(added)
        carried_flows = flows.finish()
        srlgs = self.network.srlg_by_span
        flows_by_failure = self._updated_index(
            self._flows_by_failure, removed_flows, added, lambda flow: flow.failures(srlgs)
        )
        limited_flows = self._updated_index(
            self._limited_flows_by_link,
            removed_flows,
            added,
            lambda flow: flow.possible_links(srlgs) if flow.has_limit else (),
        )
        analyses = self._analyses_after(carried_flows, flows_by_failure, removed_flows, added)
        is_failure_removed = any(failure not in flows_by_failure for failure in self._flows_by_failure)
        facts = self.network, self.calibration, carried_flows, limited_flows, flows_by_failure, analyses
        programme_flows = self._programme_flows.difference(removed_flows)
        if new := [key for key, flow in added.items() if flow.by_programmes and flow.has_limit]:
            programme_flows |= frozenset(new)
        return FailureBounds(*facts, tuple(added), is_failure_removed, programme_flows)

    def bound(self, key: FlowKey) -> Bound:
        """Return the bound of one flow by its own kind of analysis.

        Raises: NoBound if there is no finite bound.
        """
        flow = self.carried_flows[key]
        if flow.copy is not None:
            bounds = self.total_flow_bound(key), self.total_flow_bound(_copy_key(key))
            worst_us = max(bound.accumulated_latency_us for bound in bounds)
            least_us = min(bound.accumulated_latency_us - bound.latency_variation_us for bound in bounds)
            return Bound(worst_us, worst_us - least_us)
        return self._programme_bound(key) if flow.by_programmes else self.total_flow_bound(key)

    def _programme_bound(self, key: FlowKey) -> Bound:
        """Return the bound of one flow by linear programmes, which are solved for the worst failures only.

        Raises: NoBound if there is no finite bound.
        """
        bounds = {failure: analysis.bound(key) for failure, analysis in self._analyses.items()}
        least_us = min(bound.accumulated_latency_us - bound.latency_variation_us for bound in bounds.values())
        solved: set[str | None] = set()
        while True:
            worst = max(bounds, key=lambda failure: bounds[failure].accumulated_latency_us)
            worst_us = bounds[worst].accumulated_latency_us
            if worst in solved:
                return Bound(worst_us, worst_us - least_us)
            bounds[worst] = tighter_bound(self._analyses[worst], key)
            solved.add(worst)

    def total_flow_bound(self, key: FlowKey) -> Bound:
        """Return the bound of one flow by total-flow analysis.

        Raises: NoBound if there is no finite bound.
        """
        if not self._flows_by_failure:
            return self._analyses[None].bound(key)
        bounds = [analysis.bound(key) for analysis in self._analyses.values()]
        least_us = min(bound.accumulated_latency_us - bound.latency_variation_us for bound in bounds)
        worst_us = max(bound.accumulated_latency_us for bound in bounds)
        return Bound(worst_us, worst_us - least_us)

    def drain_us(self, keys: Iterable[FlowKey]) -> float:
        """Return after how long each of these flows, if it sends no more, delays no other flow."""
        flows = [key for key in keys if key in self.carried_flows]
        copies = [_copy_key(key) for key in flows if self.carried_flows[key].copy is not None]
        return max(analysis.drain_us((*flows, *copies)) for analysis in self._analyses.values())

    def crowded_queues(self) -> list[Backlog]:
        """Return the backlog bounds of all links, without and under every failure, whose queue may be too small."""
        return [
            Backlog(link, failure, analysis.backlog_bytes(link))
            for failure, analysis in self._analyses.items()
            if analysis.crowded_links
            for link in sorted(analysis.crowded_links)
        ]

    def backlog_bytes(self, link: str, failure: str | None) -> int:
        """Return the backlog bound of a link while that span or SRLG is down (None: no failure)."""
        return self._analyses.get(failure, self._analyses[None]).backlog_bytes(link)

    def tightened(self) -> FailureBounds:
        """Return the bounds of new analyses, to which changes add less headroom; computed once.

        Raises: NoBound
        """
        analyses = {failure: analysis.tightened for failure, analysis in self._analyses.items()}
        return replace(self, _analyses=Map(analyses.items()))

    def analysed_afresh(self) -> FailureBounds:
        """Return the bounds of new analyses, which do not depend on history.

        Raises: NoBound
        """
        analyses = {failure: analysis.analysed_afresh() for failure, analysis in self._analyses.items()}
        return replace(self, _analyses=Map(analyses.items()))

    def least_latency_us(self, flow: CarriedFlow) -> float:
        """Return a lower bound of the latency bound that this flow would have if it was added."""
        return self._analyses[None].least_latency_us(flow.shaped(None, self.network.srlg_by_span))

    def link_delays_us(self) -> dict[tuple[str | None, str], float]:
        """Return the delay of every link that is crossed, under no failure (None) and under every relevant one.

        Raises: NoBound if one is unbounded.
        """
        return {
            (failure, link): delay_us
            for failure, analysis in self._analyses.items()
            for link, delay_us in analysis.link_delays_us().items()
        }

    def limited_flows(self) -> list[FlowKey]:
        """Return the flows with limits."""
        return sorted(key for key, flow in self.carried_flows.items() if flow.has_limit)

    def changed_limited_flows(self) -> list[FlowKey]:
        """Return the flows with limits whose bounds may have changed with the last change, including new ones."""
        if self._is_failure_removed:
            return self.limited_flows()
        if not self._limited_flows_by_link:
            return []
        links = frozenset(self._new_links()).union(*(analysis.changed_links for analysis in self._analyses.values()))
        changed = {key for link in links for key in self._limited_flows_by_link.get(link, ())}
        return sorted(changed | self._programme_flows if self._programme_flows else changed)

    def _new_links(self) -> list[str]:
        return [
            link for key in self._added for link in self.carried_flows[key].possible_links(self.network.srlg_by_span)
        ]

    def _updated_index(
        self,
        index: Map[str, frozenset[FlowKey]],
        removed: Collection[FlowKey],
        added: Mapping[FlowKey, CarriedFlow],
        names: Callable[[CarriedFlow], Iterable[str]],
    ) -> Map[str, frozenset[FlowKey]]:
        """Return the index from names (links or failures) to flows after the change."""
        removed_pairs = [(key, name) for key in removed for name in names(self.carried_flows[key])]
        added_pairs = [(key, name) for key, flow in added.items() for name in names(flow)]
        if not removed_pairs and not added_pairs:
            return index
        updated = index.mutate()
        for key, name in removed_pairs:
            flows = updated[name] - {key}
            if flows:
                updated[name] = flows
            else:
                del updated[name]
        for key, name in added_pairs:
            updated[name] = updated.get(name, frozenset()) | {key}
        return updated.finish()

    def _analyses_after(
        self,
        carried: Map[FlowKey, CarriedFlow],
        flows_by_failure: Map[str, frozenset[FlowKey]],
        removed: Collection[FlowKey],
        added: Mapping[FlowKey, CarriedFlow],
    ) -> Map[str | None, Analysis[FlowKey]]:
        """Return the analyses of all relevant failures after the change."""
        srlgs = self.network.srlg_by_span
        copies = {_copy_key(key): flow.copy for key, flow in added.items() if flow.copy is not None}
        removed = [*removed, *(_copy_key(key) for key in removed if self.carried_flows[key].copy is not None)]

        def updated(analysis: Analysis[FlowKey], failure: str | None) -> Analysis[FlowKey]:
            shaped = {key: flow.shaped(failure, srlgs) for key, flow in added.items()}
            return analysis.changed({**shaped, **copies}, removed)

        no_failure = updated(self._analyses[None], None)
        analyses: dict[str | None, Analysis[FlowKey]] = {None: no_failure}
        for failure in sorted(flows_by_failure):
            if failure in self._analyses:
                analyses[failure] = updated(self._analyses[failure], failure)
            else:
                rerouted = {key: carried[key].shaped(failure, srlgs) for key in sorted(flows_by_failure[failure])}
                analyses[failure] = no_failure.changed(rerouted)
        return Map(analyses.items())


def _copy_key(key: FlowKey) -> FlowKey:
    """The key of what a flow sends over its backup path at the same time; no flow has such a name."""
    return key[0], f"{key[1]}\n"
