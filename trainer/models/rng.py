"""Random numbers that do not depend on the cut.

Before a layer runs, the generator it draws from is set to a seed that names the edge, the round, the step, the
micro-batch and the layer, and nothing else: dropout drops the same values on whichever side the layer is.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import torch


@dataclass(frozen=True, slots=True)
class RandomStream:
    """The random numbers of one micro-batch of one edge; `step` counts within the round.

    PyTorch's generators are global to the process, so passes of several threads must not overlap. A processor and
    an accelerator draw different numbers from one seed: dropout is exact only where both sides compute on the same
    kind of device.
    """

    seed: int
    edge: str
    round: int
    step: int
    micro: int

    def begin(self, layer: int, device: torch.device) -> None:
        """Set the generators of the processor and of `device` for that layer."""
        seed = self._seed_of(layer)
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            torch.cuda.default_generators[device.index or 0].manual_seed(seed)

    def _seed_of(self, layer: int) -> int:
        text = f"{self.seed}/{self.edge}/{self.round}/{self.step}/{self.micro}/{layer}"
        return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1
