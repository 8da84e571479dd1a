"""Data sets, their partition over the edges, and the order of mini-batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.config.partitioning import Partitioning
from trainer.errors import DataError

MIN_CLASSES = 2
MAX_DRAWS = 100
"""Attempts at a Dirichlet partition in which every edge has MIN_CLASSES classes."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Inputs (N, ...), uint8 for images, int64 for other whole numbers, else float32.

    `labels`: classes (N, ...) as int64, or values (N, ...) as float32.
    """

    inputs: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def pick(self, indices: Tensor) -> Samples:
        """Return the samples at `indices`."""
        return Samples(self.inputs[indices], self.labels[indices])


def target_shape(samples: Samples) -> tuple[int, ...] | None:
    """Return the shape of the values to predict for a sample; None: classes."""
    return tuple(samples.labels.shape[1:]) if samples.labels.dtype.is_floating_point else None


def class_shape(samples: Samples) -> tuple[int, ...]:
    """Return the shape of the classes of a sample, such as (tokens,); () if it has one, or values to predict."""
    return () if samples.labels.dtype.is_floating_point else tuple(samples.labels.shape[1:])


def is_binary(samples: Samples) -> bool:
    """Return whether all values to predict are 0 or 1."""
    labels = samples.labels
    return labels.dtype.is_floating_point and bool(torch.isin(labels, torch.tensor([0.0, 1.0])).all())


@dataclass(frozen=True, slots=True)
class DataSet:
    """The data of all edges; `owners`: the edge of each training and of each held-out sample.

    `classes`: number of classes, or of values to predict for a sample; `class_names`: if the data names them.
    `notes`: sentences for the user about how it was read. `vocabulary`: number of token ids, if the classes are the
    next tokens of the inputs; they are counted nowhere.
    """

    train: Samples
    held_out: Samples
    classes: int
    owners: tuple[npt.NDArray[np.generic], npt.NDArray[np.generic]] | None = None
    notes: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    vocabulary: int | None = None

    @property
    def target_shape(self) -> tuple[int, ...] | None:
        """Shape of the values to predict for a sample; None: classes."""
        return target_shape(self.train)

    @property
    def class_shape(self) -> tuple[int, ...]:
        """Shape of the classes of a sample; () if it has one, or values to predict."""
        return class_shape(self.train)

    @property
    def whole_numbers(self) -> tuple[int, int] | None:
        """Least and greatest input if all are whole numbers other than the bytes of images, else None."""
        inputs = self.train.inputs
        return (int(inputs.min()), int(inputs.max())) if inputs.dtype == torch.int64 else None


@dataclass(frozen=True, slots=True)
class LocalData:
    """One edge's share: samples to train on, and held-out samples to measure accuracy on."""

    train: Samples
    held_out: Samples
    classes: int
    class_names: tuple[str, ...] = ()
    vocabulary: int | None = None


def listed(names: Sequence[str], most: int = 8) -> str:
    """Return names separated by commas, the last ones only counted if there are more than `most`."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


def local_share(data: DataSet, partitioning: Partitioning, index: int, edges: int, seed: int) -> LocalData:
    """Return the share of edge number `index` of `edges`.

    Raises: DataError if there is no such edge, or its share has no sample or only one class.
    """
    if not 0 <= index < edges:
        raise DataError(f"Edge number {index} is not one of {edges} edges, which count from 0.")
    if partitioning.kind == "dirichlet" and (data.target_shape is not None or data.class_shape):
        targets = "has several classes in each sample" if data.class_shape else "has values as targets"
        raise DataError(f"dirichlet:{partitioning.alpha:g} partitions by the class of a sample; the data {targets}. "
                        "Take iid, or column.")
    if partitioning.kind == "column":
        train, held_out = (_rows_of_edge(data, part, index, edges) for part in (0, 1))
    else:
        train = (iid_partition(len(data.train), edges, index, seed) if partitioning.kind == "iid"
                 else _dirichlet_partition(data.train.labels, partitioning.alpha, edges, seed)[index])
        held_out = iid_partition(len(data.held_out), edges, index, seed)
    local = LocalData(data.train.pick(train), data.held_out.pick(held_out), data.classes, data.class_names,
                      data.vocabulary)
    if not len(local.train):
        raise DataError("its share of the data has no training sample.")
    if data.target_shape is None and len(classes := torch.unique(local.train.labels)) < MIN_CLASSES:
        raise DataError(
            f"all {len(local.train)} training samples in its share are of class {classes.item()}; at least "
            f"{MIN_CLASSES} classes are needed."
        )
    return local


def iid_partition(samples: int, edges: int, index: int, seed: int) -> Tensor:
    """Return the indices of edge `index` in a shuffle common to all edges: IID, disjoint, sizes differ by at most 1.

    Raises: DataError if an edge would get no sample.
    """
    if samples < edges:
        raise DataError(f"{samples} samples cannot be partitioned over {edges} edges.")
    shuffle = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    return shuffle[index::edges]


def _dirichlet_partition(labels: Tensor, alpha: float, edges: int, seed: int) -> list[Tensor]:
    """Return the indices of every edge; redraws until each has at least MIN_CLASSES classes.

    Source: Hsu et al. 2019, "Measuring the effects of non-identical data distribution", section 3.
    """
    classes, generator = labels.numpy(), np.random.default_rng(seed)
    for _ in range(MAX_DRAWS):
        shares: list[list[npt.NDArray[np.intp]]] = [[] for _ in range(edges)]
        for label in np.unique(classes):
            indices = generator.permutation(np.flatnonzero(classes == label))
            ends = np.cumsum(generator.dirichlet(np.full(edges, alpha))) * len(indices)
            for share, piece in zip(shares, np.split(indices, ends[:-1].round().astype(int)), strict=True):
                share.append(piece)
        if all(sum(len(piece) > 0 for piece in share) >= MIN_CLASSES for share in shares):
            return [torch.from_numpy(np.sort(np.concatenate(share))) for share in shares]
    raise DataError(
        f"{MAX_DRAWS} draws of dirichlet:{alpha:g} left one of {edges} edges with less than {MIN_CLASSES} classes; "
        "take a larger concentration, fewer edges, or another seed."
    )


def _rows_of_edge(data: DataSet, part: int, index: int, edges: int) -> Tensor:
    if data.owners is None:
        raise DataError("the data has no column 'edge' to partition by.")
    names = np.unique(data.owners[0])
    if len(names) != edges:
        raise DataError(f"its column 'edge' names {len(names)} edges ({', '.join(map(str, names[:8]))}); this run "
                        f"has {edges}.")
    if nobodys := np.setdiff1d(data.owners[1], names).tolist():
        count = int(np.isin(data.owners[1], nobodys).sum())
        raise DataError(
            f"{count} of its {len(data.held_out)} held-out samples are of {', '.join(map(repr, nobodys[:8]))}, which "
            f"has no training sample, so no edge would hold them; their column 'edge' must name one of "
            f"{', '.join(map(repr, names[:8].tolist()))}."
        )
    return torch.from_numpy(np.flatnonzero(data.owners[part] == names[index]))


def batch_indices(samples: int, batch: int, seed: int, number: int) -> Tensor:
    """Return the indices (batch,) of mini-batch `number` of an edge's data; every epoch is shuffled anew.

    A mini-batch that reaches the end of an epoch continues in the next, so all have the same size and the segment's
    size is known before the round starts.
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
