"""What was measured corrects what was predicted: per layer, per burst and for the node as a whole.

The state is a factor for every layer (1 at first) and a cost per burst of work (0 at first; negative where layers take
less together than they did one by one). A Kalman filter learns it from sums: a round tells only how long the layers
[0, cut) took together, and the covariance decides which of them is to blame. It has two parts, a scale common to all
layers (what the node's processor does) and the layers' own errors, so a cut never tried yet profits
from those that were.
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

from trainer.profiling.slowdown import LEAST_NOISE

SCALE_DEVIATION = 0.25
LAYER_DEVIATION = 0.20
BURST_DEVIATION = 0.1
"""What is unknown at first, relative to the prior; of a burst, relative to the mean layer."""
SCALE_DRIFT = 0.02
LAYER_DRIFT = 0.005
"""How much that grows from one round to the next."""
LEAST_FACTOR = 0.02

Vector = NDArray[np.float64]


class LayerTimeFilter:
    """Learns the factor of every layer from rounds; `prior_s` are the seconds of each layer without it."""

    def __init__(self, prior_s: Sequence[float]) -> None:
        self._prior_s = np.asarray(prior_s, dtype=np.float64)
        size = len(self._prior_s)
        self._burst_s = float(self._prior_s.mean()) if size else 0.0
        self._state: Vector = np.append(np.ones(size), 0.0)
        layers = self._scale_direction()
        self._covariance = SCALE_DEVIATION**2 * np.outer(layers, layers)
        self._covariance += np.diag(np.append(np.full(size, LAYER_DEVIATION**2), BURST_DEVIATION**2))

    def history(self) -> dict[str, Any]:
        """All that was learnt, as JSON; `recalled` takes it back."""
        return {
            "prior_s": self._prior_s.tolist(), "state": self._state.tolist(),
            "covariance": self._covariance.tolist(),
        }

    @classmethod
    def recalled(cls, history: Mapping[str, Any]) -> Self:
        """One that knows what `history` told."""
        known = cls(history["prior_s"])
        known._state = np.asarray(history["state"], dtype=np.float64)
        known._covariance = np.asarray(history["covariance"], dtype=np.float64)
        return known

    def layers_s(self) -> Vector:
        """Seconds of each layer, corrected."""
        return self._state[:-1] * self._prior_s

    def burst_s(self) -> float:
        """Seconds that every burst of work takes beside its layers; may be negative."""
        return float(self._state[-1]) * self._burst_s

    def predict_s(self, runs: Sequence[float], bursts: float) -> float:
        """Seconds for running each layer so many times, in so many bursts; never less than a tenth of the layers'."""
        layers_s = float(np.dot(np.asarray(runs, dtype=np.float64), self.layers_s()))
        return max(layers_s + bursts * self.burst_s(), 0.1 * layers_s)

    def learn(
        self, runs: Sequence[float], bursts: float, measured_s: Sequence[float], jumped: bool = False,
        typical: Callable[[Sequence[float]], float] = statistics.fmean,
    ) -> None:
        """Take in the steps of one round; each ran every layer so many times, in so many bursts.

        What is `typical` of them counts, and the less the further they lie apart. Of seconds by the clock that is the
        mean: under a CPU limit short work takes either nothing but itself or a period more. After a jump the median
        counts: the first step may still have been an old one.
        """
        predicted_s = self.predict_s(runs, bursts)
        if not measured_s or predicted_s <= 0:
            return
        row: Vector = np.append(np.asarray(runs, dtype=np.float64) * self._prior_s, bursts * self._burst_s)
        layers = self._scale_direction()
        self._covariance += (1.0 if jumped else SCALE_DRIFT**2) * np.outer(layers, layers)
        self._covariance += np.diag(np.append((LAYER_DRIFT * self._state[:-1]) ** 2, 0.0))
        if jumped:
            seen_s, noise_s = statistics.median(measured_s), 0.0
        else:
            seen_s = typical(measured_s)
            noise_s = statistics.pstdev(measured_s) / math.sqrt(max(1, len(measured_s) - 1))
        self._update(row, seen_s - predicted_s, max(LEAST_NOISE * predicted_s, noise_s))

    def deviation_s(self, runs: Sequence[float], bursts: float) -> float:
        """The standard deviation of such a prediction, as far as the layers are not known yet."""
        row: Vector = np.append(np.asarray(runs, dtype=np.float64) * self._prior_s, bursts * self._burst_s)
        return math.sqrt(max(0.0, float(row @ self._covariance @ row)))

    def _scale_direction(self) -> Vector:
        """The direction in which the state moves when the whole node gets slower."""
        return np.append(self._state[:-1], 0.0)

    def _update(self, row: Vector, innovation_s: float, noise_s: float) -> None:
        blame = self._covariance @ row
        variance = float(row @ blame) + noise_s**2
        self._state = self._state + blame * (innovation_s / variance)
        self._state[:-1] = np.maximum(self._state[:-1], LEAST_FACTOR)
        self._covariance -= np.outer(blame, blame) / variance
