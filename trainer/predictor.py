"""Costs + what was measured -> seconds.

The prior of a layer is FLOPs / speed + bytes / bandwidth + a constant. One pass over the model on the node
itself corrects each layer; then every round corrects the node's scale: at once when all steps of a round agree
that the node has changed, otherwise slowly, so that noise does not swing the plan.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from trainer.costs import LayerCost

LAYER_CONSTANT_S = 50e-6
"""What calling a layer costs however small it is."""

JUMP_SHARE = 0.20
"""A round whose steps deviate by more than this in one direction, all or all but one, shows a changed node.

All but one: the change may have come in the middle of a step.
"""

SMOOTHING = 0.3
"""The weight of a new round that agrees with the old ones."""


@dataclass(frozen=True, slots=True)
class ComputeProfile:
    """How fast a node is, from a short benchmark: matrix products and memory traffic."""

    flops_per_s: float
    bytes_per_s: float


@dataclass(frozen=True, slots=True)
class LayerSeconds:
    """Seconds per layer for some number of samples."""

    forward_s: tuple[float, ...]
    backward_s: tuple[float, ...]


def prior_seconds(costs: Sequence[LayerCost], profile: ComputeProfile, samples: int) -> LayerSeconds:
    """What every layer should need for one micro-batch, from its costs alone."""

    def seconds(flops: float, moved_bytes: float) -> float:
        work = flops / profile.flops_per_s + moved_bytes / profile.bytes_per_s
        return work * samples + LAYER_CONSTANT_S

    return LayerSeconds(
        tuple(seconds(cost.forward_flops, cost.moved_bytes) for cost in costs),
        tuple(seconds(cost.backward_flops, 2 * cost.moved_bytes) for cost in costs),
    )


class Scale:
    """The factor between prediction and measurement on one node, for one kind of work."""

    def __init__(self) -> None:
        self.factor = 1.0

    def correct(self, predicted_s: float, measured_s: Sequence[float]) -> None:
        """Learn from the steps of one round, predicted to take `predicted_s` each."""
        if not measured_s or predicted_s <= 0:
            return
        ratios = [measured / predicted_s for measured in measured_s]
        most = max(1, len(ratios) - 1)
        slower, faster = (sum(r > 1 + JUMP_SHARE for r in ratios), sum(r < 1 - JUMP_SHARE for r in ratios))
        jumped = max(slower, faster) >= most
        self.factor *= statistics.median(ratios) ** (1.0 if jumped else SMOOTHING)


class Predictor:
    """What one node will need for a mini-batch at any cut; starts from the prior and learns."""

    def __init__(self, layers: LayerSeconds) -> None:
        self._layers = layers
        self.forward_scale = Scale()
        self.backward_scale = Scale()

    def edge_forward_s(self, micros: int) -> list[float]:
        """Seconds for the layers [0, cut) forward, for every cut 0..L and `micros` micro-batches."""
        return self._sums(self._layers.forward_s, micros * self.forward_scale.factor)

    def edge_backward_s(self, micros: int) -> list[float]:
        """The same backward."""
        return self._sums(self._layers.backward_s, micros * self.backward_scale.factor)

    def cloud_s(self, micros: int) -> list[float]:
        """Seconds for the layers [cut, L) forward and backward, for every cut 0..L."""
        both = [f + b for f, b in zip(self._layers.forward_s, self._layers.backward_s, strict=True)]
        sums = self._sums(both, micros * self.forward_scale.factor)
        return [sums[-1] - done for done in sums]

    @staticmethod
    def _sums(seconds: Sequence[float], factor: float) -> list[float]:
        return [factor * total for total in accumulate(seconds, initial=0.0)]
