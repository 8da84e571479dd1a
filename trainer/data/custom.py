"""User data: arrays from a .npz file or a function, validated before use.

    X      (N, F), (N, C, T) or (N, C, H, W): numbers; uint8 is kept, other whole numbers become int64, the rest float32
    y      left out where X is token ids (N, tokens + 1): each token's class is then the next token
           (N,): the class of each sample, counted from 0, or (N, ...): of each of its parts, such as tokens or pixels;
           or values to predict: floating-point numbers of any shape (N, ...), or labels 0 and 1 of shape (N, labels)
    split  (N,), optional: "train" or "test"; without it a fifth, drawn by the seed, is held out
    edge   (N,), optional: the edge that a sample belongs to, for --partition column
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from trainer.data.dataset import DataSet, Samples, listed
from trainer.data.target_notes import unseen_class_notes, value_notes
from trainer.errors import DataError
from trainer.plugins import load_function

Arrays = dict[str, npt.NDArray[np.generic]]

ARRAY_NAMES = ("X", "y", "split", "edge")
DIMENSIONS = "(N, F), (N, C, T) or (N, C, H, W)"
CHANNELS = (1, 3, 4)
"""Channels of images: grey, red-green-blue, and with transparency."""
MAX_FEATURES = 1000
"""The moments of all features must fit into the header of a training request."""
MAX_SIDE = 2**16
MAX_WHOLE_NUMBER = 2**53
"""Beyond it, statistics in double precision are not exact."""
MAX_CLASSES = 256
"""Labels are sent as bytes."""
MAX_VOCABULARY = 2**18
MAX_TARGETS = 2**20
"""Values to predict for a sample."""
HELD_OUT_SHARE = 0.2


def from_file(path: str, seed: int) -> DataSet:
    """Load the data of a .npz file; pickled objects are refused.

    Raises: DataError if it is missing or not as described.
    """
    try:
        arrays = read_arrays(Path(path).expanduser())
    except FileNotFoundError:
        raise DataError(f"there is no file {path}.") from None
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as error:
        raise DataError(f"{path} cannot be read as a .npz file of plain arrays: {error}.") from error
    return to_data_set(arrays, path, seed)


def read_arrays(path: Path) -> Arrays:
    """Read the arrays of a .npz file without pickled objects.

    Raises: OSError, ValueError, zipfile.BadZipFile or EOFError.
    """
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        raise ValueError("it holds a single array, as a .npy file does")
    with loaded as file:
        return {name: _read_array(file, name) for name in file.files}


def _read_array(file: np.lib.npyio.NpzFile, name: str) -> npt.NDArray[np.generic]:
    """Return an array of a file; of one that nobody needs and that cannot be read nothing.

    Raises: ValueError.
    """
    try:
        array: npt.NDArray[np.generic] = file[name]
    except ValueError as error:
        if name not in ARRAY_NAMES:
            return np.empty(0)
        if "Object arrays" in str(error):
            raise ValueError(f"{name} is an array of Python objects; save plain numbers, or text as "
                             "np.array(values, dtype=str)") from error
        raise
    return array


def from_function(name: str, seed: int) -> DataSet:
    """Load the data that a user function returns: (X, y), or a mapping with the keys of a .npz file.

    Raises: DataError if the data is not as described, UsageError if there is no such function.
    """
    content = load_function(name)(seed=seed)
    if isinstance(content, Iterator):
        raise DataError(f"{name} returned an iterator, whose samples arrive one by one; give --collect N, the number "
                        "of samples with which an edge begins.")
    if isinstance(content, tuple) and len(content) == 2:
        content = {"X": content[0], "y": content[1]}
    if not isinstance(content, Mapping):
        raise DataError(f"{name} returned {type(content).__name__}; it must return (X, y), or a mapping with X and y.")
    return to_data_set({str(key): to_array(value, str(key), name) for key, value in content.items()}, name, seed)


def to_array(value: object, key: str, source: str) -> npt.NDArray[np.generic]:
    """Return an array or tensor of the user as an array.

    Raises: DataError.
    """
    try:
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu()
        if np.ma.is_masked(value):
            raise DataError(f"{key} of {source} is a masked array with values left out; fill them, or leave their "
                            "samples out.")
        return np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise DataError(f"{key} of {source} is {type(value).__name__}, not an array: {error}") from error


def to_data_set(arrays: Arrays, source: str, seed: int) -> DataSet:
    """Validate the arrays and divide them into training and held-out samples.

    Raises: DataError that says what is wrong, and where.
    """
    notes = _check_names(arrays, source)
    if is_sequences(arrays):
        arrays = {**arrays, **_next_tokens(arrays["X"], source)}
        vocabulary = int(max(arrays["X"].max(), arrays["y"].max())) + 1
    else:
        vocabulary = None
    values = arrays["X"]
    if has_channels_last(values.shape):
        values = values.transpose(0, 3, 1, 2)
        notes.append(f"X of {source} has its channels last; it is read as (N, C, H, W) = {values.shape}.")
    inputs = check_inputs(values, source)
    labels = check_targets(arrays["y"], len(inputs), source) if vocabulary is None else arrays["y"]
    if labels.dtype == np.int64 and labels.shape[1:] == (1,):
        labels = labels.ravel()
        notes.append(f"y of {source} has the shape {arrays['y'].shape}; it is read as one class of each sample.")
    if labels.dtype == np.int64 and vocabulary is None:
        notes += _check_classes(labels, source)
    if labels.dtype != np.int64:
        notes += value_notes(arrays["y"], source)
    for name in ARRAY_NAMES[2:]:
        if name in arrays and arrays[name].shape != (len(inputs),):
            raise DataError(f"X of {source} has {len(inputs)} samples and {name} the shape {arrays[name].shape}; it "
                            f"must be ({len(inputs)},).")
    held_out = _held_out(arrays.get("split"), len(inputs), source, seed)
    for kind, count in (("training", (~held_out).sum()), ("held-out", held_out.sum())):
        if not count:
            raise DataError(f"{source} has no {kind} sample.")
    parts = [Samples(torch.from_numpy(inputs[rows]), torch.from_numpy(labels[rows])) for rows in (~held_out, held_out)]
    edge = arrays.get("edge")
    if edge is not None and edge.dtype.kind == "f" and np.isnan(edge).any():
        raise DataError(f"edge of {source} holds NaN in row {int(np.flatnonzero(np.isnan(edge))[0])}; it must name the "
                        "edge of every sample.")
    notes += unseen_class_notes(parts[0], parts[1], source) if vocabulary is None else []
    outputs = vocabulary or int(labels.max()) + 1 if labels.dtype == np.int64 else int(np.prod(labels.shape[1:]))
    return DataSet(parts[0], parts[1], outputs,
                   None if edge is None else (edge[~held_out], edge[held_out]), tuple(notes), vocabulary=vocabulary)


def is_sequences(arrays: Arrays) -> bool:
    """Return whether the data is sequences of token ids without targets."""
    values = arrays.get("X")
    return "y" not in arrays and values is not None and values.dtype.kind in "iu" and values.ndim == 2


def _next_tokens(ids: npt.NDArray[np.generic], source: str) -> Arrays:
    """Return inputs and, as their classes, the token behind each.

    Raises: DataError.
    """
    if ids.shape[1] < 2 or not len(ids):
        raise DataError(f"X of {source} has the shape {ids.shape}; without y it is token ids, and a sequence has at "
                        "least two.")
    least, greatest = int(ids.min()), int(ids.max())
    if least < 0 or not 1 <= greatest < MAX_VOCABULARY:
        raise DataError(f"X of {source} holds whole numbers from {least} to {greatest}; without y it is token ids, "
                        f"which count from 0 to at most {MAX_VOCABULARY - 1}.")
    tokens = ids.astype(np.int64)
    return {"X": np.ascontiguousarray(tokens[:, :-1]), "y": np.ascontiguousarray(tokens[:, 1:])}


def has_channels_last(shape: tuple[int, ...]) -> bool:
    """Return whether inputs of this shape are images (N, H, W, C)."""
    return len(shape) == 4 and shape[3] in CHANNELS and shape[1] not in CHANNELS


def _check_names(arrays: Arrays, source: str) -> list[str]:
    """Return a sentence if there are arrays that are left out."""
    for name in ARRAY_NAMES[: 1 if is_sequences(arrays) else 2]:
        if name not in arrays:
            raise DataError(f"{source} has no array {name}; it has: {', '.join(sorted(arrays)) or 'none'}.")
    if unknown := sorted(set(arrays) - set(ARRAY_NAMES)):
        return [f"{source} has more arrays than {', '.join(ARRAY_NAMES)}; left out: {', '.join(unknown)}."]
    return []


def check_inputs(values: npt.NDArray[np.generic], source: str) -> npt.NDArray[np.generic]:
    """Return inputs (N, features, ...) as uint8, int64 or float32.

    Raises: DataError.
    """
    if values.dtype.kind not in "buif":
        raise DataError(f"X of {source} is of type {values.dtype}; it must be numbers.")
    if not 2 <= values.ndim <= 4 or 0 in values.shape:
        raise DataError(f"X of {source} has the shape {values.shape}; it must be {DIMENSIONS}, none of them 0.")
    if values.shape[1] > MAX_FEATURES or max(values.shape[1:]) > MAX_SIDE:
        raise DataError(f"X of {source} has the shape {values.shape}; at most {MAX_FEATURES} features (the second "
                        f"dimension) and {MAX_SIDE} in any other are allowed.")
    if values.dtype == np.uint8:
        return np.ascontiguousarray(values)
    if values.dtype.kind in "iu":
        if values.max() > MAX_WHOLE_NUMBER or values.min() < -MAX_WHOLE_NUMBER:
            raise DataError(f"X of {source} holds whole numbers from {values.min()} to {values.max()}; they must lie "
                            f"within {MAX_WHOLE_NUMBER} of 0.")
        return np.ascontiguousarray(values, dtype=np.int64)
    with np.errstate(over="ignore"):
        numbers = np.ascontiguousarray(values, dtype=np.float32)
    bad = ~np.isfinite(numbers)
    if bad.any():
        row, feature = np.argwhere(bad)[0][:2]
        raise DataError(f"X of {source} holds {bad.sum()} values that are NaN, infinite or too large for single "
                        f"precision; the first is in row {row}, feature {feature}.")
    return numbers


def check_targets(
    values: npt.NDArray[np.generic], samples: int, source: str
) -> npt.NDArray[np.int64] | npt.NDArray[np.float32]:
    """Return classes (N, ...), or values (N, ...) of at least two dimensions.

    Raises: DataError.
    """
    if values.dtype.kind not in "buif":
        raise DataError(f"y of {source} is of type {values.dtype}; it must be whole numbers, classes counted from 0, "
                        "or floating-point numbers to predict.")
    if values.shape[:1] != (samples,) or 0 in values.shape:
        raise DataError(f"X of {source} has {samples} samples and y the shape {values.shape}; it must be ({samples},), "
                        f"or ({samples}, ...) for several values of a sample.")
    if values.dtype.kind == "f" or (values.ndim > 1 and np.isin(values, (0, 1)).all()):
        return _target_values(values, source)
    if (count := int(np.prod(values.shape[1:]))) > MAX_TARGETS:
        raise DataError(f"y of {source} has {count} classes for each sample; at most {MAX_TARGETS} are allowed.")
    if values.size and not 0 <= values.min() <= values.max() < MAX_CLASSES:
        raise DataError(f"y of {source} holds the classes {values.min()} to {values.max()}; they must lie between "
                        f"0 and {MAX_CLASSES - 1}; numbers to predict are given as floating-point numbers.")
    return values.astype(np.int64)


def _check_classes(labels: npt.NDArray[np.generic], source: str) -> list[str]:
    """Return a sentence if classes between 0 and the greatest have no sample."""
    classes = np.unique(labels)
    if len(classes) < 2:
        raise DataError(f"y of {source} holds {len(classes)} class{'es' if not len(classes) else ''}; at least two are "
                        "needed.")
    greatest = int(classes[-1])
    if len(classes) == greatest + 1:
        return []
    missing = np.setdiff1d(np.arange(greatest), classes)
    return [f"y of {source} holds {len(classes)} classes, {listed([str(label) for label in classes])}; the model gets "
            f"outputs for {greatest + 1}, as classes count from 0: {listed([str(label) for label in missing])} "
            f"{'has' if len(missing) == 1 else 'have'} no sample."]


def _target_values(values: npt.NDArray[np.generic], source: str) -> npt.NDArray[np.float32]:
    if (count := int(np.prod(values.shape[1:]))) > MAX_TARGETS:
        raise DataError(f"y of {source} has {count} values for each sample; at most {MAX_TARGETS} are allowed.")
    with np.errstate(over="ignore"):
        numbers = np.ascontiguousarray(values, dtype=np.float32)
    bad = ~np.isfinite(numbers)
    if bad.any():
        raise DataError(f"y of {source} holds {bad.sum()} values that are NaN, infinite or too large for single "
                        f"precision; the first is in row {np.argwhere(bad)[0][0]}.")
    return numbers[:, None] if numbers.ndim == 1 else numbers


def _held_out(split: npt.NDArray[np.generic] | None, samples: int, source: str, seed: int) -> npt.NDArray[np.bool_]:
    if split is None:
        held_out = np.zeros(samples, dtype=bool)
        held_out[np.random.default_rng(seed).permutation(samples)[: max(1, round(samples * HELD_OUT_SHARE))]] = True
        return held_out
    names = split.astype(str)
    if unknown := sorted(set(names.tolist()) - {"train", "test"}):
        raise DataError(f"split of {source} holds {unknown[0]!r}; it must be \"train\" or \"test\".")
    return np.asarray(names == "test")
