"""Differential privacy of the averages of a run: its budget, and the noisy mean of the edges' models.

What is hidden is an edge's part in the averages: with its change of the model replaced by none, every outcome is about
as probable. All edges take part in every averaging, so nothing is gained by sampling.
Source: McMahan et al. 2018, "Learning Differentially Private Recurrent Language Models", algorithm 1, here without
sampling and with known weights; neighbours as in Kairouz et al. 2021, "Practical and Private (Deep) Learning without
Sampling or Shuffling", definition 2 (zeroing out).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from trainer.config.privacy_budget import averagings, parse_privacy_budget
from trainer.config.settings import RunSettings
from trainer.errors import UsageError
from trainer.privacy import fixed_point
from trainer.privacy.gaussian import clip, epsilon_spent, noise_multiplier, standard_normal
from trainer.records.run_record import RunRecord

Model = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class PrivateNoise:
    """Clipping norm of an edge's change, and standard deviation of the noise in units of its largest influence."""

    norm: float
    multiplier: float

    def std(self, weights: Sequence[float]) -> float:
        """Return the standard deviation of the noise of a mean with these weights."""
        return self.multiplier * self.norm * max(weights) / sum(weights)


class PrivacyAccount:
    """The budget of a run, spent by its averagings; repeated ones spend it, too."""

    def __init__(self, budget: str, settings: RunSettings, record: RunRecord) -> None:
        """Raises: UsageError."""
        self._record = record
        self._budget = parse_privacy_budget(budget, len(settings.edges))
        self._planned = averagings(settings.rounds, settings.average_every)
        self.noise = PrivateNoise(
            settings.dp_clip, noise_multiplier(self._budget.epsilon, self._budget.delta, self._planned))
        self._noise_by = "edges and cloud" if settings.secure_aggregation else "cloud"
        before = record.summary["privacy"]["dp"] or {}
        self.releases = int(before.get("averagings", 0))
        self._describe()

    @property
    def is_spent(self) -> bool:
        """Whether another averaging would exceed the budget."""
        return self.releases >= self._planned

    @property
    def spent(self) -> float:
        """The epsilon spent so far."""
        return epsilon_spent(self.noise.multiplier, self._budget.delta, self.releases)

    @property
    def sentence(self) -> str:
        """The guarantee, for people."""
        return (f"Differential privacy: the {self._planned} averagings together reveal at most epsilon "
                f"{self._budget.epsilon:g} (delta {self._budget.delta:g}) about the part of any one edge; updates are "
                f"clipped to {self.noise.norm:g}, and Gaussian noise of {self.noise.multiplier:.3g} times the largest "
                f"influence of an edge is added by the {self._noise_by}. Segments, labels and metrics are not covered.")

    def spend(self) -> None:
        """Record one averaging, before its result leaves the cloud."""
        self.releases += 1
        self._describe()

    def _describe(self) -> None:
        self._record.describe(privacy={
            **self._record.summary["privacy"],
            "dp": {
                "epsilon": self._budget.epsilon, "delta": self._budget.delta, "mechanism": "Gaussian", "unit": "edge",
                "sampling": "none: every edge takes part in every averaging", "noise_by": self._noise_by,
                "clip": self.noise.norm, "noise_multiplier": self.noise.multiplier, "averagings_planned": self._planned,
                "averagings": self.releases, "epsilon_spent": self.spent,
            },
        })


def private_mean(
    models: Sequence[Model], weights: Sequence[float], previous: Model, names: Sequence[str], norm: float,
    noise_std: float,
) -> dict[str, Tensor]:
    """Return the previous tensors of these names plus the weighted mean of the clipped changes and noise.

    `norm`: the L2 norm that all tensors of an edge are clipped to together; `noise_std`: of the mean.
    """
    total = sum(weights)
    change = noise_std * standard_normal(fixed_point.length_of(previous, names))
    for model, weight in zip(models, weights, strict=True):
        change += clip(fixed_point.changes(model, previous, names), norm) * (weight / total)
    return fixed_point.apply(change, previous, names)


def check_private_model(model: str, layers: Sequence[nn.Module]) -> None:
    """Check that a model keeps no statistics of its inputs, which would be published without noise or be useless.

    Raises: UsageError.
    """
    for layer in layers:
        for module in layer.modules():
            if getattr(module, "running_mean", None) is not None:
                raise UsageError(f"{model} has a {type(module).__name__}, which keeps statistics of its inputs; with "
                                 "--dp use GroupNorm or LayerNorm.")
            for name, parameter in module.named_parameters(recurse=False):
                if not torch.is_floating_point(parameter):
                    raise UsageError(f"{model} has the parameter {name} of type {parameter.dtype}; --dp needs real "
                                     "ones.")
