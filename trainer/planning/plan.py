"""What the planner is asked and what it answers: the options of every edge, the network's offer, plans."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from trainer.protocol.codec import Codec

LEAST_MARGIN, MOST_MARGIN = 0.03, 0.25
"""The training delay is longer than the slowest prediction by an edge's usual deviation, within these limits, so that
noise does not make the beat late."""


@dataclass(frozen=True, slots=True)
class Option:
    """What an edge may do in a round, and what it would take, for one micro-batch.

    `up_bits`, `down_bits`: reserved bits that carry the segment and its gradient, and with labels protected the
    gradient and the values of the edge's tail, which are `tail_up_bits` and `tail_down_bits` of them. `cloud_s`: the
    cloud's work for this edge.
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


@dataclass(frozen=True, slots=True)
class EdgeForecast:
    """The options of an edge. `state_bits`: the layers [0, cut) with their optimiser state as they move, by cut 0..L.

    `noise_share`: how far its steps lie from their prediction, typically, relative to it. `tail_s`: what its tail takes
    for one micro-batch, forward and backward.
    """

    edge: str
    options: tuple[Option, ...]
    state_bits: tuple[float, ...]
    noise_share: float = 0.0
    tail_s: float = 0.0

    @property
    def margin(self) -> float:
        """The factor from the predicted time forward to the time that is allowed for it."""
        return 1 + min(max(self.noise_share, LEAST_MARGIN), MOST_MARGIN)


@dataclass(frozen=True, slots=True)
class Offer:
    """What the network has: the links each flow crosses, and the rate (bps) that may be used on each.

    `floor_bps` is what every flow gets at least: it carries control frames and moving layers too.
    """

    up_links: Mapping[str, tuple[str, ...]]
    down_links: Mapping[str, tuple[str, ...]]
    usable_bps: Mapping[str, float]
    floor_bps: float


@dataclass(frozen=True, slots=True)
class EdgePlan:
    """One edge's part of a round; times are for one micro-batch. `allowed_s`: what forward may take, noise included.

    With labels protected a micro-batch crosses the network twice each way. `up_wait_s`: from its segment's arrival to
    the departure of the gradient of its tail; `down_wait_s`: from the arrival of what goes into the tail to the
    departure of the segment's gradient.
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
    up_wait_s: float = 0.0
    down_wait_s: float = 0.0


@dataclass(frozen=True, slots=True)
class RoundPlan:
    """A whole round. The delays are those of one micro-batch, common to all edges; `step_s` is for all `micros`.

    Segment m leaves `training_delay_s + m x beat_s` after the start of a step. `proven_s`: no other plan's step could
    be shorter than this. `unprotected_step_s`: what a step would take with these cuts and codecs if labels were not
    protected; None if they are not.
    """

    edges: tuple[EdgePlan, ...]
    training_delay_s: float
    transmission_delay_s: float
    return_delay_s: float
    cloud_s: float
    beat_s: float
    step_s: float
    bound_s: float
    micros: int
    proven_s: float
    unprotected_step_s: float | None = None

    @property
    def cuts(self) -> tuple[int, ...]:
        """The cut of every edge."""
        return tuple(edge.cut for edge in self.edges)

    @property
    def last_leaves_s(self) -> float:
        """From the start of a step until its last segment leaves: the training delay of the whole mini-batch."""
        return self.training_delay_s + (self.micros - 1) * self.beat_s

    @property
    def uplink_s(self) -> float:
        """From the first segment's first byte to the last one's arrival."""
        return (self.micros - 1) * self.beat_s + self.transmission_delay_s

    @property
    def downlink_s(self) -> float:
        """The same for the gradients."""
        return (self.micros - 1) * self.beat_s + self.return_delay_s


@dataclass(frozen=True, slots=True)
class Alternative:
    """What a step would take if one edge had another cut and all others had the best that goes with it."""

    edge: str
    cut: int
    codec: Codec
    step_s: float
