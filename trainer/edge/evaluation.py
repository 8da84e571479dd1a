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
        self._begun: tuple[int, Values] | None = None
        """Layers that have run in this evaluation, and what they made of all samples."""

    def restart(self) -> None:
        """Forget what layers have made: they have new values."""
        self._begun = None

    def advance(self, inputs: Tensor, last: int) -> None:
        """Run the layers up to `last`, which have their new values, for `outputs` of the same samples.

        They run later where they would make activations of more than EVALUATION_SAMPLES samples at once.
        """
        if not 0 < len(inputs) <= EVALUATION_SAMPLES:
            return
        first, values = self._begun or self._first_values(inputs)
        if first < last:
            self._begun = last, self._stage.evaluate(values, first, last)

    def _first_values(self, inputs: Tensor) -> tuple[int, Values]:
        """Return what the frozen front makes of all samples, or the model's inputs, and the first layer after."""
        self._make_front(inputs)
        return (self._front, copied(self._made[0])) if self._front else (0, self._standardize(inputs))

    def outputs(self, inputs: Tensor) -> Tensor | None:
        """Return the outputs (N, ...) for all samples, which may be more than before; None without samples."""
        if not len(inputs):
            return None
        if self._begun is not None:
            first, values = self._begun
            self._begun = None
            return torch.cat([self._stage.evaluate(values, first)])
        if not self._front:
            return torch.cat([self._stage.evaluate(self._standardize(part)) for part in _parts(inputs)])
        self._make_front(inputs)
        return torch.cat([self._stage.evaluate(copied(values), self._front) for values in self._made])

    def _make_front(self, inputs: Tensor) -> None:
        if self._front and len(inputs) != self._samples:
            self._made = [self._stage.evaluate(self._standardize(part), 0, self._front) for part in _parts(inputs)]
            self._samples = len(inputs)


def _parts(inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.split(inputs, EVALUATION_SAMPLES)
