"""Adapters of different ranks on different edges (`--lora auto`).

All adapters have room for the greatest rank. An edge with rank r trains the first r rows of A and columns of B, in its
part and in the cloud's part for it; its other rows add nothing in training. At an averaging a row is the mean over the
edges that train it, weighted by samples; what no edge trains stays. In evaluation mode all rows count.
Source: Cho, Liu, Xu, Fahrezi, Joshi, "Heterogeneous LoRA for Federated Fine-tuning of On-Device Foundation Models",
EMNLP 2024 (HetLoRA: an edge gets the global adapters truncated to its rank); Chen, Tavallaie, Nazemi, Zomaya, "RBLA:
Rank-Based-LoRA-Aggregation for Fine-tuning Heterogeneous Models in FLaaS", arXiv:2408.08699, 2024 (padding adapters to
one shape degrades the global model).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.config.fine_tuning import AUTO_RANKS
from trainer.models.averaging import average
from trainer.models.lora import PARTS, adapters

_AXIS = dict(zip(PARTS, (0, 1), strict=True))
"""The dimension of A and of B that counts the rank."""


def set_rank(layers: Sequence[nn.Module], rank: int | None) -> None:
    """Let adapters train their first `rank` rows only; None: all."""
    for layer in layers:
        for module in adapters(layer).values():
            module.__dict__["lora_rank"] = rank


def narrowed(tensors: Mapping[str, Tensor], rank: int | None) -> dict[str, Tensor]:
    """Return tensors with the first `rank` rows of adapters, as an edge sends them; None: as they are."""
    return {name: tensor if rank is None or (axis := _axis(name)) is None
            else tensor.narrow(axis, 0, min(rank, tensor.shape[axis])).contiguous() for name, tensor in tensors.items()}


def widened(tensors: Mapping[str, Tensor], rank: int | None) -> dict[str, Tensor]:
    """Return tensors that `narrowed` has returned with zeros in the other rows; of another rank they stay as they are.
    """
    wide = dict(tensors)
    for name, tensor in tensors.items():
        axis = _axis(name)
        if rank is not None and axis is not None and tensor.dim() > axis and tensor.shape[axis] == rank:
            after = (tensor.dim() - 1 - axis) * (0, 0)
            wide[name] = functional.pad(tensor, (*after, 0, AUTO_RANKS[-1] - rank))
    return wide


def average_by_rank(
    models: Sequence[Mapping[str, Tensor]], weights: Sequence[float], ranks: Sequence[int],
    previous: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Return the mean of models, of every adapter's row over the edges that train it; `previous`: the last one."""
    mean = average(models, weights)
    bounds = [0, *sorted(set(ranks))]
    for name in mean:
        if (axis := _axis(name)) is None:
            continue
        bands = []
        for first, last in pairwise(bounds):
            trained = [number for number, rank in enumerate(ranks) if rank >= last]
            rows = [{name: models[number][name].narrow(axis, first, last - first)} for number in trained]
            bands.append(average(rows, [weights[number] for number in trained])[name])
        rest = previous[name].narrow(axis, bounds[-1], previous[name].shape[axis] - bounds[-1])
        mean[name] = torch.cat([*bands, rest], axis)
    return mean


def _axis(name: str) -> int | None:
    """Return the dimension of an adapter's tensor that counts the rank; None for other names, and optimizer state."""
    return None if ".state." in name else _AXIS.get(name.rpartition(".")[2])
