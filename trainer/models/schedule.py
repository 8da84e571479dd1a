"""Learning rates of every mini-batch by PyTorch's own schedulers.

A rate follows from the number of the mini-batch alone, so that layers which move, edges that rejoin and runs that
resume have the rate of unsplit training, where the scheduler steps after each mini-batch.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch.optim import lr_scheduler

from trainer.config.objectives import Schedule


def build_scheduler(schedule: Schedule, optimizer: torch.optim.Optimizer) -> lr_scheduler.LRScheduler:
    """Return PyTorch's scheduler, which steps after each mini-batch."""
    match schedule.kind:
        case "linear":
            return lr_scheduler.LinearLR(optimizer, 1.0, 0.0, schedule.steps)
        case "cosine":
            return lr_scheduler.CosineAnnealingLR(optimizer, schedule.steps)
        case "step" | "exponential":
            return lr_scheduler.StepLR(optimizer, schedule.steps, schedule.factor)
        case "constant":
            return lr_scheduler.ConstantLR(optimizer, 1.0)


class _Rates:
    """The rates of all mini-batches so far; extended on demand."""

    def __init__(self, schedule: Schedule, learning_rate: float) -> None:
        self._optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=learning_rate)
        self._scheduler = build_scheduler(schedule, self._optimizer)
        self._rates = [float(self._scheduler.get_last_lr()[0])]

    def at(self, number: int) -> float:
        while len(self._rates) <= number:
            self._optimizer.step()  # the scheduler warns without
            self._scheduler.step()
            self._rates.append(float(self._scheduler.get_last_lr()[0]))
        return self._rates[number]


@lru_cache(maxsize=16)
def _rates(schedule: Schedule, learning_rate: float) -> _Rates:
    return _Rates(schedule, learning_rate)


def rate_of(schedule: Schedule, learning_rate: float, number: int) -> float:
    """Return the learning rate of mini-batch `number`, from 0."""
    return learning_rate if schedule.kind == "constant" else _rates(schedule, learning_rate).at(number)
