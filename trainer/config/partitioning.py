"""The built-in data sets by name, and how edges partition a data set. Imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from trainer.errors import UsageError

DATA_SETS = {
    "traffic-lights": "photographs of traffic lights, 3 classes",
    "tennessee-eastman": "52 variables of a simulated chemical plant, 21 faults",
    "tennessee-eastman-features": "mean, deviation, trend and deviation of differences of these variables",
    "fashion-mnist": "grey images of clothing, 10 classes",
    "debian-sections": "descriptions of Debian packages, 12 sections of the archive",
}
"""The built-in data sets; each is a task of its own."""

DATA_HELP = ("Data set: traffic-lights, tennessee-eastman (a simulated plant), tennessee-eastman-features (four "
             "numbers of each variable), fashion-mnist, debian-sections (text); or your own, as FILE.npz, a folder of "
             "images (one subfolder for each class) or package.module:function.")
COLLECT_HELP = ("The data grows: an edge joins when it has this number of training samples, and new ones join at the "
                "next averaging. --data is a folder of images, FILE.npz, or a function that returns an iterator of "
                "samples.")
PARTITION_HELP = "How edges partition the data: iid, dirichlet:ALPHA, or column (the data's own column 'edge')."

CUSTOM_TASK = "own"


def task_of(data: str) -> str:
    """Return the task that edges and cloud must agree on: the built-in data set's name, or CUSTOM_TASK."""
    return data if data in DATA_SETS else CUSTOM_TASK


@dataclass(frozen=True, slots=True)
class Partitioning:
    """How a data set is partitioned over the edges.

    `iid`: shuffled and dealt evenly. `dirichlet`: each class in proportions drawn from a Dirichlet distribution of
    concentration `alpha`; the smaller, the more the edges differ. `column`: by the data's column `edge`.
    """

    kind: Literal["iid", "dirichlet", "column"]
    alpha: float = math.inf


IID = Partitioning("iid")


def parse_partitioning(text: str) -> Partitioning:
    """Parse `iid`, `dirichlet:ALPHA` or `column`.

    Raises: UsageError if the text is none of these.
    """
    kind, colon, rest = text.partition(":")
    if kind in ("iid", "column") and not colon:
        return Partitioning("iid" if kind == "iid" else "column")
    try:
        alpha = float(rest) if kind == "dirichlet" else 0.0
    except ValueError:
        alpha = 0.0
    if not 0 < alpha < math.inf:
        raise UsageError(f"--partition is {text!r}; it must be iid, column, or dirichlet:ALPHA such as dirichlet:0.5.")
    return Partitioning("dirichlet", alpha)
