"""Collects samples from a growing source in a thread of its own, while an edge waits for enough of them, or trains."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from trainer.data.dataset import MIN_CLASSES, LocalData, Samples
from trainer.data.growing_sources import Block, GrowingSource
from trainer.errors import DataError, TrainerError

POLL_S = 1.0
REPORT_S = 2.0
"""Least time between two reports of a number that has changed."""
SILENT_S = 30.0
"""Time without a new sample after which that is reported."""
MAX_NOTES = 20
"""Sentences of an edge about samples that are left out; more are counted."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far an edge has come: training samples, held-out ones, the number it waits for, and a sentence on that.

    The sentence does not name the source: it is for the cloud, too.
    """

    samples: int
    held_out: int
    wanted: int
    sentence: str


@dataclass(frozen=True, slots=True)
class Limits:
    """What the model of a run can take: classes (None: values), the range of whole inputs, targets of 0 and 1 only."""

    classes: int | None = None
    integers: tuple[int, int] | None = None
    binary: bool = False


class Collector:
    """The samples of one edge. All blocks have the shape and the kind of numbers of the first one.

    `notify` receives sentences about samples that are left out and, at most once, about a source that has failed.
    """

    def __init__(self, source: GrowingSource, notify: Callable[[str], None]) -> None:
        self.limits = Limits()
        self._source = source
        self._notify = notify
        self._notes = 0
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._arrived: list[Block] = []
        self._first: Block | None = None
        self._failure: TrainerError | None = None
        self._has_ended = False
        self._data: LocalData | None = None
        threading.Thread(target=self._collect, name="collect", daemon=True).start()

    def wait_for(self, wanted: int, report: Callable[[Progress], None]) -> LocalData:
        """Return the samples when there are `wanted` training samples, of two classes if they have classes.

        Raises: DataError if the source has ended before; UserCodeError if it failed.
        """
        shown, shown_s, grown_s = -1, -SILENT_S, time.monotonic()
        while True:
            count, missing = self._missing(wanted)
            if not missing:
                return self._data  # type: ignore[return-value]
            now_s = time.monotonic()
            if self._failure is not None:
                raise self._failure
            if self._has_ended:
                raise DataError(f"{self._source.name} has ended; {missing}.")
            if count != shown:
                grown_s = now_s
            if now_s - shown_s >= (REPORT_S if count != shown else SILENT_S):
                held_out = len(self._data.held_out) if self._data else 0
                silent_s = now_s - grown_s
                silent = f"; nothing new for {silent_s:.0f} s" if count == shown and silent_s >= SILENT_S else ""
                report(Progress(count, held_out, wanted, f"{missing}{silent}."))
                shown, shown_s = count, now_s
            with self._changed:
                self._changed.wait_for(lambda: self._arrived or self._failure or self._has_ended, POLL_S)

    def take(self) -> LocalData | None:
        """Return all samples if there are new ones that fit the limits, else None."""
        with self._changed:
            blocks, self._arrived = self._arrived, []
        parts = [part for block in blocks if (part := self._fitting(block)) is not None]
        if not parts:
            return None
        self._data = _with_new(self._data, parts, self._source.class_names)
        return self._data

    def close(self) -> None:
        """Stop collecting."""
        self._closed.set()

    def _missing(self, wanted: int) -> tuple[int, str]:
        """Return the number of training samples, and what is missing; empty if nothing is."""
        self.take()
        data = self._data
        count = len(data.train) if data else 0
        if data is None or count < wanted:
            return count, f"{count} of {wanted} samples collected"
        if not data.train.labels.dtype.is_floating_point and len(
                classes := torch.unique(data.train.labels)) < MIN_CLASSES:
            return count, f"{count} samples collected, all of class {int(classes[0])}; another class is needed"
        return count, ""

    def _collect(self) -> None:
        try:
            while not self._closed.is_set() and not self._source.ended:
                some = False
                for arrival in self._source.arrivals():
                    some = True
                    if isinstance(arrival, str):
                        self._note(arrival)
                    elif (block := self._checked(arrival)) is not None:
                        with self._changed:
                            self._arrived.append(block)
                            self._changed.notify_all()
                if not some and not self._source.ended:
                    self._closed.wait(POLL_S)
        except (TrainerError, OSError) as error:
            self._failure = error if isinstance(error, TrainerError) else DataError(
                f"{self._source.name} cannot be read any more: {error.strerror}.")
            self._notify(f"{self._failure} No more samples are collected.")
        finally:
            with self._changed:
                self._has_ended = True
                self._changed.notify_all()

    def _checked(self, block: Block) -> Block | None:
        """Return a block with the kinds of numbers of the first one, or None if it does not fit that."""
        if self._first is None:
            self._first = block
            return block
        first = self._first
        for what, values, like in (("inputs", block.inputs, first.inputs), ("targets", block.targets, first.targets)):
            if values.shape[1:] != like.shape[1:]:
                self._note(f"{_samples(len(values))} of {self._source.name} left out: the {what} have the shape "
                           f"{values.shape[1:]}, those of the first sample {like.shape[1:]}.")
                return None
            if not np.can_cast(values.dtype, like.dtype, "same_kind"):
                self._note(f"{_samples(len(values))} of {self._source.name} left out: the {what} are {values.dtype}, "
                           f"those of the first sample {like.dtype}.")
                return None
        return Block(block.inputs.astype(first.inputs.dtype, copy=False),
                     block.targets.astype(first.targets.dtype, copy=False), block.held_out)

    def _fitting(self, block: Block) -> Block | None:
        """Return the samples of a block that the model can take."""
        limits, count = self.limits, len(block.inputs)
        fits = np.ones(count, dtype=bool)
        for wrong, why in (
            (limits.classes is not None and _each(block.targets >= limits.classes),
             f"their classes are not among the {limits.classes} that the model was built for"),
            (limits.integers is not None and _each(
                (block.inputs < limits.integers[0]) | (block.inputs > limits.integers[1])),
             f"their inputs lie outside {limits.integers}, for which the model was built"),
            (limits.binary and _each(~np.isin(block.targets, (0, 1))), "their targets are not 0 and 1"),
        ):
            if np.any(wrong):
                self._note(f"{_samples(int(np.sum(wrong & fits)))} of {self._source.name} left out: {why}.")
                fits &= ~np.asarray(wrong)
        if not fits.any():
            return None
        return block if fits.all() else Block(block.inputs[fits], block.targets[fits], block.held_out[fits])

    def _note(self, sentence: str) -> None:
        self._notes += 1
        if self._notes <= MAX_NOTES:
            self._notify(sentence)
        elif self._notes == MAX_NOTES + 1:
            self._notify("More samples are left out; they are not named.")


def _each(wrong: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return for each sample whether any of its values is wrong."""
    return np.asarray(wrong.reshape(len(wrong), -1).any(axis=1))


def _samples(count: int) -> str:
    return f"{count} sample{'s' if count > 1 else ''}"


def _with_new(data: LocalData | None, blocks: Sequence[Block], class_names: tuple[str, ...]) -> LocalData:
    """Return the data with the samples of new blocks behind the others."""
    inputs, targets, held_out = (np.concatenate([getattr(block, name) for block in blocks])
                                 for name in ("inputs", "targets", "held_out"))
    train, test = (Samples(torch.from_numpy(inputs[rows]), torch.from_numpy(targets[rows]))
                   for rows in (~held_out, held_out))
    is_class = targets.dtype == np.int64
    outputs = len(class_names) or (int(targets.max()) + 1 if is_class else int(np.prod(targets.shape[1:])))
    if data is None:
        return LocalData(train, test, outputs, class_names)
    return LocalData(_joined(data.train, train), _joined(data.held_out, test), max(data.classes, outputs), class_names)


def _joined(first: Samples, second: Samples) -> Samples:
    if not len(second):
        return first
    return Samples(torch.cat((first.inputs, second.inputs)), torch.cat((first.labels, second.labels)))
