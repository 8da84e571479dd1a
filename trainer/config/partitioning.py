"""What data there is, and the ways in which edges share it. Imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from trainer.errors import UsageError

DATA = {
    "traffic-lights": "photographs of traffic lights, 3 classes",
    "tennessee-eastman": "52 variables of a simulated chemical plant, 21 faults",
    "fashion-mnist": "grey images of clothing, 10 classes",
}
"""The data sets that come by name; each is a task of its own."""

DATA_HELP = ("The data: traffic-lights, tennessee-eastman (a simulated plant), fashion-mnist; or your own, as FILE.npz "
             "or package.module:function.")
PARTITION_HELP = "How edges share the data: iid, dirichlet:ALPHA, or column (its own column 'edge')."

OWN_TASK = "own"


def task_of(data: str) -> str:
    """The task that edges and cloud must agree on: the name of the data set, or that it is somebody's own."""
    return data if data in DATA else OWN_TASK


@dataclass(frozen=True, slots=True)
class Sharing:
    """How one data set is shared out over the edges.

    `iid`: a shuffle, dealt out evenly. `dirichlet`: each class by shares drawn from a Dirichlet distribution of
    concentration `alpha`; the smaller, the more the edges differ. `column`: by the data's own column `edge`.
    """

    kind: Literal["iid", "dirichlet", "column"]
    alpha: float = math.inf


IID = Sharing("iid")


def parse_sharing(text: str) -> Sharing:
    """`iid`, `dirichlet:ALPHA` or `column`.

    Raises: UsageError if it is none of these.
    """
    kind, colon, rest = text.partition(":")
    if kind in ("iid", "column") and not colon:
        return Sharing("iid" if kind == "iid" else "column")
    try:
        alpha = float(rest) if kind == "dirichlet" else 0.0
    except ValueError:
        alpha = 0.0
    if not 0 < alpha < math.inf:
        raise UsageError(f"--partition is {text!r}; it must be iid, column, or dirichlet:ALPHA such as dirichlet:0.5.")
    return Sharing("dirichlet", alpha)
