"""Modules that users bring and that are easily divided wrongly."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, weight_norm


def linear(inputs: int = 8, outputs: int = 8) -> nn.Linear:
    return nn.Linear(inputs, outputs)


class Sign(torch.autograd.Function):
    """The sign, whose gradient is passed straight through where the input is small."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, limit: float) -> Tensor:
        """Return the sign."""
        ctx.save_for_backward(values)
        ctx.limit = limit
        return values.sign()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        """Pass the gradient on."""
        (values,) = ctx.saved_tensors
        return gradients[0] * (values.abs() < ctx.limit), None


class StraightThrough(nn.Module):
    """A user's autograd function, in the model itself and in a part of it."""

    def __init__(self, inner: nn.Module | None = None) -> None:
        super().__init__()
        self.a, self.b, self.inner = linear(), linear(8, 3), inner

    def forward(self, values: Tensor) -> Tensor:
        """Apply the function between the linear layers."""
        values = Sign.apply(self.a(values), 0.5)  # type: ignore[no-untyped-call]
        outputs: Tensor = self.b(values if self.inner is None else values + self.inner(values).sum(1, keepdim=True))
        return outputs


class Outputs(NamedTuple):
    """What a model returns."""

    logits: Tensor
    hidden: Tensor | None


class Named(nn.Module):
    """Returns a named tuple, or a mapping, with one tensor."""

    def __init__(self, as_mapping: bool = False) -> None:
        super().__init__()
        self.a, self.b, self.as_mapping = linear(), linear(8, 3), as_mapping

    def forward(self, values: Tensor) -> Any:
        """Run both layers."""
        logits = self.b(self.a(values).relu())
        return {"logits": logits} if self.as_mapping else Outputs(logits, None)


class Fourier(nn.Module):
    """Complex parameters, and complex values that cross a cut."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = linear(), linear(8, 3)
        self.filter = nn.Parameter(torch.randn(5, 8, dtype=torch.complex64))

    def forward(self, values: Tensor) -> Tensor:
        """Filter in the frequency domain."""
        outputs: Tensor = self.b((torch.fft.rfft(self.a(values)) @ self.filter).abs())
        return outputs


class Normed(nn.Module):
    """Weights that are computed from others before every pass."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = weight_norm(linear()), parametrizations.weight_norm(linear())
        self.c, self.d = parametrizations.spectral_norm(linear()), parametrizations.orthogonal(linear())
        self.head = linear(8, 3)

    def forward(self, values: Tensor) -> Tensor:
        """Run all."""
        outputs: Tensor = self.head(self.d(self.c(self.b(self.a(values)).relu()).tanh()))
        return outputs


class HardMixture(nn.Module):
    """Experts that run on some of the samples: how many depends on the values."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.head = linear(8, 2), linear(8, 3)
        self.experts = nn.ModuleList([linear(), linear()])

    def forward(self, values: Tensor) -> Tensor:
        """Let every sample's best expert answer."""
        best = self.gate(values).argmax(-1)
        answers = torch.zeros_like(values)
        for number, expert in enumerate(self.experts):
            chosen = best == number
            answers[chosen] = expert(values[chosen])
        outputs: Tensor = self.head(answers)
        return outputs


class StochasticDepth(nn.Module):
    """Leaves itself out at random, decided in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = linear()

    def forward(self, values: Tensor) -> Tensor:
        """Skip in training, in one case of two."""
        if self.training and torch.rand(()).item() < 0.5:
            return values
        outputs: Tensor = self.inner(values) + values
        return outputs


class Deep(nn.Module):
    """Several parts that decide at random."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([StochasticDepth() for _ in range(4)])
        self.head = linear(8, 3)

    def forward(self, values: Tensor) -> Tensor:
        """Run all."""
        for part in self.parts:
            values = part(values)
        outputs: Tensor = self.head(values)
        return outputs


class Tied(nn.Module):
    """The table of the tokens is also the weight of a later layer."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.mix, self.out = nn.Embedding(90, 8, padding_idx=0), linear(), nn.Linear(8, 90, bias=False)
        self.out.weight = self.table.weight
        self.head = linear(90, 3)

    def forward(self, values: Tensor) -> Tensor:
        """Score every token, then classify their mean."""
        outputs: Tensor = self.head(self.out(self.mix(self.table(values)).relu()).mean(1))
        return outputs


class Unpooled(nn.Module):
    """Indices of a pooling cross the cuts."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.mix, self.head = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1), linear(256, 3)
        self.pool, self.unpool = nn.MaxPool2d(2, return_indices=True), nn.MaxUnpool2d(2)

    def forward(self, values: Tensor) -> Tensor:
        """Pool and undo it."""
        values, indices = self.pool(self.down(values))
        outputs: Tensor = self.head(self.unpool(self.mix(values), indices).flatten(1))
        return outputs


class Expanded(nn.Module):
    """A buffer whose values share one place in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = linear(), linear(8, 3)
        self.register_buffer("scale", torch.full((1,), 2.0).expand(8))

    def forward(self, values: Tensor) -> Tensor:
        """Scale."""
        outputs: Tensor = self.b(self.a(values) * self.get_buffer("scale"))
        return outputs


class Counting(nn.Module):
    """Counts its calls in a number, not in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, values: Tensor) -> Tensor:
        """Scale by the number of calls."""
        self.calls += 1
        return values * (1 + 0.1 * self.calls)


class Remembering(nn.Module):
    """Keeps its last values."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = linear(), linear(8, 3)
        self.last: Tensor | None = None

    def forward(self, values: Tensor) -> Tensor:
        """Add the mean of the last call."""
        values = self.a(values)
        if self.last is not None:
            values = values + self.last.mean()
        self.last = values.detach()
        outputs: Tensor = self.b(values)
        return outputs


class OwnGenerator(nn.Module):
    """Draws from a random generator of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)

    def forward(self, values: Tensor) -> Tensor:
        """Drop some values."""
        return values * (torch.rand(values.shape, generator=self.generator) > 0.2) if self.training else values


class Autocast(nn.Module):
    """Computes a layer in another precision; a graph of torch.fx does not."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = linear(), linear(8, 3)

    def forward(self, values: Tensor) -> Tensor:
        """Run the first layer in half of the bits."""
        with torch.autocast("cpu", dtype=torch.bfloat16):
            values = self.a(values)
        outputs: Tensor = self.b(values.float())
        return outputs


def with_buffer(value: Tensor) -> nn.Module:
    model = nn.Sequential(linear(), linear(8, 3))
    model[0].register_buffer("extra", value)
    return model


def with_gradient_hook() -> nn.Module:
    model = nn.Sequential(linear(), linear(8, 3))
    next(model.parameters()).register_hook(lambda gradient: 2 * gradient)  # type: ignore[no-untyped-call]
    return model


def made_for_inference() -> nn.Module:
    with torch.inference_mode():
        return nn.Sequential(linear(), linear(8, 3))


def with_attribute(value: object) -> nn.Module:
    model = nn.Sequential(linear(), linear(8, 3))
    model.extra = value  # type: ignore[assignment]
    return model


class TwoLast(nn.Module):
    """The last of a chain, with its tensor in a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.head = linear(8, 3)

    def forward(self, values: Tensor) -> dict[str, Tensor]:
        """Classify."""
        return {"logits": self.head(values)}
