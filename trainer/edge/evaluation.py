"""The global model's outputs for an edge's held-out samples; those of a frozen front are computed once."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from trainer.models.stage import Stage
from trainer.models.values import Values, copied

EVALUATION_SAMPLES = 256
"""Held-out samples that are counted at once; bounds the memory of the activations."""


class Evaluation:
    """Runs a model on held-out samples after every averaging.

    What leading layers with frozen values alone make of a sample is kept: it is the same after every averaging.
    `standardize`: makes inputs of samples.
    """

    def __init__(self, stage: Stage, standardize: Callable[[Tensor], Tensor]) -> None:
        self._stage = stage
        self._standardize = standardize
        self._front = stage.unchanging_front()
        self._made: list[Values] = []
        self._samples = 0

    def outputs(self, inputs: Tensor) -> Tensor | None:
        """Return the outputs (N, ...) for all samples, which may be more than before; None without samples."""
        if not len(inputs):
            return None
        if not self._front:
            return torch.cat([self._stage.evaluate(self._standardize(part)) for part in _parts(inputs)])
        if len(inputs) != self._samples:
            self._made = [self._stage.evaluate(self._standardize(part), 0, self._front) for part in _parts(inputs)]
            self._samples = len(inputs)
        return torch.cat([self._stage.evaluate(copied(values), self._front) for values in self._made])


def _parts(inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.split(inputs, EVALUATION_SAMPLES)
