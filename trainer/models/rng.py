"""Random numbers that do not depend on the cut.

Before a layer runs, its generator is seeded from the run's seed, edge, round, step, micro-batch and layer, and
nothing else: dropout drops the same values on either side of the cut.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import torch


@dataclass(frozen=True, slots=True)
class RandomStream:
    """The random numbers of one micro-batch of one edge; `step` counts within the round.

    PyTorch's generators are global to the process, so passes of several threads must not overlap. A CPU and a GPU
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
