"""From what `--data` says to an edge's share of it."""

from __future__ import annotations

from trainer.config.partitioning import Partitioning
from trainer.data import builtin, custom
from trainer.data.dataset import DataSet, LocalData, share_out
from trainer.errors import DataError
from trainer.plugins import is_plugin_name


def load_local(data: str, sharing: Partitioning, name: str, index: int, edges: int, seed: int) -> LocalData:
    """The share of the edge `name`, which is number `index` of `edges`.

    Raises: DataError that names the edge, if the data is missing, not as described, or not enough for it.
    """
    try:
        return share_out(load(data, seed), sharing, index, edges, seed)
    except DataError as error:
        raise DataError(f"{name}: {error}") from error


def load(data: str, seed: int) -> DataSet:
    """A data set by its name, from a file FILE.npz, or from a function `package.module:function`.

    Raises: DataError if it is missing or not as described, UsageError if the function is.
    """
    if data in builtin.SOURCES:
        return builtin.SOURCES[data]()
    if is_plugin_name(data):
        return custom.from_function(data, seed)
    if data.endswith(".npz"):
        return custom.from_file(data, seed)
    raise DataError(
        f"There is no data {data!r}; there is: {', '.join(builtin.SOURCES)}, and your own as FILE.npz or "
        "package.module:function."
    )
