"""Inputs and outputs of the planner: options of every edge, the network's offer, plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainer.protocol.codec import Codec

MIN_MARGIN, MAX_MARGIN = 0.03, 0.25
"""Limits of the margin by which the training delay exceeds the predicted forward time, so that ordinary noise does not
delay a segment past its send instant."""


@dataclass(frozen=True, slots=True)
class Option:
    """One possible cut and codec of an edge with its costs for one micro-batch.

    `up_bits`, `down_bits`: reserved bits for the segment and its gradient, and with labels protected also for the
    gradient (`tail_up_bits`) and the inputs (`tail_down_bits`) of the edge's tail. `down_bits` 0: the edge's part is
    frozen, so nothing comes back and no flow is reserved. `keep`: the cloud keeps the segments, so a
    sample is sent once. `cloud_s`: the cloud's work for this edge. `rank`: of its adapters, if it has
    one of its own.
    """

    cut: int
    codec: Codec
    forward_s: float
    backward_s: float
    cloud_s: float
    up_bits: float
    down_bits: float
    tail_up_bits: float = 0.0
    tail_down_bits: float = 0.0
    keep: bool = False
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class EdgeForecast:
    """The options of an edge.

    `state_bits[cut]`: bits to transfer the layers [0, cut) with their optimizer state. `noise_share`: typical relative
    deviation of a step from its prediction. `tail_s`: forward and backward time of its tail for one micro-batch.
    `worker`: the process in the cloud that serves it; None: one serves all. `adapter_bits[cut]`: bits of the adapters
    of the layers [0, cut) for each of their rows, over the rounds from one averaging to the next.
    """

    edge: str
    options: tuple[Option, ...]
    state_bits: tuple[float, ...]
    noise_share: float = 0.0
    tail_s: float = 0.0
    worker: str | None = None
    adapter_bits: tuple[float, ...] = ()

    @property
    def margin(self) -> float:
        """Ratio of the allowed to the predicted forward time."""
        return 1 + min(max(self.noise_share, MIN_MARGIN), MAX_MARGIN)


@dataclass(frozen=True, slots=True)
class Offer:
    """The network's offer: the links of every flow, and the usable rate of every link.

    `floor_bps` is the minimum rate of a flow, which also carries control frames and layers that change sides.
    """

    up_links: Mapping[str, tuple[str, ...]]
    down_links: Mapping[str, tuple[str, ...]]
    usable_bps: Mapping[str, float]
    floor_bps: float


@dataclass(frozen=True, slots=True)
class EdgePlan:
    """One edge's part of a round plan; times are for one micro-batch. `allowed_s`: forward time with its noise margin.

    `up_s`, `down_s`: time on the way at the planned rates; with labels protected of both crossings of a micro-batch.
    `keep`: the cloud keeps its segments. `rank`: of its adapters, if it has one of its own.
    """

    edge: str
    cut: int
    up_bps: int
    down_bps: int
    forward_s: float
    allowed_s: float
    backward_s: float
    codec: Codec = "fp32"
    tail_s: float = 0.0
    up_s: float = 0.0
    down_s: float = 0.0
    keep: bool = False
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """The plan of a round. The delays are per micro-batch and common to all edges; `step_s` covers all micro-batches.

    Segment m is sent `training_delay_s + m x period_s` after the start of a step. `bound_s`: work of the busiest
    resource. `proven_s`: lower bound of the step time over all plans. `unprotected_step_s`: step time with these cuts
    and codecs if labels were not protected; None if they are not. `least_spread_s`: the smallest possible difference
    of forward times if no edge were slower than the slowest is now; the layers' grain allows no smaller one.
    """

    edges: tuple[EdgePlan, ...]
    training_delay_s: float
    transmission_delay_s: float
    return_delay_s: float
    cloud_s: float
    period_s: float
    step_s: float
    bound_s: float
    micro_batches: int
    proven_s: float
    unprotected_step_s: float | None = None
    least_spread_s: float = 0.0

    @property
    def training_spread_s(self) -> float:
        """Difference of the forward times of the slowest and the fastest edge."""
        times_s = [edge.forward_s for edge in self.edges]
        return max(times_s) - min(times_s)

    @property
    def cuts(self) -> tuple[int, ...]:
        """The cuts, in the order of `edges`."""
        return tuple(edge.cut for edge in self.edges)

    @property
    def last_departure_s(self) -> float:
        """Time from the start of a step to the departure of its last segment: the mini-batch's training delay."""
        return self.training_delay_s + (self.micro_batches - 1) * self.period_s

    @property
    def uplink_s(self) -> float:
        """Time on the way of all segments of a step: the mini-batch's transmission delay."""
        return self.micro_batches * self.transmission_delay_s


def least_spread_s(forecasts: Sequence[EdgeForecast], slowest_s: float) -> float:
    """Return the least difference of the edges' forward times of which the largest is `slowest_s`."""
    return max(slowest_s - max((option.forward_s for option in forecast.options if option.forward_s <= slowest_s),
                               default=0.0) for forecast in forecasts)


@dataclass(frozen=True, slots=True)
class Alternative:
    """The step time if one edge had another cut and all other edges their best options for it."""

    edge: str
    cut: int
    codec: Codec
    step_s: float
