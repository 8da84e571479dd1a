"""Data sets: what they must be, an edge's share of one, and the order in which it goes through its share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.config.partitioning import Partitioning
from trainer.errors import DataError

LEAST_CLASSES = 2
DRAWS = 100
"""So often a Dirichlet partition is drawn anew when it leaves an edge with less than it can learn from."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Inputs (N, ...), images as uint8 and all else as float32, and their classes (N,) as int64."""

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def pick(self, indices: Tensor) -> Samples:
        """The samples at those places."""
        return Samples(self.inputs[indices], self.labels[indices])


@dataclass(frozen=True, slots=True)
class DataSet:
    """What is there for all edges together; `owners` name the edge of each training and held-out sample."""

    train: Samples
    held_out: Samples
    classes: int
    owners: tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]] | None = None


@dataclass(frozen=True, slots=True)
class LocalData:
    """What one edge has: it trains on one part and only counts right answers on the other."""

    train: Samples
    held_out: Samples
    classes: int


def share_out(data: DataSet, sharing: Partitioning, index: int, edges: int, seed: int) -> LocalData:
    """The share of edge `index` of `edges`.

    Raises: DataError if there is no such edge, or its share is nothing to learn from.
    """
    if not 0 <= index < edges:
        raise DataError(f"Edge number {index} is not one of {edges} edges, which count from 0.")
    if sharing.kind == "column":
        train, held_out = (_own_rows(data, part, index, edges) for part in (0, 1))
    else:
        train = (partition(len(data.train), edges, index, seed) if sharing.kind == "iid"
                 else _dirichlet(data.train.labels, sharing.alpha, edges, seed)[index])
        held_out = partition(len(data.held_out), edges, index, seed)
    local = LocalData(data.train.pick(train), data.held_out.pick(held_out), data.classes)
    if not len(local.train):
        raise DataError("there is no sample to learn from in its share of the data.")
    if len(found := torch.unique(local.train.labels)) < LEAST_CLASSES:
        raise DataError(
            f"all {len(local.train)} samples to learn from are of class {found.item()}: there is nothing to tell apart."
        )
    return local


def partition(samples: int, edges: int, index: int, seed: int) -> Tensor:
    """The places of edge `index` in a shuffle that all edges agree on: IID, disjoint, sizes differ by at most 1.

    Raises: DataError if an edge would get nothing.
    """
    if samples < edges:
        raise DataError(f"{samples} samples cannot be shared by {edges} edges.")
    shuffle = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    return shuffle[index::edges]


def _dirichlet(labels: Tensor, alpha: float, edges: int, seed: int) -> list[Tensor]:
    """The places of every edge; drawn until each has at least LEAST_CLASSES classes.

    Source: Hsu et al. 2019, "Measuring the effects of non-identical data distribution", section 3.
    """
    numbers, generator = labels.numpy(), np.random.default_rng(seed)
    for _ in range(DRAWS):
        shares: list[list[npt.NDArray[np.intp]]] = [[] for _ in range(edges)]
        for label in np.unique(numbers):
            places = generator.permutation(np.flatnonzero(numbers == label))
            ends = np.cumsum(generator.dirichlet(np.full(edges, alpha))) * len(places)
            for share, piece in zip(shares, np.split(places, ends[:-1].round().astype(int)), strict=True):
                share.append(piece)
        if all(sum(len(piece) > 0 for piece in share) >= LEAST_CLASSES for share in shares):
            return [torch.from_numpy(np.sort(np.concatenate(share))) for share in shares]
    raise DataError(
        f"{DRAWS} draws of dirichlet:{alpha:g} left one of {edges} edges with less than {LEAST_CLASSES} classes; take "
        "a larger concentration, fewer edges, or another seed."
    )


def _own_rows(data: DataSet, part: int, index: int, edges: int) -> Tensor:
    if data.owners is None:
        raise DataError("the data has no column 'edge' to be shared by.")
    names = np.unique(data.owners[0])
    if len(names) != edges:
        raise DataError(f"its column 'edge' names {len(names)} edges ({', '.join(map(str, names[:8]))}); here are "
                        f"{edges}.")
    return torch.from_numpy(np.flatnonzero(data.owners[part] == names[index]))


def batch_places(samples: int, batch: int, seed: int, number: int) -> Tensor:
    """The places (batch,) of mini-batch `number` in an edge's data, for ever: epoch after epoch, each shuffled.

    A mini-batch that reaches the end of an epoch goes on in the next, so all have the same size and the
    segment's size is known before the round starts.
    """
    epoch, start = divmod(number * batch, samples)
    parts: list[Tensor] = []
    missing = batch
    while missing:
        order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        parts.append(order[start : start + missing])
        missing -= len(parts[-1])
        epoch, start = epoch + 1, 0
    return torch.cat(parts)
