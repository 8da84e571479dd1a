"""What an edge says is checked against what is possible and what it said before. Pure; every error names the value."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from trainer.config.objectives import Objective
from trainer.data.standardization import Moments
from trainer.errors import ProtocolError
from trainer.models.chain_check import CLASSES
from trainer.models.objective import is_possible
from trainer.models.values import Values, tensors_of
from trainer.profiling.predictor import MAX_SLOWDOWN
from trainer.protocol import messages
from trainer.protocol.segments import CLASS_TYPES

MAX_CLASSES = 256
MAX_SAMPLE_VALUES = 2**26
MAX_TARGETS = 2**20
RATES_PER_S = 1e3, 1e18
"""Least and greatest FLOPs or bytes in a second of a node."""
RELATIVE_TOLERANCE = 1e-6
"""Rounding errors of moments, relative to the largest value."""
CLOCK_TOLERANCE_S = 5.0
"""Largest difference of instants on an edge's clock from those of the cloud, after its offset."""
REASON_CHARACTERS = 500


def check_join_request(request: messages.JoinRequest) -> None:
    """Check that samples, statistics and profile of a join request agree and are possible.

    Raises: ProtocolError.
    """
    profile = request.profile
    for name, rate in (("FLOP/s", profile.flops_per_s), ("bytes/s", profile.bytes_per_s)):
        if not RATES_PER_S[0] <= rate <= RATES_PER_S[1]:
            raise ProtocolError(f"{request.edge} profiles itself with {rate:g} {name}; possible are {RATES_PER_S[0]:g} "
                                f"to {RATES_PER_S[1]:g}.")
    if not 1 <= profile.slowdown <= MAX_SLOWDOWN:
        raise ProtocolError(f"{request.edge} profiles itself with a slowdown of {profile.slowdown:g}; possible are 1 "
                            f"to {MAX_SLOWDOWN:g}.")
    values = math.prod(request.sample_shape)
    if values > MAX_SAMPLE_VALUES:
        raise ProtocolError(f"{request.edge} has samples of {values} values; at most {MAX_SAMPLE_VALUES} are possible.")
    counts = request.statistics.class_counts
    if request.target_shape is not None:
        if counts or math.prod(request.target_shape) > MAX_TARGETS:
            raise ProtocolError(f"{request.edge} has values of shape {request.target_shape} to predict and "
                                f"{len(counts)} classes; at most {MAX_TARGETS} values and no classes are possible.")
    elif request.vocabulary is not None:
        if counts or len(request.class_shape) != 1 or request.class_shape != request.sample_shape:
            raise ProtocolError(f"{request.edge} has sequences of shape {request.sample_shape} with next tokens of "
                                f"shape {request.class_shape} and {len(counts)} counts of them; both have one shape "
                                "(tokens,), and there are no counts.")
    elif not 1 <= len(counts) <= MAX_CLASSES:
        raise ProtocolError(f"{request.edge} has {len(counts)} classes; 1 to {MAX_CLASSES} are possible.")
    per_sample = math.prod(request.class_shape)
    if per_sample > MAX_TARGETS or (request.class_shape and request.target_shape is not None):
        raise ProtocolError(f"{request.edge} has classes of shape {request.class_shape} for a sample; at most "
                            f"{MAX_TARGETS} are possible, and none with values to predict.")
    if any(counts) and (min(counts) < 0 or sum(counts) != request.samples * per_sample):
        raise ProtocolError(f"{request.edge} has {request.samples} samples, but those of its classes sum to "
                            f"{sum(counts)} with a least one of {min(counts)}.")
    per_feature = values // request.sample_shape[0]
    for moments in (request.statistics.plain, request.statistics.logged):
        _check_moments(request.edge, moments, request.sample_shape[0], request.samples * per_feature)


def _check_moments(edge: str, moments: Moments, features: int, count: int) -> None:
    columns = (moments.mean, moments.m2, moments.m3, moments.minimum, moments.maximum)
    if lengths := {len(column) for column in columns} - {features}:
        raise ProtocolError(f"{edge} sent statistics of {max(lengths)} features; its samples have {features}.")
    if moments.count != count:
        raise ProtocolError(f"{edge} sent statistics of {moments.count} values of a feature; its samples have {count}.")
    for feature, (mean, m2, m3, least, largest) in enumerate(zip(*columns, strict=True)):
        if not all(map(math.isfinite, (mean, m2, m3, least, largest))):
            raise ProtocolError(f"{edge} sent statistics of feature {feature} that are not finite.")
        slack = RELATIVE_TOLERANCE * max(abs(least), abs(largest))
        width = largest - least + 2 * slack
        # The variance within [a, b] is at most (b - a)^2 / 4. Source: Popoviciu 1935.
        m2_limit = count * width * width / 4
        if not (least - slack <= mean <= largest + slack and least <= largest and 0 <= m2 <= m2_limit
                and abs(m3) <= m2_limit * width):
            raise ProtocolError(f"{edge} sent statistics of feature {feature} that no values have: mean {mean:g}, "
                                f"minimum {least:g}, maximum {largest:g}, squared deviations {m2:g}.")


