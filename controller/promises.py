"""Every carried flow's proven bound, whichever one span is down: one analysis for no failure and one for each failure.

While a span is down the protected flows across it go back and around; all others are taken to stay where they are. A
bound is the worst over all these networks in which the flow is carried. What is under way at the moment of a failure
may be lost or late; the bound is for what is sent before it and after the switch-over.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from immutables import Map

from controller.bounds import DEFAULT_CALIBRATION, Bound, Calibration, ShapedFlow, bounds_of
from controller.network import Network
from controller.peaks import Activity
from controller.routes import Route, spans_of, walk_under

FlowKey = tuple[str, str]
"""(reservation id, flow name)."""


@dataclass(frozen=True, slots=True)
class Carried:
    """A flow as the network carries it: where, how much, and when."""

    route: Route
    rate_bps: int
    burst_bytes: int
    activity: Activity


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

    @staticmethod
    def none(network: Network, calibration: Calibration = DEFAULT_CALIBRATION) -> Promises:
        """Nothing carried."""
        return Promises(network, calibration, Map(), Map(), ())

    def changed(self, added: Mapping[FlowKey, Carried], removed: Collection[FlowKey] = ()) -> Promises:
        """With these flows added or in a new way, and those no longer.

        Raises: NoBound if nothing finite can be proven.
        """
        carried = self.carried.mutate()
        for key in removed:
            carried.pop(key, None)
        carried.update(added)
        now = carried.finish()
        bounds: Map[FlowKey, Bound] = Map(_bounds(self.network, now, self.calibration).items())
        moved = [key for key, bound in bounds.items() if self.bounds.get(key) != bound]
        return Promises(self.network, self.calibration, now, bounds, moved)


def _bounds(
    network: Network, carried: Mapping[FlowKey, Carried], calibration: Calibration
) -> dict[FlowKey, Bound]:
    whole = {key: _shaped(flow, flow.route.path) for key, flow in carried.items()}
    bounds = bounds_of(network, whole, calibration)
    protected = {key: flow for key, flow in carried.items() if flow.route.backup}
    for failure in sorted({span for flow in protected.values() for span in spans_of(flow.route.path)}):
        broken = {
            key: _shaped(flow, walk_under(flow.route, failure))
            for key, flow in protected.items()
            if failure in spans_of(flow.route.path)
        }
        for key, bound in bounds_of(network, whole | broken, calibration).items():
            bounds[key] = _worse(bounds[key], bound)
    return bounds


def _shaped(flow: Carried, path: tuple[str, ...]) -> ShapedFlow:
    return ShapedFlow(path, flow.rate_bps, flow.burst_bytes)


def _worse(one: Bound, other: Bound) -> Bound:
    """The bound that holds for a flow to which either applies."""
    least_us = min(bound.accumulated_latency_us - bound.latency_variation_us for bound in (one, other))
    worst_us = max(one.accumulated_latency_us, other.accumulated_latency_us)
    return Bound(worst_us, worst_us - least_us)
