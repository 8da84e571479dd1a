"""Kalman filter that corrects predicted layer times by measured ones: per layer, per burst and for the whole node.

The state is a factor for every layer (initially 1) and a cost per burst of work (initially 0; negative where layers
take less together than they did one by one). Measurements are sums: a round yields only the time of the layers
[0, cut) together, and the covariance distributes the error over them. The covariance has two parts, a scale common to
all layers (the speed of the node) and independent errors of the layers, so measurements at one cut also improve the
prediction for cuts not tried yet.
Source: Kalman 1960, "A New Approach to Linear Filtering and Prediction Problems"; Jazwinski 1970, chapter 8, for the
test of the innovation.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from trainer.profiling.slowdown import MIN_NOISE

SCALE_DEVIATION = 0.25
LAYER_DEVIATION = 0.20
BURST_DEVIATION = 0.1
"""Initial standard deviations relative to the prior; of a burst, relative to the mean layer."""
SCALE_DRIFT = 0.02
LAYER_DRIFT = 0.005
"""Growth of the standard deviations per round (process noise)."""
MIN_FACTOR = 0.02

Vector = NDArray[np.float64]


class LayerTimeFilter:
    """Estimates the time of every layer from measured rounds; `prior_s`: seconds of each layer before correction."""

    def __init__(self, prior_s: Sequence[float]) -> None:
        self._prior_s = np.asarray(prior_s, dtype=np.float64)
        size = len(self._prior_s)
        self._burst_s = float(self._prior_s.mean()) if size else 0.0
        self._state: Vector = np.append(np.ones(size), 0.0)
        layers = self._scale_direction()
        self._covariance = SCALE_DEVIATION**2 * np.outer(layers, layers)
        self._covariance += np.diag(np.append(np.full(size, LAYER_DEVIATION**2), BURST_DEVIATION**2))

    def to_json(self) -> dict[str, Any]:
        """Return the state as JSON values, for `from_json`."""
        return {
            "prior_s": self._prior_s.tolist(), "state": self._state.tolist(),
            "covariance": self._covariance.tolist(),
        }

    @classmethod
    def from_json(cls, history: Mapping[str, Any]) -> Self:
        """Restore an instance from the state that `to_json` returned."""
        restored = cls(history["prior_s"])
        restored._state = np.asarray(history["state"], dtype=np.float64)
        restored._covariance = np.asarray(history["covariance"], dtype=np.float64)
        return restored

    def layer_times_s(self) -> Vector:
        """Return the corrected seconds of each layer."""
        return self._state[:-1] * self._prior_s

    def burst_s(self) -> float:
        """Return the seconds of each burst of work in addition to its layers; may be negative."""
        return float(self._state[-1]) * self._burst_s

    def predict_s(self, runs: Sequence[float], bursts: float) -> float:
        """Return the seconds of `runs` executions of each layer in `bursts` bursts; at least a tenth of the layers'."""
        layers_s = float(np.dot(np.asarray(runs, dtype=np.float64), self.layer_times_s()))
        return max(layers_s + bursts * self.burst_s(), 0.1 * layers_s)

    def update(
        self, runs: Sequence[float], bursts: float, measured_s: Sequence[float], jumped: bool = False,
        typical: Callable[[Sequence[float]], float] = statistics.fmean,
    ) -> None:
        """Update the estimate by the steps of one round; each executed every layer `runs` times, in `bursts` bursts.

        The measurement is the `typical` value of the steps; its noise is their spread. For wall times that is the
        mean: under a CPU limit short work takes either its own time or a whole period more. After a jump it is the
        median, because the first step may have ended before the jump.
        """
        predicted_s = self.predict_s(runs, bursts)
        if not measured_s or predicted_s <= 0:
            return
        row: Vector = np.append(np.asarray(runs, dtype=np.float64) * self._prior_s, bursts * self._burst_s)
        layers = self._scale_direction()
        self._covariance += (1.0 if jumped else SCALE_DRIFT**2) * np.outer(layers, layers)
        self._covariance += np.diag(np.append((LAYER_DRIFT * self._state[:-1]) ** 2, 0.0))
        if jumped:
            observed_s, noise_s = statistics.median(measured_s), 0.0
        else:
            observed_s = typical(measured_s)
            noise_s = statistics.pstdev(measured_s) / math.sqrt(max(1, len(measured_s) - 1))
        self._correct(row, observed_s - predicted_s, max(MIN_NOISE * predicted_s, noise_s))

    def deviation_s(self, runs: Sequence[float], bursts: float) -> float:
        """Return the standard deviation of `predict_s` due to the uncertainty of the state."""
        row: Vector = np.append(np.asarray(runs, dtype=np.float64) * self._prior_s, bursts * self._burst_s)
        return math.sqrt(max(0.0, float(row @ self._covariance @ row)))

    def _scale_direction(self) -> Vector:
        """Return the direction in which the state moves when the whole node slows down."""
        return np.append(self._state[:-1], 0.0)

    def _correct(self, row: Vector, innovation_s: float, noise_s: float) -> None:
        cross_covariance = self._covariance @ row
        variance = float(row @ cross_covariance) + noise_s**2
        self._state = self._state + cross_covariance * (innovation_s / variance)
        self._state[:-1] = np.maximum(self._state[:-1], MIN_FACTOR)
        self._covariance -= np.outer(cross_covariance, cross_covariance) / variance