def check_evaluated(
    evaluated: messages.Evaluated, held_out: int, objective: Objective = CLASSES, classes: int = 2
) -> None:
    """Check the metric's sums of an evaluation against the held-out samples that the edge joined with.

    Raises: ProtocolError.
    """
    if evaluated.total != held_out:
        raise ProtocolError(f"it evaluated {evaluated.total} held-out samples; it joined with {held_out}.")
    if not is_possible(objective, evaluated.sums, held_out, classes):
        shown = ", ".join(f"{value:g}" for value in evaluated.sums[:3])
        raise ProtocolError(f"it sent {shown or 'nothing'} as its sums for {objective.metric}; {held_out} held-out "
                            "samples cannot have them.")
    per_sample = objective.classes_per_sample
    if (counts := evaluated.confusion) and (len(counts) != classes**2 or sum(counts) != held_out * per_sample):
        raise ProtocolError(f"it sent {len(counts)} counts of confused classes with the sum {sum(counts)}; {held_out} "
                            f"held-out samples of {classes} classes have {classes**2}.")
    if counts and objective.metric == "accuracy" and not math.isclose(
            sum(counts[:: classes + 1]), evaluated.sums[0] * per_sample, rel_tol=RELATIVE_TOLERANCE):
        raise ProtocolError(f"it sent {evaluated.sums[0]:g} correct samples, but counts of confused classes with "
                            f"{sum(counts[:: classes + 1])}.")


def check_step_done(
    done: messages.StepDone, sent_s: Sequence[float], arrival_s: float, offset_s: float, max_s: float,
    least_loss: float = 0.0,
) -> None:
    """Check times and loss of a step.

    `sent_s`: when the cloud sent each gradient, `arrival_s`: when this message arrived, on the cloud's clock;
    `offset_s`: the edge's clock minus the cloud's; `max_s`: the longest a step can take.

    Raises: ProtocolError.
    """
    for name in ("forward_s", "forward_cpu_s", "backward_s", "backward_cpu_s", "late_s", "tail_s"):
        if not 0 <= (value := getattr(done, name)) <= 2 * max_s:  # half of it may be work for the step before
            raise ProtocolError(f"its {name} is {value:g} s; it must lie between 0 and {2 * max_s:g}.")
    if done.loss is not None and done.loss < least_loss:
        raise ProtocolError(f"its loss is {done.loss:g}; it must be at least 0.")
    times = done.gradients_received_s
    if any(later < earlier for earlier, later in itertools.pairwise(times)):
        raise ProtocolError("it received gradients in another order than they were sent.")
    for sent, received in zip(sent_s, times, strict=False):
        if not sent - CLOCK_TOLERANCE_S <= received - offset_s <= arrival_s + CLOCK_TOLERANCE_S:
            raise ProtocolError(f"it received a gradient {received - offset_s - sent:g} s after it was sent.")
    for received in done.tail_inputs_received_s:
        if not sent_s[0] - CLOCK_TOLERANCE_S <= received - offset_s <= arrival_s + CLOCK_TOLERANCE_S:
            raise ProtocolError(f"it received an input of its tail {received - offset_s - sent_s[0]:g} s after the "
                                "step began.")


def check_sent_time(sent_s: float, arrival_s: float, offset_s: float, max_s: float) -> None:
    """Check the time at which an edge says it sent a frame; arguments as in `check_step_done`.

    Raises: ProtocolError.
    """
    travel_s = arrival_s - (sent_s - offset_s)
    if not -CLOCK_TOLERANCE_S <= travel_s <= max_s + CLOCK_TOLERANCE_S:
        raise ProtocolError(f"it sent a frame {travel_s:g} s before it arrived.")


def check_values(values: Values, integers: tuple[int, int] | None = None) -> None:
    """Check the values of a segment: no NaN; whole numbers within `integers`, if these are known.

    Raises: ProtocolError.
    """
    for tensor in tensors_of(values):
        if tensor.is_floating_point() or tensor.is_complex():
            if bool(torch.isnan(tensor).any()):
                raise ProtocolError("it holds NaN.")
        elif integers is not None and tensor.dtype != torch.bool and tensor.numel():
            least, greatest = (int(value) for value in torch.aminmax(tensor))
            if least < integers[0] or greatest > integers[1]:
                raise ProtocolError(f"it holds inputs from {least} to {greatest}; the edges joined with "
                                    f"{integers[0]} to {integers[1]}.")


def check_names(tensors: Iterable[str], expected: Sequence[str]) -> None:
    """Check that a message carries the tensors of these names and no others.

    Raises: ProtocolError.
    """
    if unknown := set(tensors) - set(expected):
        raise ProtocolError(f"the tensor {min(unknown)[:80]!r} was not expected.")


def labels_of(tensors: Mapping[str, Tensor], samples: int, classes: int, objective: Objective) -> Tensor:
    """Return the labels of a micro-batch: classes as int64, or values of that shape.

    Raises: ProtocolError if there are none, not one for every sample, of classes that do not exist, or not finite.
    """
    labels, target_shape = tensors.get("labels"), objective.target_shape
    kind, shape = (CLASS_TYPES[objective.class_bytes], (samples, *objective.class_shape)) if target_shape is None else (
        torch.float32, (samples, *target_shape))
    if labels is None or tuple(labels.shape) != shape or labels.dtype != kind:
        found = "missing" if labels is None else f"{labels.dtype} {tuple(labels.shape)}"
        raise ProtocolError(f"its labels are {found}; they must be {str(kind).removeprefix('torch.')} {shape}.")
    if target_shape is not None:
        if not bool(labels.isfinite().all()):
            raise ProtocolError("its labels are not finite.")
        return labels
    least, greatest = (int(value) for value in torch.aminmax(labels))
    if least < 0 or greatest >= classes:
        raise ProtocolError(f"its labels reach {least if least < 0 else greatest}; there are {classes} classes.")
    return labels.to(torch.int64)


def printable(reason: str) -> str:
    """Return a sentence of an edge, limited in length and without control characters."""
    return "".join(character if character.isprintable() else " " for character in reason[:REASON_CHARACTERS])
