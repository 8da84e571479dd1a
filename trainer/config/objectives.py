"""What a run trains for: loss, metric and learning-rate schedule by name. Imports nothing heavy."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from trainer.errors import UsageError
from trainer.plugins import is_plugin_name

Better = Literal["higher", "lower"]

CLASS_LOSSES = ("cross-entropy", "next-token")
NEXT_TOKEN = CLASS_LOSSES[1]
"""Cross-entropy of every next token of a sequence: the classes are made from the inputs."""
VALUE_LOSSES = ("bce-with-logits", "mse", "l1", "huber")
LOSSES = (*CLASS_LOSSES, *VALUE_LOSSES)
METRICS: dict[str, Better] = {
    "accuracy": "higher", "f1-micro": "higher", "f1-macro": "higher", "mean-absolute-error": "lower",
    "mean-squared-error": "lower", "root-mean-squared-error": "lower", "loss": "lower", "perplexity": "lower",
}
"""The metrics by name, and which direction is better."""
SHARES = ("accuracy", "f1-micro", "f1-macro")
"""Metrics between 0 and 1."""
CLASS_METRICS = ("accuracy", "perplexity")
VALUE_METRICS = ("mean-absolute-error", "mean-squared-error", "root-mean-squared-error")
LOSS_HELP = (f"Loss: {', '.join(LOSSES)}; cross-entropy:S has label smoothing S; or package.module:function.  "
             "[default: by data]")
METRIC_HELP = f"Metric of the global model: {', '.join(METRICS)}; or package.module:function.  [default: by data]"
MAX_BYTE_CLASSES = 256
"""Classes that a byte can tell apart."""
SCHEDULES = ("constant", "linear", "cosine", "step", "exponential")
MAX_ROUNDS = 10**6


def label_smoothing(loss: str) -> float | None:
    """Return S of the loss `cross-entropy:S`, 0 for `cross-entropy` and `next-token`; None if it is another, or S no
    such value.

    Source: Szegedy et al. 2016, "Rethinking the Inception architecture for computer vision", section 7.
    """
    name, colon, text = loss.partition(":")
    if loss == NEXT_TOKEN:
        return 0.0
    if name != CLASS_LOSSES[0]:
        return None
    try:
        smoothing = float(text) if colon else 0.0
    except ValueError:
        return None
    return smoothing if 0 <= smoothing < 1 else None


@dataclass(frozen=True, slots=True)
class Objective:
    """Loss and metric of a run, each a name or the user's `package.module:function`.

    `target_shape`: shape of the values to predict for a sample; None: its class. `class_shape`: shape of its classes if
    it has several, such as (tokens,). `class_bytes`: in which a class is sent.
    """

    loss: str = "cross-entropy"
    metric: str = "accuracy"
    better: Better = "higher"
    target_shape: tuple[int, ...] | None = None
    class_shape: tuple[int, ...] = ()
    class_bytes: Literal[1, 4] = 1

    def output_shapes(self, classes: int) -> tuple[tuple[int, ...], ...]:
        """Return the shapes that the model may make of a sample; empty if only the user's loss knows them."""
        if is_plugin_name(self.loss):
            return ()
        if self.target_shape is not None:
            return (self.target_shape,)
        if not self.class_shape:
            return ((classes,),)
        return ((*self.class_shape, classes), (classes, *self.class_shape))

    @property
    def classes_per_sample(self) -> int:
        """Number of classes that a sample has."""
        return math.prod(self.class_shape)

    @property
    def target_bytes(self) -> int:
        """Bytes of a sample's target when it is sent: a class is a byte, of more than 256 four, as a value is."""
        if self.target_shape is None:
            return self.class_bytes * self.classes_per_sample
        return 4 * math.prod(self.target_shape)

    def is_reached(self, value: float, target: float) -> bool:
        """Return whether a value of the metric is as good as the target."""
        return is_as_good(value, target, self.better)


def is_as_good(value: float, other: float, better: str) -> bool:
    """Return whether a value of a metric is at least as good as another."""
    return value >= other if better == "higher" else value <= other


def nearest(kind: str, name: str, known: Iterable[str], own: bool = True) -> str:
    """Return the sentence about an unknown name: the nearest one, and all there are."""
    known = list(known)
    close = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]}?" if close else ""
    rest = ", and your own as package.module:function" if own else ""
    return f"There is no {kind} {name!r}.{hint} There are: {', '.join(known)}{rest}."


def name_mistakes(loss: str | None, metric: str | None, better: str | None) -> list[str]:
    """Return a sentence for each unknown name, and for a direction that the metric does not have."""
    is_smoothed = loss is not None and loss.startswith(f"{CLASS_LOSSES[0]}:")
    names = (("loss", None if is_smoothed else loss, LOSSES), ("metric", metric, METRICS))
    mistakes = [f"--loss is {loss}; the label smoothing after the colon is at least 0 and below 1, such as "
                "cross-entropy:0.1."] if is_smoothed and label_smoothing(str(loss)) is None else []
    mistakes += [nearest(kind, name, known) for kind, name, known in names
                if name is not None and name not in known and not is_plugin_name(name)]
    if better not in (None, "higher", "lower"):
        mistakes.append(f"--better is {better!r}; it is higher or lower.")
    elif better is not None and metric in METRICS and METRICS[metric] != better:
        mistakes.append(f"--better is {better}; of {metric} {METRICS[metric]} is better.")
    return mistakes


