"""Losses and metrics: PyTorch's, and functions of the user.

A loss is the mean over the samples, so those of micro-batches, weighted by samples, add up to that of their mini-batch.
A metric is a vector of sums over samples that edges can add up without showing any sample, and a value made of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from trainer.config.objectives import Objective, label_smoothing
from trainer.errors import DataError, ModelFailedError, UsageError, UserCodeError
from trainer.plugins import describe_error, is_plugin_name, load_positional

Loss = Callable[[Tensor, Tensor], Tensor]
"""(outputs (N, ...), targets) -> mean over the samples, ()."""

_LOSSES: dict[str, Loss] = {
    "bce-with-logits": functional.binary_cross_entropy_with_logits,
    "mse": functional.mse_loss,
    "l1": functional.l1_loss,
    "huber": functional.huber_loss,
}
_CHECK_SAMPLES = 6
MAX_NATS = 700.0
"""Beyond it a perplexity is no double-precision number."""
_TOLERANCE = 1e-4


def classes_second(outputs: Tensor, class_shape: Sequence[int]) -> Tensor:
    """Return outputs (N, ..., C) or (N, C, ...) for classes (N, ...) as (N, C, ...), as PyTorch's cross-entropy has it.

    If both are possible, classes of one dimension have outputs (N, tokens, C), as encoders make them; others have
    (N, C, ...).
    """
    parts, shape = tuple(class_shape), tuple(outputs.shape[1:])
    last, second = shape[:-1] == parts, shape[1:] == parts
    return outputs.movedim(-1, 1) if parts and last and (not second or len(parts) == 1) else outputs


def _cross_entropy(outputs: Tensor, targets: Tensor, smoothing: float) -> Tensor:
    return functional.cross_entropy(classes_second(outputs, targets.shape[1:]), targets, label_smoothing=smoothing)


def build_loss(name: str) -> Loss:
    """Return a loss by name, or the user's function, whose value may be a scalar or one value for each sample.

    Raises: UsageError if there is no such function. The loss raises ModelFailedError if the user's function fails.
    """
    if (smoothing := label_smoothing(name)) is not None:
        return partial(_cross_entropy, smoothing=smoothing)
    if name in _LOSSES:
        return lambda outputs, targets: _LOSSES[name](outputs, _like(targets, outputs))
    function = load_positional(name)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        try:
            value = function(outputs, targets)
            if isinstance(value, Tensor) and value.dim():
                value = value.mean()
        except Exception as error:
            raise ModelFailedError(f"The loss {name} failed: {describe_error(error)}.") from error
        if not isinstance(value, Tensor) or not value.dtype.is_floating_point:
            made = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
            raise ModelFailedError(f"The loss {name} returned {made}; it must return a floating-point tensor: a mean "
                                   "over the samples, or a value for each.")
        return value

    return loss


def check_loss(objective: Objective, outputs: Sequence[int], classes: int, micro: int) -> None:
    """Try the user's loss on outputs of that shape (of a sample): it must be a mean over the samples.

    Raises: UserCodeError if it fails, UsageError if micro-batches would change it.
    """
    if not is_plugin_name(objective.loss):
        return
    generator = torch.Generator().manual_seed(1)
    made = torch.randn((_CHECK_SAMPLES, *outputs), generator=generator, requires_grad=True)
    targets = torch.randint(0, classes, (_CHECK_SAMPLES, *objective.class_shape), generator=generator)
    if objective.target_shape is not None:
        targets = torch.randint(0, 2, (_CHECK_SAMPLES, *objective.target_shape), generator=generator).to(torch.float32)
    loss = build_loss(objective.loss)
    try:
        whole = loss(made, targets)
        first = loss(made[:2], targets[:2]).item() * 2 + loss(made[2:], targets[2:]).item() * (_CHECK_SAMPLES - 2)
    except ModelFailedError as error:
        raise UserCodeError(str(error)) from error
    if not whole.requires_grad:
        raise UsageError(f"The loss {objective.loss} does not depend on the model's outputs, so nothing can be learnt.")
    if micro > 1 and not math.isclose(first / _CHECK_SAMPLES, whole.item(), rel_tol=_TOLERANCE, abs_tol=_TOLERANCE):
        raise UsageError(f"The loss {objective.loss} is not a mean over the samples, so micro-batches would change it; "
                         "divide by the number of samples, or give --micro 1.")


def metric_size(objective: Objective, classes: int) -> int:
    """Return the number of sums that an edge sends for the metric."""
    groups = classes if objective.target_shape is None else math.prod(objective.target_shape[-1:])
    return {"f1-micro": 3, "f1-macro": 3 * groups}.get(objective.metric, 1)


def metric_sums(objective: Objective, outputs: Tensor, targets: Tensor) -> list[float]:
    """Return the metric's sums over samples: outputs (N, ...) of the model, targets (N, ...) as classes or values.

    Of samples that have several classes, accuracy counts the share that is right. Of perplexity the sum is that of the
    samples' mean cross-entropy, in nats.

    Raises: ModelFailedError if the user's function fails, DataError if the outputs do not have the targets' shape.
    """
    samples, name = len(outputs), objective.metric
    if name == "loss":
        return [build_loss(objective.loss)(outputs, targets).item() * samples]
    if is_plugin_name(name):
        return [_own_metric(name, outputs, targets) * samples]
    if objective.target_shape is None:
        if name == "perplexity":
            return [_cross_entropy(outputs, targets, 0.0).item() * samples]
        outputs = classes_second(outputs, objective.class_shape)
        chosen = outputs.argmax(dim=1)
        if name == "accuracy":
            return [float((chosen == targets).sum()) / objective.classes_per_sample]
        classes = outputs.shape[1]
        return _f1_counts(name, functional.one_hot(chosen, classes), functional.one_hot(targets, classes))
    if outputs.shape != targets.shape:
        raise DataError(f"--metric {name} compares outputs {tuple(outputs.shape)} with values {tuple(targets.shape)}; "
                        "give --metric loss, or your own function.")
    if name.startswith("f1"):
        return _f1_counts(name, (outputs > 0).long(), (targets > 0.5).long())
    differences = (outputs.double() - targets.double()).flatten(1)
    distances = differences.abs() if name == "mean-absolute-error" else differences.square()
    return [distances.mean(dim=1).sum().item()]


def confusion_counts(outputs: Tensor, targets: Tensor, classes: int) -> list[int]:
    """Return how often each true class (rows) was predicted as each class (columns), row by row."""
    places = targets.long() * classes + classes_second(outputs, targets.shape[1:]).argmax(dim=1)
    counts: list[int] = torch.bincount(places.flatten(), minlength=classes * classes).tolist()
    return counts


def metric_value(objective: Objective, sums: Sequence[float], samples: float) -> float:
    """Return the metric from its sums over all edges.

    F1 is 2 TP / (2 TP + FP + FN): of all labels together (micro), or the mean over labels (macro; 0 where a label is
    neither there nor predicted). Source: Sokolova and Lapalme 2009, "A systematic analysis of performance measures for
    classification tasks", table 3.
    """
    if objective.metric.startswith("f1"):
        groups = [sums[first : first + 3] for first in range(0, len(sums), 3)]
        scores = [2 * hits / total if (total := 2 * hits + false + missed) else 0.0 for hits, false, missed in groups]
        return sum(scores) / len(scores)
    value = sums[0] / samples
    if objective.metric == "perplexity":
        return math.exp(min(value, MAX_NATS))
    return math.sqrt(value) if objective.metric == "root-mean-squared-error" else value


def is_possible(objective: Objective, sums: Sequence[float], samples: int, classes: int) -> bool:
    """Return whether that many samples can have these sums."""
    if len(sums) != metric_size(objective, classes) or not all(map(math.isfinite, sums)):
        return False
    if objective.metric == "accuracy":
        return 0 <= sums[0] <= samples
    return is_plugin_name(objective.metric) or objective.metric == "loss" or min(sums) >= 0


def _like(targets: Tensor, outputs: Tensor) -> Tensor:
    return targets.to(outputs.dtype) if targets.dtype.is_floating_point else targets


def _own_metric(name: str, outputs: Tensor, targets: Tensor) -> float:
    try:
        value = load_positional(name)(outputs, targets)
        number = float(value.to(torch.float64).mean()) if isinstance(value, Tensor) else float(value)
    except Exception as error:
        raise ModelFailedError(f"The metric {name} failed: {describe_error(error)}.") from error
    if not math.isfinite(number):
        raise ModelFailedError(f"The metric {name} returned {number}; it must be a finite number.")
    return number


def _f1_counts(name: str, predicted: Tensor, present: Tensor) -> list[float]:
    """Return true positives, false positives and false negatives, of all labels or of each (the last dimension)."""
    predicted, present = (values.reshape(-1, values.shape[-1]) for values in (predicted, present))
    counts = torch.stack([(predicted * present).sum(0), (predicted * (1 - present)).sum(0),
                          ((1 - predicted) * present).sum(0)], dim=1)
    return [float(value) for value in (counts if name == "f1-macro" else counts.sum(0, keepdim=True)).flatten()]
