"""Sentences about targets that may be meant otherwise than they are read."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainer.data.dataset import Samples, listed

MOST_CLASSES = 20
"""So many different whole numbers may be classes that were saved as floating-point numbers."""


def value_notes(values: npt.NDArray[np.generic], source: str) -> list[str]:
    """Return a sentence if values to predict look like classes: whole numbers, or one 1 in every row."""
    if values.ndim > 1 and values.shape[1:] != (1,):
        is_one_of_many = values.ndim == 2 and np.isin(values, (0, 1)).all() and (np.count_nonzero(values, 1) == 1).all()
        return [f"y of {source} has one 1 in every row; it is read as {values.shape[1]} labels that are each yes or "
                "no. For one class of each sample give its number: y.argmax(1)."] if is_one_of_many else []
    found = np.unique(values)
    if values.dtype.kind != "f" or not 2 <= len(found) <= MOST_CLASSES or not (found == np.floor(found)).all():
        return []
    return [f"y of {source} holds the floating-point numbers {listed([f'{value:g}' for value in found])}; they are "
            "read as values to predict. For classes give whole numbers: y.astype(int)."]


def unseen_class_notes(train: Samples, held_out: Samples, source: str) -> list[str]:
    """Return a sentence if held-out samples are of classes that no training sample has."""
    if train.labels.dtype.is_floating_point:
        return []
    unseen = np.setdiff1d(held_out.labels.numpy(), train.labels.numpy()).tolist()
    if not unseen:
        return []
    return [f"No training sample of {source} is of class {listed([str(label) for label in unseen])}, which held-out "
            "samples have: the model cannot learn it."]
