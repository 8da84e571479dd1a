"""Rules that make one model of the edges' models although some of them may be wrong.

    mean           weighted by samples; one edge can move it anywhere within its weight and the clipping of updates
    trimmed-mean   of every value the mean without the `tolerated` largest and smallest
    median         of every value the median
    krum           the one model whose nearest others are nearest to it

All but the mean count every edge alike, because a number of samples is what an edge says of itself.
Sources: Yin et al. 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates", definitions 1 and
2 (median, trimmed mean); Blanchard et al. 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient
Descent", section 4 (Krum); Sun et al. 2019, "Can You Really Backdoor Federated Learning?", section 3 (clipping).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trainer.config.settings import Aggregate
from trainer.models.averaging import average

Model = Mapping[str, Tensor]


def aggregate(
    rule: Aggregate, models: Sequence[Model], weights: Sequence[float], previous: Model, tolerated: int = 1,
    clip: float | None = None,
) -> dict[str, Tensor]:
    """Return the global model; `previous`: the last one, from which the edges went on.

    `tolerated`: how many of the models may be wrong; `clip`: no update may be longer than this many times the median
    one. With fewer than 2 x tolerated + 3 models Krum is undefined, and the median is taken.
    """
    if clip is not None:
        models = clip_updates(models, previous, clip)
    if rule == "mean":
        return average(models, weights)
    if rule == "krum" and len(models) >= 2 * tolerated + 3:
        return {name: tensor.clone() for name, tensor in models[nearest_model(models, tolerated)].items()}
    most = (len(models) - 1) // 2
    return _trimmed_mean(models, min(tolerated, most) if rule == "trimmed-mean" else most)


def clip_updates(models: Sequence[Model], previous: Model, factor: float) -> list[dict[str, Tensor]]:
    """Shorten every update, model minus `previous`, to `factor` times the median length of all."""
    lengths = [sum(float(_update(model, previous, name).square().sum()) for name in _real(previous)) ** 0.5
               for model in models]
    limit = factor * statistics.median(lengths)
    clipped = []
    for model, length in zip(models, lengths, strict=True):
        values = dict(model)
        if length > limit:
            for name in _real(previous):
                shorter = previous[name].to(torch.float64) + _update(model, previous, name) * (limit / length)
                values[name] = shorter.to(previous[name].dtype)
        clipped.append(values)
    return clipped


def nearest_model(models: Sequence[Model], tolerated: int) -> int:
    """Return the place of the model whose n - tolerated - 2 nearest others are nearest to it, by squared distances."""
    distances = [[sum(float(_update(one, other, name).square().sum()) for name in _real(one)) for other in models]
                 for one in models]
    neighbours = len(models) - tolerated - 2
    scores = [sum(sorted(row[:place] + row[place + 1:])[:neighbours]) for place, row in enumerate(distances)]
    return scores.index(min(scores))


def _trimmed_mean(models: Sequence[Model], trim: int) -> dict[str, Tensor]:
    """Return of every value the mean without the `trim` largest and the `trim` smallest of the models."""
    mean: dict[str, Tensor] = {}
    for name, first in models[0].items():
        values = [model[name] for model in models]
        if all(torch.equal(first, value) for value in values[1:]):
            mean[name] = first.clone()
            continue
        rows = torch.stack([torch.view_as_real(value) if value.is_complex() else value for value in values])
        ordered = rows.to(torch.float64).sort(dim=0).values
        middle = ordered[trim : len(models) - trim].mean(dim=0)
        if first.is_complex():
            mean[name] = torch.view_as_complex(middle).to(first.dtype)
        else:
            mean[name] = (middle if first.is_floating_point() else middle.round()).to(first.dtype)
    return mean


def _real(model: Model) -> list[str]:
    return [name for name, tensor in model.items() if tensor.is_floating_point()]


def _update(model: Model, previous: Model, name: str) -> Tensor:
    """Return the difference of a tensor; 0 where both are the same, as in masks of infinite values."""
    now, before = model[name].to(torch.float64), previous[name].to(torch.float64)
    return torch.where(now == before, 0.0, now - before)
