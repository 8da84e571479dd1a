"""One step as the cloud sees it: which frames went and came, when, and what that says about each transfer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from trainer.messages import StepDone
from trainer.pacing import Judgement, SentFrame, judge
from trainer.roads import FlowPromise

Direction = Literal["up", "down"]


@dataclass
class EdgeExchange:
    """One edge's frames in one step. Send times of the uplink are on the edge's clock, all else on ours."""

    offset_s: float
    mss_bytes: int
    up: FlowPromise
    down: FlowPromise
    sent_up: list[SentFrame] = field(default_factory=list)
    arrived_s: float = 0.0
    sent_down: list[SentFrame] = field(default_factory=list)
    cloud_s: float = 0.0
    loss: float = 0.0
    done: StepDone | None = None

    def transfer(self, direction: Direction) -> tuple[int, Judgement]:
        """The bytes of the whole segment, or of its gradient, and how it kept time."""
        if direction == "up":
            frames, arrival_s, promise = self.sent_up, self.arrived_s + self.offset_s, self.up
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
    edges: dict[str, EdgeExchange]

    @property
    def spread_s(self) -> float:
        """Between the first and the last segment's complete arrival."""
        arrivals = [exchange.arrived_s for exchange in self.edges.values()]
        return max(arrivals) - min(arrivals)
