"""Random numbers that do not depend on the cut.

Before a layer runs, its generator is seeded from the run's seed, edge, round, step, micro-batch and layer, and
nothing else: dropout drops the same values on either side of the cut.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor, nn


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of PyTorch, NumPy and Python, and restore them behind."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        np.random.seed(seed % 2**32)
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_state(numpy_state)
            random.setstate(python_state)


def draws_random(layers: Sequence[nn.Module], samples: Tensor) -> bool:
    """Return whether some of these layers, which run on copies of their own, draws random numbers of PyTorch."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        before, values = torch.default_generator.get_state(), samples
        for layer in layers:
            values = layer.train()(values)
        return not torch.equal(before, torch.default_generator.get_state())


@dataclass(frozen=True, slots=True)
class RandomStream:
    """The random numbers of one micro-batch of one edge; `step` counts within the round.

    PyTorch's generators are global to the process, so passes that draw from them must not overlap. A CPU and a GPU
    draw different numbers from one seed: dropout is exact only where both sides compute on the same kind of device.
    """

    seed: int
    edge: str
    round: int
    step: int
    micro: int

    def seed_layer(self, layer: int, device: torch.device) -> None:
        """Seed the generators of the CPU and of `device` for a layer."""
        seed = self._seed_of(layer)
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(seed)

    def _seed_of(self, layer: int) -> int:
        text = f"{self.seed}/{self.edge}/{self.round}/{self.step}/{self.micro}/{layer}"
        return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1
