"""Checks before a run that a model which predicts next tokens does not see them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from trainer.errors import UsageError
from trainer.models.objective import classes_second
from trainer.models.values import Values

SEQUENCES = 2
RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE = 1e-3, 1e-4


def check_causal(
    layers: Sequence[nn.Module], name: str, batch: Callable[[int], Tensor], integers: tuple[int, int] | None
) -> None:
    """Change the last token of sequences; only the last output may change. In evaluation mode; changes no layer.

    `integers`: least and greatest token id, None or both the same: nothing can be changed.

    Raises: UsageError.
    """
    if integers is None or integers[0] == integers[1]:
        return
    ids = batch(SEQUENCES)
    if ids.shape[1] < 2:
        return
    changed = ids.clone()
    changed[:, -1] = torch.where(ids[:, -1] == integers[0], integers[1], integers[0])
    with torch.no_grad():
        before, after = (classes_second(_run(layers, tokens), ids.shape[1:])[..., :-1] for tokens in (ids, changed))
    if not torch.allclose(before, after, RELATIVE_TOLERANCE, ABSOLUTE_TOLERANCE):
        raise UsageError(f"The model {name} is not causal: what it makes of a token changes with a later one, which it "
                         "is to predict. Give its attention a causal mask (is_causal=True).")


def _run(layers: Sequence[nn.Module], values: Values) -> Tensor:
    for layer in layers:
        layer.eval()
        try:
            values = layer(values)
        finally:
            layer.train()
    outputs: Tensor = values
    return outputs
