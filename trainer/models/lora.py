"""Low-rank adapters (LoRA): the frozen weight W of a linear layer or convolution acts as W + scale x B A.

A has the rank as its number of outputs, B as its number of inputs. B is 0 at first, so the model begins as it was.
Source: Hu et al. 2022, "LoRA: Low-Rank Adaptation of Large Language Models", equation 3; of convolutions, A has the
kernel and B is 1 x 1, as in PEFT, whose names and shapes these are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.config.fine_tuning import FineTuning, Lora
from trainer.errors import UsageError
from trainer.models.frozen import freeze, matches

SHOWN_NAMES = 4


PARTS = ("lora_A", "lora_B")
"""Names of an adapter's parameters."""


class Adapted(nn.Module):
    """Mixed into a module's class: its parameters `lora_A` and `lora_B`.

    `adapter_rows`: whose adapters apply to which rows, while the rows of several edges are in one batch. `lora_rank`:
    in training mode only so many rows of A and columns of B count (`trainer.models.lora_ranks`); None: all.
    """

    lora_A: nn.Parameter  # noqa: N815 - PEFT's names
    lora_B: nn.Parameter  # noqa: N815
    lora_scale: float
    lora_rank: int | None = None
    adapter_rows: AdapterRows | None = None

    def factors(self, room: int | None = None) -> tuple[Tensor, Tensor]:
        """Return A and B as far as they count, with zeros up to `room` rows."""
        if not self.training or self.lora_rank is None:
            return self.lora_A, self.lora_B
        first, second = self.lora_A[: self.lora_rank], self.lora_B[:, : self.lora_rank]
        if room is None:
            return first, second
        missing = room - self.lora_rank
        return functional.pad(first, (0, 0, 0, missing)), functional.pad(second, (0, missing))

    def added(self, values: Tensor) -> Tensor:
        """Return scale x B A x of all rows."""
        rows = self.adapter_rows
        return self.added_by(self, values) if rows is None else torch.cat(
            [self.added_by(module, part) for module, part in rows.split(values)])

    def added_by(self, module: Adapted, values: Tensor) -> Tensor:
        """Return what the adapter of this module or of a copy adds."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class AdapterRows:
    """Copies of a module, and of how many samples each one's adapter applies to the rows."""

    modules: Sequence[Adapted]
    samples: Sequence[int]

    def runs(self, values: Tensor) -> list[tuple[Adapted, int]]:
        """Return each copy with its number of rows; adjacent ones of the same copy together.

        Raises: RuntimeError if there is no whole number of rows for each sample.
        """
        rows_per_sample, rest = divmod(len(values), sum(self.samples))
        if rest:
            raise RuntimeError(f"{len(values)} rows are not those of {sum(self.samples)} samples")
        runs: list[tuple[Adapted, int]] = []
        for module, count in zip(self.modules, self.samples, strict=True):
            rows = count * rows_per_sample + (runs.pop()[1] if runs and runs[-1][0] is module else 0)
            runs.append((module, rows))
        return runs

    def split(self, values: Tensor) -> list[tuple[Adapted, Tensor]]:
        """Return each copy with its rows."""
        runs = self.runs(values)
        parts = torch.split(values, [rows for _, rows in runs])
        return [(module, part) for (module, _), part in zip(runs, parts, strict=True)]


class LoraLinear(nn.Linear, Adapted):
    """A linear layer with an adapter."""

    def forward(self, values: Tensor) -> Tensor:
        """Return x W + scale x A B of x (N, ..., inputs)."""
        outputs = functional.linear(values, self.weight, self.bias)
        if self.adapter_rows is None:  # torch.export traces this: no size may be read
            return outputs + self.added_by(self, values)
        runs = self.adapter_rows.runs(values)
        if len({rows for _, rows in runs}) > 1:
            return outputs + self.added(values)
        # All adapters at once, each on as many rows; what they add takes no memory of its own.
        ranks = {module.lora_rank for module, _ in runs}
        room = None if len(ranks) == 1 else max(rank or len(self.lora_A) for rank in ranks)
        factors = [module.factors(room) for module, _ in runs]
        first, second = torch.stack([pair[0] for pair in factors]), torch.stack([pair[1] for pair in factors])
        low = self.lora_scale * torch.bmm(values.reshape(len(runs), -1, self.in_features), first.mT)
        wide = outputs.reshape(len(runs), -1, self.out_features)
        return torch.baddbmm(wide, low, second.mT).view(outputs.shape)

    def added_by(self, module: Adapted, values: Tensor) -> Tensor:
        """Return scale x A B of x."""
        first, second = module.factors()
        return self.lora_scale * functional.linear(functional.linear(values, first), second)


