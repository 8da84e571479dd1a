"""How long a step takes for given cuts: the pipeline, and links that flows share.

An edge first runs all its micro-batches forward, then takes the gradients as they come: a backward pass has nothing
that waits for it, so no other order ends earlier. Segments leave on a common beat. With M micro-batches and, for each,
F the slowest edge's time forward, U and D the common transmission delays, C the cloud's work for all edges, B the
slowest edge's time backward and X the longest forward and backward of one edge, a step takes

    max(M X,  F + U + C + D + B + (M - 1) max(F, U, C, D, B))

With labels protected (`split_model`) the edges' tail is a stage more, T for the slowest edge and a part of X; U, D
and C are what the links and the cloud need for both crossings of a micro-batch together. Nothing else changes.

That is the makespan of the permutation flow shop with identical jobs, on which the edge's processor, visited twice,
puts M X; of the links and the cloud, visited twice with labels protected, it assumes that the second visit fits between
the first ones of others. Source: Pinedo 2016, "Scheduling", section 6.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Stages:
    """Seconds of each stage for one micro-batch; `busy_s` is the longest forward, tail and backward of one edge."""

    forward_s: float
    backward_s: float
    busy_s: float
    cloud_s: float
    up_s: float
    down_s: float
    tail_s: float = 0.0

    @property
    def beat_s(self) -> float:
        """The period in which all edges send their segments: what comes before the edges' backward pass keeps it."""
        return max(self.forward_s, self.up_s, self.cloud_s, self.down_s, self.tail_s)

    def step_s(self, micros: int) -> float:
        """Seconds for a step of so many micro-batches; grows with each stage."""
        stages = (self.forward_s, self.up_s, self.cloud_s, self.down_s, self.tail_s, self.backward_s)
        return max(micros * self.busy_s, sum(stages) + (micros - 1) * max(stages))

    def bound_s(self, micros: int) -> float:
        """The busiest of the slowest edge's processor, the links and the cloud: no order of work takes less."""
        return micros * max(self.busy_s, self.up_s, self.cloud_s, self.down_s)


class Links:
    """The links that some flows share; flows are numbered, each has the same number as its edge."""

    def __init__(self, paths: Sequence[Sequence[str]], usable_bps: Mapping[str, float], floor_bps: float) -> None:
        self.floor_bps = floor_bps
        users: dict[str, list[int]] = {}
        for number, links in enumerate(paths):
            for link in links:
                users.setdefault(link, []).append(number)
        tightest: dict[tuple[int, ...], float] = {}
        for link, numbers in users.items():  # links with the same users: the narrowest decides
            key = tuple(numbers)
            tightest[key] = min(usable_bps[link], tightest.get(key, float("inf")))
        self.capacity_bps = np.array(list(tightest.values()), dtype=np.float64)
        self._link = np.array([row for row, key in enumerate(tightest) for _ in key], dtype=np.intp)
        self._flow = np.array([number for key in tightest for number in key], dtype=np.intp)
        self._flows = len(paths)

    def per_link(self, of_flows: Vector) -> Vector:
        """The sum, on every link, of something each flow has."""
        sums: Vector = np.bincount(self._link, of_flows[self._flow], len(self.capacity_bps)).astype(np.float64)
        return sums

    def per_flow(self, of_links: Vector) -> Vector:
        """The sum, for every flow, of something each of its links has."""
        sums: Vector = np.bincount(self._flow, of_links[self._link], self._flows).astype(np.float64)
        return sums

    def time_s(self, bits: Vector) -> float:
        """The shortest common time in which all flows carry their bits, none below its floor.

        Flows are at max(bits / time, floor). Beginning with the time without floors, those that would fall below
        theirs are set to it and the others need longer; each turn adds some, so it ends.
        """
        if not len(self.capacity_bps):
            return 0.0
        time_s = float((self.per_link(bits) / self.capacity_bps).max())
        while True:
            low = bits < self.floor_bps * time_s
            left_bps = self.capacity_bps - self.floor_bps * self.per_link(low.astype(np.float64))
            wanted_bits = self.per_link(np.where(low, 0.0, bits))
            busy = wanted_bits > 0
            if (left_bps[busy] <= 0).any():
                return float("inf")
            needed_s = float((wanted_bits[busy] / left_bps[busy]).max(initial=0.0))
            if needed_s <= time_s * (1 + 1e-12):
                return time_s
            time_s = needed_s
