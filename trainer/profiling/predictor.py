"""Predicts computing times from layer costs and measurements.

The prior of a layer is FLOPs x a + bytes x b + a constant, with a and b of a node's benchmark. Where the layers were
profiled on another node, such as the cloud, the prior is what they took there, times the ratio of FLOPs x a + bytes x b
of both nodes. Then every round corrects the CPU time of the layers (`trainer.profiling.kalman`) and the ratio of wall
to CPU time (`trainer.profiling.slowdown`).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, combinations
from typing import Any, Self

import numpy as np

from trainer.profiling.kalman import LayerTimeFilter
from trainer.profiling.layer_costs import LayerCost
from trainer.profiling.slowdown import MIN_NOISE, Slowdown, StepTimes, has_jumped

LAYER_CALL_S = 50e-6
"""Fixed cost of calling a layer."""
NOISE_DECAY = 0.7
MAX_SLOWDOWN = 1e4


@dataclass(frozen=True, slots=True)
class ComputeProfile:
    """Speed of a node in a short benchmark of matrix products and memory traffic.

    The rates are per second of CPU time; `slowdown`: wall time over CPU time.
    """

    flops_per_s: float
    bytes_per_s: float
    slowdown: float = 1.0


@dataclass(frozen=True, slots=True)
class LayerSeconds:
    """Wall seconds per layer for a fixed number of samples; `slowdown`: wall time over CPU time."""

    forward_s: tuple[float, ...]
    backward_s: tuple[float, ...]
    slowdown: float = 1.0

    @property
    def work_s(self) -> tuple[float, ...]:
        """Seconds of forward and backward together."""
        return tuple(f + b for f, b in zip(self.forward_s, self.backward_s, strict=True))

    def restricted_to(self, first: int, last: int) -> LayerSeconds:
        """Return the same layers with zero time outside [first, last)."""
        def restricted(seconds: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(layer_s if first <= layer < last else 0.0 for layer, layer_s in enumerate(seconds))

        return LayerSeconds(restricted(self.forward_s), restricted(self.backward_s), self.slowdown)


@dataclass(frozen=True, slots=True)
class ComputeWork:
    """Work that takes time: FLOPs, bytes moved, calls of layers."""

    flops: float
    moved_bytes: float
    calls: float = 1.0


@dataclass(frozen=True, slots=True)
class CostModel:
    """Seconds per FLOP, per byte moved and per call of a layer."""

    flop_s: float
    byte_s: float
    call_s: float

    def seconds(self, work: ComputeWork) -> float:
        """Return the time of some work."""
        return self.flop_s * work.flops + self.byte_s * work.moved_bytes + self.call_s * work.calls

    @staticmethod
    def of(profile: ComputeProfile) -> CostModel:
        """Return the model of a benchmarked node."""
        return CostModel(1 / profile.flops_per_s, 1 / profile.bytes_per_s, LAYER_CALL_S)

    @staticmethod
    def fit(works: Sequence[ComputeWork], measured_s: Sequence[float]) -> CostModel:
        """Fit the non-negative model with the least squared relative error.

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
            for active in map(list, combinations(range(3), count)):
                solution = np.linalg.lstsq(scaled[:, active], ones, rcond=None)[0]
                error = float(((scaled[:, active] @ solution - ones) ** 2).sum())
                if (solution >= 0).all() and error < best_error:
                    best, best_error = np.zeros(3), error
                    best[active] = solution
        return CostModel(*(float(value) for value in best / size))


def forward_work(cost: LayerCost, samples: int) -> ComputeWork:
    """Return the work of a layer's forward pass."""
    return ComputeWork(cost.forward_flops * samples, cost.moved_bytes * samples)


def backward_work(cost: LayerCost, samples: int) -> ComputeWork:
    """Return the work of a layer's backward pass."""
    return ComputeWork(cost.backward_flops * samples, cost.backward_moved_bytes * samples)


def prior_seconds(costs: Sequence[LayerCost], profile: ComputeProfile, samples: int) -> LayerSeconds:
    """Predict the seconds of every layer for one micro-batch from its costs alone; 0 without a backward pass."""
    model = CostModel.of(profile)
    return LayerSeconds(
        tuple(profile.slowdown * model.seconds(forward_work(cost, samples)) for cost in costs),
        tuple(profile.slowdown * model.seconds(backward_work(cost, samples)) if cost.backward_moved_bytes else 0.0
              for cost in costs),
        profile.slowdown,
    )


def seconds_on(
    node: ComputeProfile, samples: int, costs: Sequence[LayerCost], measured: LayerSeconds,
    measured_on: ComputeProfile, measured_samples: int,
) -> LayerSeconds:
    """Predict the seconds of every layer for one micro-batch on a node from its rates and from another node's layers.

    A layer takes there what it took on the other node, times the ratio of what its FLOPs and bytes take on the two: so
    what FLOPs and bytes do not tell of a layer is in the prediction, too.
    """
    there, here = CostModel.of(node), CostModel.of(measured_on)
    slowdown = node.slowdown / measured.slowdown
    without_work = samples / measured_samples * measured_on.bytes_per_s / node.bytes_per_s

    def predicted(work: Callable[[LayerCost, int], ComputeWork], seconds: Sequence[float]) -> tuple[float, ...]:
        there_s = [there.seconds(replace(work(cost, samples), calls=0.0)) for cost in costs]
        here_s = [here.seconds(replace(work(cost, measured_samples), calls=0.0)) for cost in costs]
        return tuple(slowdown * layer_s * (a / b if b else without_work)
                     for a, b, layer_s in zip(there_s, here_s, seconds, strict=True))

    return LayerSeconds(predicted(forward_work, measured.forward_s), predicted(backward_work, measured.backward_s),
                        node.slowdown)