def target_mistake(target: float | None, metric: str) -> str | None:
    """Return a sentence if the metric cannot have that value."""
    if target is None:
        return None
    if metric in SHARES and not 0 < target <= 1:
        what = "an accuracy" if metric == "accuracy" else f"{metric} "
        return f"--target is {target}; {what.strip()} lies between 0 and 1."
    if metric == "perplexity" and target < 1:
        return f"--target is {target}; a perplexity is at least 1."
    if metric in METRICS and metric != "loss" and target < 0:
        return f"--target is {target}; {metric} is at least 0."
    return None


def choose_objective(
    loss: str | None, metric: str | None, better: str | None, target_shape: tuple[int, ...] | None, binary: bool,
    class_shape: tuple[int, ...] = (), vocabulary: int | None = None,
) -> Objective:
    """Return the objective: as configured, else by the targets. `binary`: all values to predict are 0 or 1.

    `vocabulary`: number of token ids where the classes are the next tokens of the inputs; None: y holds the targets.

    Raises: UsageError if the data does not have the targets that loss or metric need.
    """
    classes, sequences = target_shape is None, vocabulary is not None
    chosen = loss or (NEXT_TOKEN if sequences else "cross-entropy" if classes else "bce-with-logits" if binary
                      else "mse")
    if sequences and chosen == CLASS_LOSSES[0]:
        chosen = NEXT_TOKEN
    found = "y holds classes (whole numbers)" if classes else (
        "y holds 0 and 1" if binary else "y holds values")
    for what, name, fits, needs in (
        ("--loss", chosen, sequences or chosen != NEXT_TOKEN,
         "token ids: whole numbers X of shape (N, tokens) without y"),
        ("--loss", chosen, classes or label_smoothing(chosen) is None,
         "classes: whole numbers of shape (N,), or (N, ...) with one above 1"),
        ("--loss", chosen, not classes or chosen not in VALUE_LOSSES,
         "values: floating-point numbers, or 0 and 1 of shape (N, labels)"),
        ("--loss", chosen, classes or chosen != "bce-with-logits" or binary, "labels: only 0 and 1"),
        ("--metric", metric, classes or metric not in CLASS_METRICS,
         "classes; for values there are f1-micro, f1-macro (of 0 and 1) and mean-absolute-error"),
        ("--metric", metric, not classes or metric not in VALUE_METRICS, "values: floating-point numbers"),
        ("--metric", metric, classes or binary or metric not in ("f1-micro", "f1-macro"), "classes, or labels 0 and 1"),
    ):
        if not fits:
            raise UsageError(f"{what} is {name}, which needs {needs}; {found}.")
    by_targets = "accuracy" if classes else "f1-micro" if chosen == "bce-with-logits" else "mean-absolute-error"
    default = "perplexity" if sequences else by_targets
    named = metric or ("loss" if is_plugin_name(chosen) else default)
    direction: Better = METRICS.get(named, "lower" if better == "lower" else "higher")
    return Objective(chosen, named, direction, target_shape, class_shape,
                     1 if vocabulary is None or vocabulary <= MAX_BYTE_CLASSES else 4)


@dataclass(frozen=True, slots=True)
class Schedule:
    """A learning-rate schedule in mini-batches: `steps` is its period or length, `factor` what a period multiplies."""

    kind: Literal["constant", "linear", "cosine", "step", "exponential"] = "constant"
    steps: int = 1
    factor: float = 1.0


def parse_schedule(text: str, rounds: int, steps: int) -> Schedule:
    """Parse `constant`, `linear[:ROUNDS]`, `cosine[:ROUNDS]`, `step:ROUNDS:FACTOR` or `exponential:FACTOR`.

    Without ROUNDS linear and cosine end with the run of `rounds` rounds of `steps` mini-batches.

    Raises: UsageError.
    """
    kind, *arguments = text.split(":")
    if kind not in SCHEDULES:
        raise UsageError(nearest("schedule", kind, SCHEDULES, own=False))
    forms = {"constant": "constant", "linear": "linear or linear:ROUNDS", "cosine": "cosine or cosine:ROUNDS",
             "step": "step:ROUNDS:FACTOR such as step:10:0.1", "exponential": "exponential:FACTOR such as "
             "exponential:0.95"}
    wrong = UsageError(f"--schedule is {text!r}; it must be {forms[kind]}.")
    try:
        match kind, arguments:
            case "constant", []:
                return Schedule()
            case "linear" | "cosine", [] | [_]:
                length = int(arguments[0]) if arguments else rounds
                if not 1 <= length <= MAX_ROUNDS:
                    raise wrong
                if length < rounds:
                    raise UsageError(f"--schedule is {text!r}; its learning rate would be 0 from round {length + 1} of "
                                     f"{rounds} on.")
                return Schedule("linear" if kind == "linear" else "cosine", length * steps)
            case "step", [period, factor] if 1 <= int(period) <= MAX_ROUNDS and 0 < float(factor) <= 1:
                return Schedule("step", int(period) * steps, float(factor))
            case "exponential", [factor] if 0 < float(factor) <= 1:
                return Schedule("exponential", steps, float(factor))
    except ValueError:
        pass
    raise wrong
