"""Costs + what was measured -> seconds.

The prior of a layer is FLOPs x a + bytes x b + a constant. One rehearsal of the model on the node itself replaces it
layer by layer where there was one. Then every round corrects what the layers take of a processor
(`trainer.profiling.kalman`), and how much longer that is by the clock (`trainer.profiling.slowdown`).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations
from typing import Any, Self

import numpy as np

from trainer.profiling.kalman import LayerTimeFilter
from trainer.profiling.layer_costs import LayerCost
from trainer.profiling.slowdown import LEAST_NOISE, Slowdown, StepTimes, has_jumped

LAYER_CONSTANT_S = 50e-6
"""What calling a layer costs however small it is."""
NOISE_MEMORY = 0.7


@dataclass(frozen=True, slots=True)
class ComputeProfile:
    """How fast a node is, from a short benchmark: matrix products and memory traffic."""

    flops_per_s: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class LayerSeconds:
    """Seconds per layer for some number of samples; `stretch` of them for a second of a processor."""

    forward_s: tuple[float, ...]
    backward_s: tuple[float, ...]
    stretch: float = 1.0

    @property
    def work_s(self) -> tuple[float, ...]:
        """Forward and backward together."""
        return tuple(f + b for f, b in zip(self.forward_s, self.backward_s, strict=True))

    def within(self, first: int, last: int) -> LayerSeconds:
        """The same layers, where only [first, last) take time."""
        def kept(seconds: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(one if first <= layer < last else 0.0 for layer, one in enumerate(seconds))

        return LayerSeconds(kept(self.forward_s), kept(self.backward_s), self.stretch)


@dataclass(frozen=True, slots=True)
class Work:
    """What takes time in some layers: FLOPs, bytes moved, calls of a layer."""

    flops: float
    moved_bytes: float
    calls: float = 1.0


@dataclass(frozen=True, slots=True)
class CostModel:
    """Seconds per FLOP, per byte moved and per call of a layer."""

    flop_s: float
    byte_s: float
    call_s: float

    def seconds(self, work: Work) -> float:
        """How long that work takes."""
        return self.flop_s * work.flops + self.byte_s * work.moved_bytes + self.call_s * work.calls

    @staticmethod
    def of(profile: ComputeProfile) -> CostModel:
        """From a node's benchmark."""
        return CostModel(1 / profile.flops_per_s, 1 / profile.bytes_per_s, LAYER_CONSTANT_S)

    @staticmethod
    def fit(works: Sequence[Work], measured_s: Sequence[float]) -> CostModel:
        """The model, no part of it negative, with the least squared relative error.

        With three unknowns the non-negative least squares problem is solved exactly by trying every set of them.
        Source: Lawson & Hanson 1974, "Solving Least Squares Problems", chapter 23.
        """
        rows = np.array([[work.flops, work.moved_bytes, work.calls] for work in works], dtype=np.float64)
        rows /= np.asarray(measured_s, dtype=np.float64)[:, None]
        size = np.maximum(np.abs(rows).max(axis=0), 1e-300)
        scaled = rows / size
        ones = np.ones(len(rows))
        best, best_error = np.zeros(3), float("inf")
        for count in (1, 2, 3):
            for chosen in map(list, combinations(range(3), count)):
                found = np.linalg.lstsq(scaled[:, chosen], ones, rcond=None)[0]
                error = float(((scaled[:, chosen] @ found - ones) ** 2).sum())
                if (found >= 0).all() and error < best_error:
                    best, best_error = np.zeros(3), error
                    best[chosen] = found
        return CostModel(*(float(value) for value in best / size))


def forward_work(cost: LayerCost, samples: int) -> Work:
    """A layer forward."""
    return Work(cost.forward_flops * samples, cost.moved_bytes * samples)


def backward_work(cost: LayerCost, samples: int) -> Work:
    """A layer backward."""
    return Work(cost.backward_flops * samples, cost.backward_moved_bytes * samples)


def prior_seconds(costs: Sequence[LayerCost], profile: ComputeProfile, samples: int) -> LayerSeconds:
    """What every layer should need for one micro-batch, from its costs alone."""
    model = CostModel.of(profile)
    return LayerSeconds(
        tuple(model.seconds(forward_work(cost, samples)) for cost in costs),
        tuple(model.seconds(backward_work(cost, samples)) for cost in costs),
    )