class Predictor:
    """Predicts an edge's time for one micro-batch at any cut; starts from a prior, corrected every round."""

    def __init__(self, layers: LayerSeconds) -> None:
        self._layers = len(layers.forward_s)
        self._slowdown = Slowdown(layers.slowdown)
        self._forward = LayerTimeFilter([wall_s / layers.slowdown for wall_s in layers.forward_s])
        self._backward = LayerTimeFilter([wall_s / layers.slowdown for wall_s in layers.backward_s])
        self.noise_share = MIN_NOISE
        """Typical relative error of the predicted forward time of a step."""

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values, for `from_json`."""
        return {"forward": self._forward.to_json(), "backward": self._backward.to_json(),
                "slowdown": self._slowdown.to_json(), "noise_share": self.noise_share}

    @classmethod
    def from_json(cls, history: Mapping[str, Any]) -> Self:
        """Restore an instance from the state that `to_json` returned."""
        restored = cls(LayerSeconds((), ()))
        restored._forward = LayerTimeFilter.from_json(history["forward"])
        restored._backward = LayerTimeFilter.from_json(history["backward"])
        restored._slowdown = Slowdown.from_json(history["slowdown"])
        restored.noise_share = float(history["noise_share"])
        restored._layers = len(restored._forward.layer_times_s())
        return restored

    def forward_s(self) -> list[float]:
        """Return the forward seconds of the layers [0, cut), for every cut 0..L."""
        return [self._slowdown.value * cpu_s for cpu_s in _by_cut(self._forward)]

    def backward_s(self) -> list[float]:
        """Return the backward seconds of the layers [0, cut), for every cut 0..L."""
        return [self._slowdown.value * cpu_s for cpu_s in _by_cut(self._backward)]

    def update(self, cut: int, micros: int, steps: Sequence[StepTimes]) -> None:
        """Update by the steps of a round, each of `micros` micro-batches."""
        if cut == 0 or not steps:
            return
        runs = [float(micros)] * cut + [0.0] * (self._layers - cut)
        both = (self._forward, self._backward)
        cpu_s = [step.cpu_s for step in steps]
        predicted_cpu_s = sum(half.predict_s(runs, micros) for half in both)
        jumped = has_jumped(predicted_cpu_s, sum(half.deviation_s(runs, micros) for half in both), cpu_s)
        self._forward.update(runs, micros, [step.forward_cpu_s for step in steps], jumped, statistics.median)
        self._backward.update(runs, micros, [step.backward_cpu_s for step in steps], jumped, statistics.median)
        self._slowdown.update(steps)
        predicted_s = self._slowdown.value * self._forward.predict_s(runs, micros)
        error = statistics.median(abs(step.forward_s / predicted_s - 1) for step in steps)
        self.noise_share = NOISE_DECAY * self.noise_share + (1 - NOISE_DECAY) * error


class _WorkPredictor:
    """Predicts the time of forward and backward together, corrected by measurements."""

    def __init__(self, layers: LayerSeconds) -> None:
        self._work = LayerTimeFilter(layers.work_s)

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values, for `from_json`."""
        return self._work.to_json()

    @classmethod
    def from_json(cls, history: Mapping[str, Any]) -> Self:
        """Restore an instance from the state that `to_json` returned."""
        restored = cls(LayerSeconds((), ()))
        restored._work = LayerTimeFilter.from_json(history)
        return restored


class CloudPredictor(_WorkPredictor):
    """Predicts the cloud's time for one micro-batch of an edge at any cut, forward and backward."""

    def work_s(self) -> list[float]:
        """Return the seconds of the layers [cut, L), for every cut 0..L."""
        return _by_cut(self._work, rest=True)

    def update(self, micros_by_cut: Sequence[tuple[int, int]], work_s: Sequence[float]) -> None:
        """Update by the steps of a round; `micros_by_cut`: (cut, micro-batches) of every edge in each step."""
        runs = [float(sum(micros for cut, micros in micros_by_cut if cut <= layer))
                for layer in range(len(self._work.layer_times_s()))]
        bursts = sum(micros for _, micros in micros_by_cut)
        jumped = has_jumped(self._work.predict_s(runs, bursts), self._work.deviation_s(runs, bursts), work_s)
        self._work.update(runs, bursts, work_s, jumped)


class TailPredictor(_WorkPredictor):
    """Predicts the time of an edge's tail for one micro-batch, forward and backward."""

    def work_s(self) -> float:
        """Return the seconds of the tail."""
        return _by_cut(self._work)[-1]

    def update(self, micros: int, work_s: Sequence[float]) -> None:
        """Update by the steps of a round, each of `micros` micro-batches."""
        runs = [float(micros)] * len(self._work.layer_times_s())
        jumped = has_jumped(self._work.predict_s(runs, micros), self._work.deviation_s(runs, micros), work_s)
        self._work.update(runs, micros, work_s, jumped)


def _by_cut(layer_times: LayerTimeFilter, rest: bool = False) -> list[float]:
    """Return the seconds of the layers [0, cut), or with `rest` of [cut, L), for every cut 0..L."""
    sums = list(accumulate(layer_times.layer_times_s().tolist(), initial=0.0))
    if rest:
        sums = [sums[-1] - leading_s for leading_s in sums]
    burst_s = layer_times.burst_s()
    return [max(total + burst_s, 0.1 * total) if total > 0 else 0.0 for total in sums]
