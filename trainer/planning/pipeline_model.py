"""Step time for given cuts: the pipeline, and links shared by flows.

An edge runs all its micro-batches forward, then processes the gradients in order of arrival; no stage depends on a
backward pass, so no other order ends earlier. Segments are sent with a common period. With M micro-batches and, per
micro-batch, F the slowest edge's forward time, U and D the common transmission delays, C the cloud's work for all
edges, B the slowest edge's backward time and X the longest forward and backward time of one edge, the step time is

    max(M X,  F + U + C + D + B + (M - 1) max(F, U, C, D, B))

With labels protected (`split_model`) the edges' tail is an additional stage, T for the slowest edge and included in X;
U, D and C are then the sums over both crossings of a micro-batch.

This is the makespan of the permutation flow shop with identical jobs; the edge's processor, visited twice, contributes
M X. For the links and the cloud, visited twice with labels protected, the model assumes that the second visit fits
between first visits of other micro-batches. Source: Pinedo 2016, "Scheduling", section 6.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class StageTimes:
    """Seconds per stage and micro-batch; `busy_s` is the longest forward, tail and backward time of one edge."""

    forward_s: float
    backward_s: float
    busy_s: float
    cloud_s: float
    up_s: float
    down_s: float
    tail_s: float = 0.0

    @property
    def period_s(self) -> float:
        """Period at which all edges send segments: the longest stage before the edges' backward pass."""
        return max(self.forward_s, self.up_s, self.cloud_s, self.down_s, self.tail_s)

    def step_s(self, micro_batches: int) -> float:
        """Return the step time; non-decreasing in every stage."""
        stages = (self.forward_s, self.up_s, self.cloud_s, self.down_s, self.tail_s, self.backward_s)
        return max(micro_batches * self.busy_s, sum(stages) + (micro_batches - 1) * max(stages))

    def bound_s(self, micro_batches: int) -> float:
        """Return the lower bound of any schedule: the work of the busiest of edge processor, links and cloud."""
        return micro_batches * max(self.busy_s, self.up_s, self.cloud_s, self.down_s)


class SharedLinks:
    """Links shared by flows; flow n belongs to edge n."""

    def __init__(self, paths: Sequence[Sequence[str]], usable_bps: Mapping[str, float], floor_bps: float) -> None:
        self.floor_bps = floor_bps
        users: dict[str, list[int]] = {}
        for number, links in enumerate(paths):
            for link in links:
                users.setdefault(link, []).append(number)
        tightest: dict[tuple[int, ...], float] = {}
        for link, numbers in users.items():  # of links with the same flows only the narrowest matters
            key = tuple(numbers)
            tightest[key] = min(usable_bps[link], tightest.get(key, float("inf")))
        self.capacity_bps = np.array(list(tightest.values()), dtype=np.float64)
        self._link = np.array([row for row, key in enumerate(tightest) for _ in key], dtype=np.intp)
        self._flow = np.array([number for key in tightest for number in key], dtype=np.intp)
        self._flows = len(paths)

    def per_link(self, flow_values: Vector) -> Vector:
        """Return, for every link, the sum of the values of its flows."""
        sums: Vector = np.bincount(self._link, flow_values[self._flow], len(self.capacity_bps)).astype(np.float64)
        return sums

    def per_flow(self, link_values: Vector) -> Vector:
        """Return, for every flow, the sum of the values of its links."""
        sums: Vector = np.bincount(self._flow, link_values[self._link], self._flows).astype(np.float64)
        return sums

    def time_s(self, bits: Vector) -> float:
        """Return the shortest common transfer time of all flows at rates of at least the floor.

        A flow's rate is max(bits / time, floor); without bits it has none. Starts from the time without floors; every
        iteration raises further flows to the floor, which leaves less for the others, so it terminates.
        """
        if not len(self.capacity_bps):
            return 0.0
        time_s = float((self.per_link(bits) / self.capacity_bps).max())
        while True:
            at_floor = (bits > 0) & (bits < self.floor_bps * time_s)
            remaining_bps = self.capacity_bps - self.floor_bps * self.per_link(at_floor.astype(np.float64))
            remaining_bits = self.per_link(np.where(at_floor, 0.0, bits))
            busy = remaining_bits > 0
            if (remaining_bps[busy] <= 0).any():
                return float("inf")
            needed_s = float((remaining_bits[busy] / remaining_bps[busy]).max(initial=0.0))
            if needed_s <= time_s * (1 + 1e-12):
                return time_s
            time_s = needed_s
