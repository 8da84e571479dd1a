"""Sources that grow while an edge trains: a folder of images, a .npz file, an iterator of the user.

Each yields what has arrived since it was last asked: blocks of samples, and sentences about what was left out.
"""

from __future__ import annotations

import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from trainer.config.partitioning import DATA_SETS
from trainer.data import custom, folder
from trainer.data.custom import HELD_OUT_SHARE, Arrays
from trainer.data.folder import ImageFolder
from trainer.errors import DataError, UsageError, UserCodeError
from trainer.plugins import describe_error, is_plugin_name, load_function

HELD_OUT_OF = round(1 / HELD_OUT_SHARE)
"""Of so many samples, one is held out."""
RECENT_NS = 2 * 10**9
"""A directory that changed within this time of its reading is read again: its time stamp may be the same."""


@dataclass(frozen=True, slots=True)
class Share:
    """Which edge asks: number `index` of the `edges` that have one source together."""

    name: str
    index: int
    edges: int
    seed: int


@dataclass(frozen=True, slots=True)
class Block:
    """Samples that arrived together: inputs (n, features, ...), targets (n, ...), whether each is held out (n,)."""

    inputs: npt.NDArray[Any]
    targets: npt.NDArray[Any]
    held_out: npt.NDArray[np.bool_]


class GrowingSource(Protocol):
    """A source of samples. `ended`: nothing more will come."""

    ended: bool

    @property
    def name(self) -> str:
        """Its name in sentences."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of its classes, if it has names for them."""

    def arrivals(self) -> Iterator[Block | str]:
        """Yield what has arrived since the last call; may wait for it.

        Raises: UserCodeError if a function of the user fails.
        """


def open_source(data: str, share: Share) -> GrowingSource:
    """Open the source that `--data` names.

    Raises: UsageError or DataError if it is none that can grow.
    """
    if data in DATA_SETS or data.partition(":")[0] in DATA_SETS:
        raise UsageError(f"--data is {data}, which does not grow; --collect takes a folder of images, FILE.npz, or "
                         "package.module:function that returns an iterator.")
    if is_plugin_name(data):
        return IteratorSource(data, share)
    if folder.is_folder_name(data):
        return FolderSource(folder.open_folder(data), share)
    if data.endswith(".npz"):
        return FileSource(Path(data).expanduser(), share)
    raise UsageError(f"--data is {data}; with --collect it is a folder of images, FILE.npz, or package.module:function "
                     "that returns an iterator.")


