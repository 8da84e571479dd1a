"""Which samples of a mini-batch are still to be sent if what was sent before is kept: the same on edge and cloud."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class SentSamples:
    """The samples of an edge whose segments, of one cut and codec, were sent."""

    def __init__(self, samples: int) -> None:
        self._sent = torch.zeros(samples, dtype=torch.bool)

    @property
    def count(self) -> int:
        """Number of samples that were sent."""
        return int(self._sent.sum())

    def copy(self) -> SentSamples:
        """Return a copy, to look ahead with."""
        other = SentSamples(0)
        other._sent = self._sent.clone()
        return other

    def take(self, micro_batches: Sequence[Tensor]) -> list[Tensor]:
        """Return of every micro-batch (indices) the samples to send, in order, each once; they count as sent then."""
        missing = []
        for indices in micro_batches:
            rows = list(dict.fromkeys(index for index in indices.tolist() if not self._sent[index]))
            missing.append(torch.tensor(rows, dtype=torch.int64))
            self._sent[missing[-1]] = True
        return missing
