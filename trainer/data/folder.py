"""A folder of images: one subfolder for each class, or `train` and `test` with one subfolder for each class in both.

The classes are the names of the subfolders in alphabetical order, or the lines of `classes.txt` beside them. All
images have the size of the first one unless the name of the data says another: `photos:32x32`, `photos:28x28x1` (grey).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from trainer.data.custom import HELD_OUT_SHARE, Arrays, to_data_set
from trainer.data.dataset import DataSet, listed
from trainer.errors import DataError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
CLASSES_FILE = "classes.txt"
SPLITS = ("train", "test")
MIN_CLASSES, MAX_CLASSES = 2, 256
_SIZED = re.compile(r"(.+?):(\d{1,5})x(\d{1,5})(?:x([13]))?")
MAX_NAMED = 5
"""Files that are named in a note; more are counted."""
UNREADABLE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""What Pillow raises for files that are no image, or only a part of one."""


@dataclass(frozen=True, slots=True)
class ImageFolder:
    """A folder and its classes. `size`: height and width of the samples; None: those of the first image."""

    path: Path
    classes: tuple[str, ...]
    size: tuple[int, int] | None
    channels: int

    def directories(self) -> list[tuple[Path, int, bool | None]]:
        """Return the directory of each class in each split, its class, and whether it is held out (None: a fifth)."""
        if self.has_splits:
            return [(self.path / split / name, number, split == "test")
                    for split in SPLITS for number, name in enumerate(self.classes)]
        return [(self.path / name, number, None) for number, name in enumerate(self.classes)]

    @property
    def has_splits(self) -> bool:
        """Whether the folder says which images are held out."""
        return all((self.path / split).is_dir() for split in SPLITS)

    def read(self, path: Path) -> npt.NDArray[np.uint8]:
        """Return an image as (C, H, W).

        Raises: one of UNREADABLE.
        """
        with Image.open(path) as image:
            pixels = image.convert("L" if self.channels == 1 else "RGB")
            if self.size is not None:
                pixels = pixels.resize((self.size[1], self.size[0]))
            values = np.asarray(pixels, dtype=np.uint8)
        return np.ascontiguousarray(values.reshape(*values.shape[:2], self.channels).transpose(2, 0, 1))


def is_folder_name(data: str) -> bool:
    """Return whether `--data` names a folder that exists, with or without a size."""
    return Path(_path_of(data)).expanduser().is_dir() or data.endswith("/") or _SIZED.fullmatch(data) is not None


def _path_of(data: str) -> str:
    sized = _SIZED.fullmatch(data)
    return sized[1] if sized else data


def open_folder(data: str) -> ImageFolder:
    """Return the folder named by `--data`.

    Raises: DataError if there is none, or it has not at least two classes.
    """
    sized, path = _SIZED.fullmatch(data), Path(_path_of(data)).expanduser()
    if not path.is_dir():
        raise DataError(f"there is no folder {path}.")
    size = (int(sized[2]), int(sized[3])) if sized else None
    if size is not None and 0 in size:
        raise DataError(f"--data is {data}; height and width must be at least 1.")
    folder = ImageFolder(path, (), size, int(sized[4] or 3) if sized else 3)
    try:
        return replace(folder, classes=_classes(folder))
    except OSError as error:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path / CLASSES_FILE} is not text in UTF-8: {error}.") from error


def _classes(folder: ImageFolder) -> tuple[str, ...]:
    file, root = folder.path / CLASSES_FILE, folder.path / SPLITS[0] if folder.has_splits else folder.path
    if file.is_file():
        names = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        if len(set(names)) < len(names):
            raise DataError(f"{file} names a class twice: {max(names, key=names.count)}.")
    else:
        names = sorted(entry.name for entry in root.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not MIN_CLASSES <= len(names) <= MAX_CLASSES:
        raise DataError(f"{root} has {len(names)} classes; it needs {MIN_CLASSES} to {MAX_CLASSES} folders, one for "
                        f"each class (they may be empty at first), or their names in {file}.")
    return tuple(names)


def images_in(directory: Path) -> Iterator[Path]:
    """Iterate over the files of a directory that should be images, in alphabetical order; none if it is missing."""
    if directory.is_dir():
        yield from sorted(path for path in directory.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file()
                          and not path.name.startswith("."))


def place_of(path: Path, folder: ImageFolder, seed: int, edges: int) -> tuple[int, bool]:
    """Return the edge that an image of a folder shared by `edges` belongs to, and whether it is held out.

    Both follow from its name, so they stay the same whatever else arrives.
    """
    name = f"{seed}/{path.relative_to(folder.path).as_posix()}"
    number = int.from_bytes(hashlib.blake2b(name.encode(errors="surrogateescape"), digest_size=8).digest())
    held_out_of = round(1 / HELD_OUT_SHARE)
    return number // held_out_of % edges, number % held_out_of == 0


def from_folder(data: str, seed: int) -> DataSet:
    """Load all images of a folder; unreadable ones are named and left out.

    Raises: DataError if there is no such folder, if images differ in size, or too few are left.
    """
    folder = open_folder(data)
    images: list[npt.NDArray[np.uint8]] = []
    labels: list[int] = []
    splits: list[str] = []
    first, unreadable = None, []
    for directory, label, held_out in folder.directories():
        for path in images_in(directory):
            try:
                image = folder.read(path)
            except UNREADABLE as error:
                unreadable.append(f"{path} ({' '.join(str(error).split())})")
                continue
            first = first or path
            if images and image.shape != images[0].shape:
                raise DataError(f"{path} has {_size(image)} pixels and {first} {_size(images[0])}; give one size for "
                                f"all, such as --data {folder.path}:32x32.")
            images.append(image)
            labels.append(label)
            splits.append("test" if held_out else "train")
    if not images:
        raise DataError(f"{folder.path} has no readable image in the folders of its classes, {listed(folder.classes)}.")
    arrays: Arrays = {"X": np.stack(images), "y": np.asarray(labels)}
    if folder.has_splits:
        arrays["split"] = np.asarray(splits)
    loaded = to_data_set(arrays, str(folder.path), seed)
    notes = (f"Images that cannot be read are left out: {listed(unreadable, MAX_NAMED)}.",) if unreadable else ()
    return replace(loaded, classes=len(folder.classes), class_names=folder.classes, notes=(*loaded.notes, *notes))


def _size(image: npt.NDArray[np.uint8]) -> str:
    return f"{image.shape[1]} x {image.shape[2]}"