@dataclass
class FolderSource:
    """Images that arrive in the folders of their classes. One that is still being written is read when it is complete.

    Several edges divide a folder by the names of the images.
    """

    folder: ImageFolder
    share: Share
    ended: bool = False
    _known: set[Path] = field(default_factory=set)
    _incomplete: dict[Path, tuple[int, int]] = field(default_factory=dict)
    _settled_ns: dict[Path, int] = field(default_factory=dict)
    _named: set[Path] = field(default_factory=set)

    @property
    def name(self) -> str:
        """The folder's path."""
        return str(self.folder.path)

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes, in the order of their numbers."""
        return self.folder.classes

    def arrivals(self) -> Iterator[Block | str]:
        """Yield a block for each new image."""
        yield from self._strangers()
        for directory, label, held_out in self.folder.directories():
            for path in self._new_images(directory):
                edge, drawn = folder.place_of(path, self.folder, self.share.seed, self.share.edges)
                if edge != self.share.index:
                    self._known.add(path)
                    continue
                try:
                    image = self.folder.read(path)
                except folder.UNREADABLE as error:
                    if self._has_stopped_growing(path):
                        self._known.add(path)
                        yield f"{path} is left out: it is no readable image ({' '.join(str(error).split())})."
                    continue
                self._known.add(path)
                yield Block(image[None], np.array([label]), np.array([drawn if held_out is None else held_out]))

    def _new_images(self, directory: Path) -> list[Path]:
        """Return images not read before; none if the directory has not changed and every image was complete."""
        waiting = [path for path in self._incomplete if path.parent == directory]
        try:
            changed_ns, now_ns = directory.stat().st_mtime_ns, time.time_ns()
            if self._settled_ns.get(directory) == changed_ns and not waiting:
                return []
            if changed_ns < now_ns - RECENT_NS:
                self._settled_ns[directory] = changed_ns
            return [path for path in folder.images_in(directory) if path not in self._known]
        except OSError:  # removed, or not there yet
            return []

    def _has_stopped_growing(self, path: Path) -> bool:
        """Return whether an unreadable image has the size and time that it had when it was tried before."""
        try:
            status = path.stat()
        except OSError:
            self._incomplete.pop(path, None)
            return True
        now = (status.st_size, status.st_mtime_ns)
        if self._incomplete.get(path) == now:
            del self._incomplete[path]
            return True
        self._incomplete[path] = now
        return False

    def _strangers(self) -> Iterator[str]:
        """Name files and folders that belong to no class, once."""
        known = {*self.folder.classes, *folder.SPLITS}
        for path in sorted(self.folder.path.iterdir() if self.folder.path.is_dir() else ()):
            is_image = path.suffix.lower() in folder.SUFFIXES
            if path in self._named or path.name in known or not (is_image or path.is_dir()) or path.name[0] == ".":
                continue
            self._named.add(path)
            classes = ", ".join(self.folder.classes)
            yield f"{path} is left out: " + (f"it is in no class; the classes are {classes}." if is_image else
                                             f"the classes were fixed at the start: {classes}.")


@dataclass
class FileSource:
    """A .npz file that is written anew with more rows, or replaced by one with other rows.

    While the first rows are those read before, the rest are new; otherwise all are. Several edges take rows in turn.
    """

    path: Path
    share: Share
    ended: bool = False
    class_names: tuple[str, ...] = ()
    _stamp: tuple[int, int, int] | None = None
    _mistake: str = ""
    _rows: Arrays = field(default_factory=dict)
    _taken: int = 0

    @property
    def name(self) -> str:
        """The file's path."""
        return str(self.path)

    def arrivals(self) -> Iterator[Block | str]:
        """Yield the new rows of this edge as one block."""
        try:
            status = self.path.stat()
        except OSError:
            return  # there may be one later
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns)
        if stamp == self._stamp:
            return
        try:
            arrays = self._read()
        except (DataError, OSError, ValueError, EOFError, zipfile.BadZipFile, KeyError) as error:
            mistake = f"{self.path} cannot be used as it is now: {' '.join(str(error).split()).rstrip('.')}."
            if mistake == self._mistake:  # not only in the middle of being written
                self._stamp = stamp
                yield mistake
            self._mistake = mistake
            return
        self._stamp, self._mistake = stamp, ""
        known = len(self._rows.get("y", ()))
        first = known if known and _begins_with(arrays, self._rows, known) else 0
        if known and not first:
            yield f"{self.path} has other rows than before; all of its {len(arrays['y'])} rows are new samples."
        self._rows = arrays
        numbers = np.arange(first, len(arrays["y"])) + (self._taken - first)
        self._taken += len(arrays["y"]) - first
        own = numbers % self.share.edges == self.share.index
        if own.any():
            rows = np.flatnonzero(own) + first
            held_out = (arrays["split"][rows].astype(str) == "test" if "split" in arrays
                        else numbers[own] // self.share.edges % HELD_OUT_OF == HELD_OUT_OF - 1)
            yield Block(arrays["X"][rows], arrays["y"][rows], held_out)

    def _read(self) -> Arrays:
        """Read and check the arrays.

        Raises: DataError and those of `custom.read_arrays`.
        """
        arrays = custom.read_arrays(self.path)
        for name in ("X", "y"):
            if name not in arrays:
                raise DataError(f"it has no array {name}")
        if custom.has_channels_last(arrays["X"].shape):
            arrays["X"] = arrays["X"].transpose(0, 3, 1, 2)
        inputs = custom.check_inputs(arrays["X"], self.name)
        split = arrays.get("split")
        if split is not None and (len(split) != len(inputs) or set(split.astype(str).tolist()) - {"train", "test"}):
            raise DataError('split must hold "train" or "test" for each row')
        return {"X": inputs, "y": custom.check_targets(arrays["y"], len(inputs), self.name),
                **({} if split is None else {"split": split})}


def _begins_with(arrays: Arrays, rows: Arrays, count: int) -> bool:
    return all(len(arrays[name]) >= count and arrays[name].shape[1:] == rows[name].shape[1:]
               and np.array_equal(arrays[name][:count], rows[name]) for name in ("X", "y"))


class IteratorSource:
    """The samples (x, y) that a user's iterator yields, one by one, for this edge alone.

    The function gets those of `seed`, `edge`, `index` and `edges` that it names as parameters.
    """

    def __init__(self, data: str, share: Share) -> None:
        """Import the function; it is called when the samples are needed.

        Raises: UsageError if there is no such function.
        """
        self.name = data
        self.class_names: tuple[str, ...] = ()
        self.ended = False
        self._share = share
        self._function = load_function(data)
        self._items: Iterator[object] | None = None
        self._count = 0

    def arrivals(self) -> Iterator[Block | str]:
        """Wait for the next sample and yield it.

        Raises: UserCodeError if the user's function fails, DataError if it returns no iterator.
        """
        if self._items is None:
            share = self._share
            self._items = self._function(seed=share.seed, edge=share.name, index=share.index, edges=share.edges)
            if not isinstance(self._items, Iterator):
                raise DataError(f"{self.name} returned {type(self._items).__name__}; with --collect it must return an "
                                "iterator of samples (x, y), as a function with `yield` does.")
        try:
            item = next(self._items)
        except StopIteration:
            self.ended = True
            return
        except (Exception, SystemExit) as error:
            self.ended = True
            raise UserCodeError(f"{self.name} failed at sample {self._count + 1}: {describe_error(error)}.") from error
        self._count += 1
        try:
            yield self._block(item)
        except DataError as error:
            yield f"sample {self._count} of {self.name} is left out: {error}"

    def _block(self, item: object) -> Block:
        if isinstance(item, Mapping):
            item = (item.get("X"), item.get("y"))
        if not isinstance(item, tuple) or len(item) != 2:
            raise DataError(f"it is {type(item).__name__}, not a pair (x, y).")
        x, y = (custom.to_array(value, key, self.name)[None] for key, value in zip("xy", item, strict=True))
        inputs = custom.check_inputs(np.array(x), f"sample {self._count}")
        targets = custom.check_targets(np.array(y), 1, f"sample {self._count}")
        return Block(inputs, targets, np.array([self._count % HELD_OUT_OF == 0]))
