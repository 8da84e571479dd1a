"""What the segment of every cut gives away of the raw inputs, measured on real samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from trainer.models.boundary import Boundary, call_layer
from trainer.models.values import tensors_of
from trainer.privacy.distance_correlation import distance_correlation

MOST_SAMPLES = 256
"""Time and memory grow with the square."""


def segment_leakage(layers: Sequence[nn.Module], boundaries: Sequence[Boundary], inputs: Tensor) -> list[float]:
    """Return for every cut the distance correlation of segment and inputs; random layers are off.

    `inputs`: at most MOST_SAMPLES of them (n, ...), as the model takes them.
    """
    raw = inputs.reshape(len(inputs), -1)
    found = [1.0]
    values = inputs
    with torch.no_grad():
        for number, layer in enumerate(layers):
            layer.eval()
            values = call_layer(layers, number, values)
            layer.train()
            found.append(distance_correlation(raw, _rows(tensors_of(values), boundaries[number + 1], len(inputs))))
    return found


def _rows(tensors: Sequence[Tensor], boundary: Boundary, samples: int) -> Tensor:
    """Return all values of every sample (n, values); what does not depend on the samples is left out."""
    rows = [torch.empty(samples, 0)]
    for tensor, spec in zip(tensors, boundary.tensors, strict=True):
        places = [place for place, side in enumerate(spec.sides) if side.per_sample and not side.constant]
        if not places:
            continue
        real = torch.view_as_real(tensor).flatten(-2) if tensor.is_complex() else tensor
        rows.append(real.movedim(places[0], 0).reshape(samples, -1).to(torch.float32))
    return torch.cat(rows, dim=1)
