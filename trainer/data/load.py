"""Loads an edge's share of the data named by `--data`."""

from __future__ import annotations

from trainer.config.partitioning import Partitioning
from trainer.data import builtin, custom, folder
from trainer.data.dataset import DataSet, LocalData, local_share
from trainer.errors import DataError, UsageError
from trainer.plugins import is_plugin_name

_preloaded: dict[tuple[str, int], DataSet] = {}


def preload(data: str, seed: int) -> DataSet:
    """Load a data set and keep it for `load`, here and in processes that are forked from this one.

    A built-in one that is kept already is not loaded again.
    """
    known = _preloaded.get((data, seed)) if data in builtin.LOADERS else None
    _preloaded.clear()
    _preloaded[data, seed] = loaded = load(data, seed) if known is None else known
    return loaded


def preloaded(data: str, seed: int) -> DataSet | None:
    """Return a data set that `preload` has kept, here or in the process that this one was forked from."""
    return _preloaded.get((data, seed))


def load_local(data: str, partitioning: Partitioning, name: str, index: int, edges: int, seed: int) -> LocalData:
    """Load the share of the edge `name`, number `index` of `edges`.

    Raises: DataError, naming the edge, if the data is missing, not as described, or not enough.
    """
    try:
        return local_share(load(data, seed), partitioning, index, edges, seed)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def load(data: str, seed: int) -> DataSet:
    """Load a built-in data set by name, a file FILE.npz, or the result of a function `package.module:function`.

    Raises: DataError if the data is missing or not as described; UsageError if there is no such data set or function.
    """
    if (data, seed) in _preloaded:
        return _preloaded[data, seed]
    if data in builtin.LOADERS:
        return builtin.LOADERS[data]()
    if is_plugin_name(data):
        return custom.from_function(data, seed)
    if data.endswith(".npz"):
        return custom.from_file(data, seed)
    if folder.is_folder_name(data):
        return folder.from_folder(data, seed)
    raise UsageError(
        f"There is no data set {data!r}; there are: {', '.join(builtin.LOADERS)}, and your own as FILE.npz, a folder "
        "of images or package.module:function."
    )
