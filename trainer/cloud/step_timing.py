"""One step as the cloud sees it: which frames went and came, when, and what that says about each transfer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from trainer.protocol.messages import StepDone
from trainer.reservation.bandwidth import FlowGuarantee
from trainer.transport.pacing import Judgement, SentFrame, judge, l2_bits

Direction = Literal["up", "down"]


@dataclass
class StepTransfers:
    """One edge's frames in one step. Send times of the uplink are on the edge's clock, all else on ours.

    `arrived_s`: of the last segment; `up_arrived_s`: of the last frame, which is a gradient of the edge's tail where
    labels are protected.
    """

    offset_s: float
    mss_bytes: int
    up: FlowGuarantee
    down: FlowGuarantee
    sent_up: list[SentFrame] = field(default_factory=list)
    segments: int = 0
    tail_gradients: int = 0
    arrived_s: float = 0.0
    up_arrived_s: float = 0.0
    sent_down: list[SentFrame] = field(default_factory=list)
    cloud_s: float = 0.0
    loss: float = 0.0
    done: StepDone | None = None
    done_s: float = 0.0

    @property
    def busy_s(self) -> float:
        """How long the edge computed."""
        return 0.0 if self.done is None else self.done.forward_s + self.done.tail_s + self.done.backward_s

    def link_s(self, direction: Direction) -> float:
        """What the flow's whole reserved (or planned) rate needs for what was sent: its share of every link."""
        frames, promise = (self.sent_up, self.up) if direction == "up" else (self.sent_down, self.down)
        return l2_bits(sum(frame.size_bytes for frame in frames), self.mss_bytes) / promise.rate_bps

    def transfer(self, direction: Direction) -> tuple[int, Judgement]:
        """The bytes of the whole segment, or of its gradient, and how it kept time."""
        if direction == "up":
            frames, arrival_s, promise = self.sent_up, self.up_arrived_s + self.offset_s, self.up
        else:
            assert self.done is not None
            frames, promise = self.sent_down, self.down
            arrival_s = self.done.gradients_received_s[-1] - self.offset_s
        judgement = judge(frames, arrival_s, promise.rate_bps, self.mss_bytes, promise.network_latency_us)
        return sum(frame.size_bytes for frame in frames), judgement


@dataclass(frozen=True, slots=True)
class StepResult:
    """A finished step: by edge."""

    step: int
    duration_s: float
    edges: dict[str, StepTransfers]

    @property
    def spread_s(self) -> float:
        """Between the first and the last segment's complete arrival."""
        arrivals = [exchange.arrived_s for exchange in self.edges.values()]
        return max(arrivals, default=0.0) - min(arrivals, default=0.0)


    def next_ready_s(self, forward_s: Mapping[str, float]) -> float:
        """When the last edge should have the first segment of the next step, if it began when this one was over.

        `forward_s`: what a micro-batch takes on every edge.
        """
        return max((exchange.done_s + forward_s[name] for name, exchange in self.edges.items()), default=0.0)


@dataclass(frozen=True, slots=True)
class RoundBound:
    """Seconds that the steps of a round take at least, by what was measured: no order of the work takes less.

    The slowest edge's computing by the clock; what the kernel needs at least to let an edge compute so much within its
    CPU limit; the flow that needs longest at its whole rate; the cloud's work.
    """

    edge_s: float
    limit_s: float
    link_s: float
    cloud_s: float

    @property
    def largest_s(self) -> float:
        """The bound itself."""
        return max(self.edge_s, self.limit_s, self.link_s, self.cloud_s)

    @staticmethod
    def of(steps: Sequence[StepResult]) -> RoundBound:
        """From the exchanges of a round."""
        edges: dict[str, list[StepTransfers]] = {}
        for step in steps:
            for name, exchange in step.edges.items():
                edges.setdefault(name, []).append(exchange)
        directions: tuple[Direction, Direction] = ("up", "down")
        return RoundBound(
            edge_s=max((sum(one.busy_s for one in mine) for mine in edges.values()), default=0.0),
            limit_s=max((_limited_s(mine) for mine in edges.values()), default=0.0),
            link_s=max((sum(one.link_s(way) for one in mine) for mine in edges.values() for way in directions),
                       default=0.0),
            cloud_s=sum(one.cloud_s for mine in edges.values() for one in mine),
        )


def _limited_s(mine: Sequence[StepTransfers]) -> float:
    """What the processor time of an edge's steps takes at least under its CPU limit; 0 if it has none.

    An edge that waits computes faster by the clock, because its quota is refilled meanwhile; so its clock alone does
    not show what a limit costs. A while of n periods meets n + 1 quotas at most, and finds one that was left over.
    """
    done = [one.done for one in mine if one.done is not None]
    limits = [(one.times.cpu_s, one.cpu_limit) for one in done if one.cpu_limit is not None]
    if len(limits) < len(done):
        return 0.0
    saved_s = sum(2 * limit.period_s for limit in {limit for _, limit in limits})
    return max(0.0, sum(cpu_s / limit.cores for cpu_s, limit in limits) - saved_s)