class Predictor:
    """What an edge will need for one micro-batch at any cut; starts from a rehearsal and learns."""

    def __init__(self, layers: LayerSeconds) -> None:
        self._layers = len(layers.forward_s)
        self._stretch = Slowdown(layers.stretch)
        self._forward = LayerTimeFilter([one / layers.stretch for one in layers.forward_s])
        self._backward = LayerTimeFilter([one / layers.stretch for one in layers.backward_s])
        self.noise_share = LEAST_NOISE
        """How far a step forward lies from its prediction, typically, relative to it."""

    def history(self) -> dict[str, Any]:
        """All that was learnt, as JSON; `recalled` takes it back."""
        return {"forward": self._forward.history(), "backward": self._backward.history(),
                "stretch": self._stretch.history(), "noise_share": self.noise_share}

    @classmethod
    def recalled(cls, history: Mapping[str, Any]) -> Self:
        """One that knows what `history` told."""
        known = cls(LayerSeconds((), ()))
        known._forward = LayerTimeFilter.recalled(history["forward"])
        known._backward = LayerTimeFilter.recalled(history["backward"])
        known._stretch = Slowdown.recalled(history["stretch"])
        known.noise_share = float(history["noise_share"])
        known._layers = len(known._forward.layers_s())
        return known

    def forward_s(self) -> list[float]:
        """Seconds for the layers [0, cut) forward, for every cut 0..L."""
        return [self._stretch.value * cpu_s for cpu_s in _by_cut(self._forward)]

    def backward_s(self) -> list[float]:
        """The same backward."""
        return [self._stretch.value * cpu_s for cpu_s in _by_cut(self._backward)]

    def learn(self, cut: int, micros: int, steps: Sequence[StepTimes]) -> None:
        """Take in the steps of a round, each of `micros` micro-batches."""
        if cut == 0 or not steps:
            return
        runs = [float(micros)] * cut + [0.0] * (self._layers - cut)
        both = (self._forward, self._backward)
        cpu_s = [one.cpu_s for one in steps]
        jumped = has_jumped(
            sum(one.predict_s(runs, micros) for one in both), sum(one.deviation_s(runs, micros) for one in both), cpu_s
        )
        self._forward.learn(runs, micros, [one.forward_cpu_s for one in steps], jumped, statistics.median)
        self._backward.learn(runs, micros, [one.backward_cpu_s for one in steps], jumped, statistics.median)
        self._stretch.learn(steps)
        foretold_s = self._stretch.value * self._forward.predict_s(runs, micros)
        error = statistics.median(abs(one.forward_s / foretold_s - 1) for one in steps)
        self.noise_share = NOISE_MEMORY * self.noise_share + (1 - NOISE_MEMORY) * error


class _WorkPredictor:
    """Seconds of work that is forward and backward in one, corrected by what it took."""

    def __init__(self, layers: LayerSeconds) -> None:
        self._work = LayerTimeFilter(layers.work_s)

    def history(self) -> dict[str, Any]:
        """All that was learnt, as JSON; `recalled` takes it back."""
        return self._work.history()

    @classmethod
    def recalled(cls, history: Mapping[str, Any]) -> Self:
        """One that knows what `history` told."""
        known = cls(LayerSeconds((), ()))
        known._work = LayerTimeFilter.recalled(history)
        return known


class CloudPredictor(_WorkPredictor):
    """What the cloud will need for one micro-batch of an edge at any cut, forward and backward."""

    def work_s(self) -> list[float]:
        """Seconds for the layers [cut, L), for every cut 0..L."""
        return _by_cut(self._work, rest=True)

    def learn(self, micros_by_cut: Sequence[tuple[int, int]], work_s: Sequence[float]) -> None:
        """Take in the steps of a round: in each, (cut, micro-batches) of every edge."""
        runs = [float(sum(micros for cut, micros in micros_by_cut if cut <= layer))
                for layer in range(len(self._work.layers_s()))]
        bursts = sum(micros for _, micros in micros_by_cut)
        jumped = has_jumped(self._work.predict_s(runs, bursts), self._work.deviation_s(runs, bursts), work_s)
        self._work.learn(runs, bursts, work_s, jumped)


class TailPredictor(_WorkPredictor):
    """What an edge's tail will need for one micro-batch, forward and backward; `layers` are those of the tail."""

    def work_s(self) -> float:
        """Seconds for the tail."""
        return _by_cut(self._work)[-1]

    def learn(self, micros: int, work_s: Sequence[float]) -> None:
        """Take in the steps of a round, each of `micros` micro-batches."""
        runs = [float(micros)] * len(self._work.layers_s())
        jumped = has_jumped(self._work.predict_s(runs, micros), self._work.deviation_s(runs, micros), work_s)
        self._work.learn(runs, micros, work_s, jumped)


def _by_cut(correction: LayerTimeFilter, rest: bool = False) -> list[float]:
    sums = list(accumulate(correction.layers_s().tolist(), initial=0.0))
    if rest:
        sums = [sums[-1] - done for done in sums]
    burst_s = correction.burst_s()
    return [max(total + burst_s, 0.1 * total) if total > 0 else 0.0 for total in sums]
