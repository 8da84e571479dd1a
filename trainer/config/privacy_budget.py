"""What `--dp` says: the budget (epsilon, delta) of differential privacy for the averages of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainer.errors import UsageError

DEFAULT_DELTA = 1e-5
FORM = "write EPSILON or EPSILON,DELTA, such as 8 or 8,1e-6"


@dataclass(frozen=True, slots=True)
class PrivacyBudget:
    """Privacy loss epsilon, exceeded with probability delta at most."""

    epsilon: float
    delta: float


def parse_privacy_budget(text: str, edges: int) -> PrivacyBudget:
    """Parse `--dp` of a run with that many edges.

    Raises: UsageError.
    """
    epsilon, _, delta = text.partition(",")
    try:
        budget = PrivacyBudget(float(epsilon), float(delta) if delta else DEFAULT_DELTA)
    except ValueError:
        raise UsageError(f"--dp is {text!r}; {FORM}.") from None
    if not 0 < budget.epsilon < math.inf:
        raise UsageError(f"--dp has epsilon {budget.epsilon:g}; it must be finite and above 0.")
    if not 0 < budget.delta < 1 / max(1, edges):
        raise UsageError(f"--dp has delta {budget.delta:g}; it must lie between 0 and 1/{edges}, one over the number "
                         "of edges: above, publishing one edge's model at random would be private.")
    return budget


def averagings(rounds: int, average_every: int) -> int:
    """Return how many averagings a run of that many rounds has: the last round always ends with one."""
    return -(-rounds // average_every)
