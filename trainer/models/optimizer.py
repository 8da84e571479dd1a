"""Optimiser settings of a run; every layer uses the same ones, on either side of the cut."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn

from trainer.config.objectives import Schedule
from trainer.models import without_compiler  # noqa: F401 - before the first optimizer is made
from trainer.models.schedule import rate_of

OptimizerName = Literal["sgd", "momentum", "adam", "adamw"]

_ADAM_STATE = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True, slots=True)
class OptimizerConfig:
    """Optimiser, learning rate with its schedule, and L2 regularization (`weight_decay`).

    `proximal`: weight mu of the term mu/2 |w - w_global|^2 in the loss of every edge. Source: Li et al. 2020,
    "Federated Optimization in Heterogeneous Networks", equation 2 (FedProx). `reset`: discard the optimiser's moments
    at every averaging; else each edge keeps its own.
    """

    name: OptimizerName = "adamw"
    learning_rate: float = 1e-3
    weight_decay: float = 1e-4
    schedule: Schedule = field(default_factory=Schedule)
    proximal: float = 0.0
    reset: bool = True

    @property
    def values_per_parameter(self) -> int:
        """Values transferred per parameter when a layer moves: the parameter and its optimiser state."""
        return {"sgd": 1, "momentum": 2, "adam": 3, "adamw": 3}[self.name]

    @property
    def values_per_averaged_parameter(self) -> int:
        """Values transferred per parameter at an averaging."""
        return 1 if self.reset else self.values_per_parameter

    @property
    def state_names(self) -> tuple[str, ...]:
        """Names of the tensors that the optimiser keeps for a parameter once it has made a step."""
        return {"sgd": (), "momentum": ("momentum_buffer",), "adam": _ADAM_STATE, "adamw": _ADAM_STATE}[self.name]

    def rate(self, number: int) -> float:
        """Return the learning rate of mini-batch `number` of the run, from 0."""
        return rate_of(self.schedule, self.learning_rate, number)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Create the optimiser for the parameters of one layer."""
        rate, decay, values = self.learning_rate, self.weight_decay, list(parameters)
        # One call of a kernel for a step instead of a dozen for every parameter; it takes no complex numbers.
        fused = all(value.is_floating_point() for value in values)
        match self.name:
            case "sgd":
                return torch.optim.SGD(values, lr=rate, weight_decay=decay)
            case "momentum":
                return torch.optim.SGD(values, lr=rate, momentum=0.9, weight_decay=decay)
            case "adam":
                return torch.optim.Adam(values, lr=rate, weight_decay=decay, fused=fused)
            case "adamw":
                return torch.optim.AdamW(values, lr=rate, weight_decay=decay, fused=fused)
