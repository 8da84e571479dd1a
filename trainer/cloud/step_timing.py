"""Timing of a step at the cloud: sent and received frames, transfer verdicts, lower bounds of a round."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from trainer.protocol.messages import StepDone
from trainer.reservation.bandwidth import FlowGuarantee
from trainer.transport.pacing import SentFrame, TransferVerdict, assess_transfer, l2_bits

Direction = Literal["up", "down"]


@dataclass
class StepTransfers:
    """Frames of one edge in one step. Send times of the uplink are on the edge's clock, all others on the cloud's.

    `segments`: micro-batches that the cloud has trained, `segments_sent`: those of which a segment was sent,
    `saved_bytes`: of segments that were not sent because the cloud had kept them.

    `arrived_s`: arrival of the last segment; `arrived_up_s`: of each frame, which are tail gradients too if labels are
    protected. `rate_is_assumed`: the rates of the flows are assumed, so nothing is judged by them.

    `worker`: the process in the cloud that serves the edge; None: one serves all.
    """

    offset_s: float
    mss_bytes: int
    up: FlowGuarantee
    down: FlowGuarantee
    rate_is_assumed: bool = False
    worker: str | None = None
    sent_up: list[SentFrame] = field(default_factory=list)
    segments: int = 0
    segments_sent: int = 0
    saved_bytes: int = 0
    tail_gradients: int = 0
    arrived_s: float = 0.0
    arrived_up_s: list[float] = field(default_factory=list)
    sent_down: list[SentFrame] = field(default_factory=list)
    cloud_s: float = 0.0
    loss: float = 0.0
    done: StepDone | None = None
    done_s: float = 0.0

    @property
    def busy_s(self) -> float:
        """Computing time of the edge."""
        return 0.0 if self.done is None else self.done.forward_s + self.done.tail_s + self.done.backward_s

    def link_s(self, direction: Direction) -> float:
        """Return the time to transfer the sent frames at the flow's full reserved (or planned) rate; 0 if assumed."""
        if self.rate_is_assumed:
            return 0.0
        frames, flow = (self.sent_up, self.up) if direction == "up" else (self.sent_down, self.down)
        if not frames:
            return 0.0
        return l2_bits(sum(frame.size_bytes for frame in frames), self.mss_bytes) / flow.rate_bps

    def transfer(self, direction: Direction) -> tuple[int, TransferVerdict] | None:
        """Return the bytes of all segments, or of all gradients, and the verdict on their transfer.

        None if nothing is sent in this direction: an edge whose part is frozen receives no gradients, and sends no
        segment that the cloud has kept.
        """
        if direction == "up":
            frames, flow = self.sent_up, self.up
            arrivals_s = [arrival_s + self.offset_s for arrival_s in self.arrived_up_s]
        else:
            assert self.done is not None
            frames, flow = self.sent_down, self.down
            received_s = sorted([*self.done.gradients_received_s, *self.done.tail_inputs_received_s])
            arrivals_s = [arrival_s - self.offset_s for arrival_s in received_s]
        if not frames:
            return None
        verdict = assess_transfer(
            frames, arrivals_s, flow.rate_bps, self.mss_bytes, flow.network_latency_us, self.rate_is_assumed)
        return sum(frame.size_bytes for frame in frames), verdict


@dataclass(frozen=True, slots=True)
class StepResult:
    """A completed step: transfers by edge."""

    step: int
    duration_s: float
    edges: dict[str, StepTransfers]

    @property
    def spread_s(self) -> float:
        """Time between the arrivals of the first and the last edge's segments."""
        arrivals = [transfers.arrived_s for transfers in self.edges.values() if transfers.segments_sent]
        return max(arrivals, default=0.0) - min(arrivals, default=0.0)

    def training_spread_s(self, micro_batches: int) -> float:
        """Return the difference of the slowest and the fastest edge's computed forward time of a micro-batch."""
        times_s = [transfers.done.forward_s / micro_batches for transfers in self.edges.values() if transfers.done]
        return max(times_s, default=0.0) - min(times_s, default=0.0)

    def next_ready_s(self, forward_s: Mapping[str, float]) -> float:
        """Return when the last edge has the first segment of the next step if each starts right after this step.

        `forward_s`: allowed forward time of a micro-batch by edge.
        """
        return max((transfers.done_s + forward_s[name] for name, transfers in self.edges.items()), default=0.0)


@dataclass(frozen=True, slots=True)
class RoundBound:
    """Lower bounds of the duration of a round's steps from measurements, independent of the order of work.

    `edge_s`: computing time of the slowest edge by the wall clock; `limit_s`: least time for an edge's CPU time under
    its CPU quota; `link_s`: longest transfer at the flow's full rate (0 if
    that is assumed); `cloud_s`: the work of the cloud, or of its busiest worker.
    """

    edge_s: float
    limit_s: float
    link_s: float
    cloud_s: float

    @property
    def largest_s(self) -> float:
        """The largest of the bounds."""
        return max(self.edge_s, self.limit_s, self.link_s, self.cloud_s)

    @staticmethod
    def from_steps(steps: Sequence[StepResult]) -> RoundBound:
        """Compute the bounds from the steps of a round."""
        edges: dict[str, list[StepTransfers]] = {}
        for step in steps:
            for name, transfers in step.edges.items():
                edges.setdefault(name, []).append(transfers)
        directions: tuple[Direction, Direction] = ("up", "down")
        return RoundBound(
            edge_s=max((sum(step.busy_s for step in edge) for edge in edges.values()), default=0.0),
            limit_s=max((_cpu_limited_s(edge) for edge in edges.values()), default=0.0),
            link_s=max((sum(step.link_s(way) for step in edge) for edge in edges.values() for way in directions),
                       default=0.0),
            cloud_s=busiest_s(step for edge in edges.values() for step in edge),
        )


def busiest_s(transfers: Iterable[StepTransfers]) -> float:
    """Return the seconds of work of the process in the cloud that has the most."""
    work_s: dict[str | None, float] = {}
    for each in transfers:
        work_s[each.worker] = work_s.get(each.worker, 0.0) + each.cloud_s
    return max(work_s.values(), default=0.0)


def _cpu_limited_s(steps: Sequence[StepTransfers]) -> float:
    """Return the least wall time for the CPU time of an edge's steps under its CPU quota; 0 without a quota.

    The wall clock alone does not show the cost of a quota, because the quota is refilled while the edge waits. An
    interval of n periods contains at most n + 1 quotas, plus one left over from before.
    """
    done = [step.done for step in steps if step.done is not None]
    limits = [(message.times.cpu_s, message.cpu_limit) for message in done if message.cpu_limit is not None]
    if len(limits) < len(done):
        return 0.0
    unused_s = sum(2 * limit.period_s for limit in {limit for _, limit in limits})
    return max(0.0, sum(cpu_s / limit.cores for cpu_s, limit in limits) - unused_s)