class LoraConv1d(nn.Conv1d, Adapted):
    """A convolution of series with an adapter."""

    def forward(self, values: Tensor) -> Tensor:
        """Return the convolution of x (N, channels, T) plus the adapter's."""
        outputs: Tensor = self._conv_forward(values, self.weight, self.bias) + self.added(values)
        return outputs

    def added_by(self, module: Adapted, values: Tensor) -> Tensor:
        """Return what the adapter adds."""
        first, second = module.factors()
        return self.lora_scale * functional.conv1d(self._conv_forward(values, first, None), second)


class LoraConv2d(nn.Conv2d, Adapted):
    """A convolution of images with an adapter."""

    def forward(self, values: Tensor) -> Tensor:
        """Return the convolution of x (N, channels, H, W) plus the adapter's."""
        outputs: Tensor = self._conv_forward(values, self.weight, self.bias) + self.added(values)
        return outputs

    def added_by(self, module: Adapted, values: Tensor) -> Tensor:
        """Return what the adapter adds."""
        first, second = module.factors()
        return self.lora_scale * functional.conv2d(self._conv_forward(values, first, None), second)


ADAPTED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: LoraLinear, nn.Conv1d: LoraConv1d, nn.Conv2d: LoraConv2d,
}
"""Classes of modules that can have an adapter; not subclasses, whose forward pass may be another, nor grouped ones."""


def tune(model: nn.Module, tuning: FineTuning, name: str) -> None:
    """Freeze what is not trained and add the adapters.

    With adapters all else is frozen but the output layer: the last linear layer or convolution, unless a pattern names
    it as one with an adapter.

    Raises: UsageError if a pattern names nothing, or no module can have an adapter.
    """
    if tuning.lora is None:
        freeze(model, tuning.freeze, name)
        return
    able = {path: module for path, module in model.named_modules() if _can_be_adapted(module)}
    kept = [path for path in able if not matches(f"{path}.weight", tuning.freeze)]
    targets = tuning.lora.targets
    output = kept[-1] if kept and not _names(targets, kept[-1]) else None
    chosen = [path for path in kept if path != output and (not targets or _names(targets, path))]
    if not chosen:
        shown = ", ".join(list(able)[:SHOWN_NAMES]) or "none"
        raise UsageError(f"--lora finds no module of {name} for an adapter; its linear layers and convolutions are: "
                         f"{shown}. The last one is trained whole.")
    freeze(model, tuning.freeze, name)
    freeze(model, ["*"], name)
    for path in chosen:
        _add_adapter(able[path], tuning.lora)
    if output is not None:
        for parameter in able[output].parameters():
            parameter.requires_grad_()


def _can_be_adapted(module: nn.Module) -> bool:
    return type(module) in ADAPTED and getattr(module, "groups", 1) == 1


def _names(patterns: Sequence[str], path: str) -> bool:
    """Return whether a pattern names a module by its path or by the end of it, as in PEFT."""
    return any(fnmatchcase(path, pattern) or path.endswith(f".{pattern}") for pattern in patterns)


def _add_adapter(module: nn.Module, lora: Lora) -> None:
    weight = cast(nn.Parameter, module.weight)
    ends = weight.shape[2:]
    first = torch.empty(lora.rank, *weight.shape[1:], dtype=weight.dtype, device=weight.device)
    nn.init.kaiming_uniform_(first, a=math.sqrt(5))
    second = torch.zeros(weight.shape[0], lora.rank, *[1] * len(ends), dtype=weight.dtype, device=weight.device)
    module.register_parameter("lora_A", nn.Parameter(first))
    module.register_parameter("lora_B", nn.Parameter(second))
    module.__dict__["lora_scale"] = lora.scale
    module.__class__ = ADAPTED[type(module)]
    # PyTorch's fused encoder layer would read the weight and leave the adapter out; a hook switches it off.
    module.register_forward_hook(_no_hook)


def _no_hook(_module: nn.Module, _inputs: Any, _outputs: Any) -> None:
    """Change nothing."""


def adapters(model: nn.Module) -> dict[str, Adapted]:
    """Return the modules with an adapter, by path."""
    return {path: module for path, module in model.named_modules() if isinstance(module, Adapted)}


def merge(model: nn.Module) -> None:
    """Add every adapter to its weight and remove it: the model has the modules and names it had without adapters."""
    for module in adapters(model).values():
        weight = cast(nn.Parameter, module.weight)
        with torch.no_grad():
            added = module.lora_B.flatten(1) @ module.lora_A.flatten(1)
            weight.add_(module.lora_scale * added.view_as(weight))
        del module.lora_A, module.lora_B, module.__dict__["lora_scale"]
        module.__dict__.pop("lora_rank", None)
        module._forward_hooks = type(module._forward_hooks)(
            (key, hook) for key, hook in module._forward_hooks.items() if hook is not _no_hook)
        plain = next(plain for plain, adapted in ADAPTED.items() if adapted is type(module))
        module.__class__ = plain  # type: ignore[assignment]
