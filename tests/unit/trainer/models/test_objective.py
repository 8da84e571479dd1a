"""Losses, metrics and schedules by name, against PyTorch; one sentence for what does not fit."""

from __future__ import annotations

import sys
import types
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from trainer.config.objectives import METRICS, Objective, choose_objective, parse_schedule
from trainer.config.settings import RunSettings
from trainer.errors import ModelFailedError, UsageError
from trainer.models.objective import (
    build_loss,
    check_loss,
    classes_second,
    confusion_counts,
    is_possible,
    metric_size,
    metric_sums,
    metric_value,
)
from trainer.models.optimizer import OptimizerConfig
from trainer.models.schedule import build_scheduler

GENERATOR = torch.Generator().manual_seed(4)
VALUES, LABELS = torch.randn(30, 3, generator=GENERATOR), torch.randint(0, 2, (30, 3), generator=GENERATOR).float()
OUTPUTS, CLASSES = torch.randn(30, 3, generator=GENERATOR), torch.randint(0, 3, (30,), generator=GENERATOR)


def metric(objective: Objective, targets: Tensor, parts: int = 1) -> float:
    """The metric as the cloud computes it from that many edges."""
    sums = [metric_sums(objective, *pair) for pair in zip(OUTPUTS.chunk(parts), targets.chunk(parts), strict=True)]
    assert all(len(row) == metric_size(objective, 3) and is_possible(objective, row, 30, 3) for row in sums)
    return metric_value(objective, [sum(column) for column in zip(*sums, strict=True)], 30)


def f1(predicted: Tensor, present: Tensor) -> Tensor:
    hits = (predicted & present).sum(0)
    return 2 * hits / (predicted.sum(0) + present.sum(0))


def expected(name: str, targets: Tensor) -> Tensor:
    of_classes = targets is CLASSES
    predicted = nn.functional.one_hot(OUTPUTS.argmax(1), 3) > 0 if of_classes else OUTPUTS > 0
    present = nn.functional.one_hot(targets, 3) > 0 if of_classes else targets > 0
    return {
        "accuracy": lambda: (OUTPUTS.argmax(1) == targets).float().mean(),
        "f1-micro": lambda: f1(predicted.flatten(), present.flatten()),
        "f1-macro": lambda: f1(predicted, present).mean(),
        "mean-absolute-error": lambda: nn.functional.l1_loss(OUTPUTS, targets),
        "mean-squared-error": lambda: nn.functional.mse_loss(OUTPUTS, targets),
        "root-mean-squared-error": lambda: nn.functional.mse_loss(OUTPUTS, targets).sqrt(),
        "loss": lambda: nn.functional.huber_loss(OUTPUTS, targets),
    }[name]()


CASES = [("accuracy", CLASSES), ("f1-micro", CLASSES), ("f1-macro", CLASSES), ("f1-micro", LABELS),
         ("f1-macro", LABELS), ("mean-absolute-error", VALUES), ("mean-squared-error", VALUES),
         ("root-mean-squared-error", VALUES), ("loss", VALUES)]


@pytest.mark.parametrize(("name", "targets"), CASES)
def test_metrics_of_several_edges_are_those_of_all_samples_together(name: str, targets: Tensor) -> None:
    objective = Objective("huber", name, METRICS[name], None if targets is CLASSES else (3,))
    assert metric(objective, targets) == pytest.approx(expected(name, targets).item(), rel=1e-5)
    assert metric(objective, targets, 3) == pytest.approx(metric(objective, targets), rel=1e-5)


@pytest.mark.parametrize("sums", [[7.0], [-1.0], [float("nan")], [1.0, 2.0], []])
def test_sums_that_the_samples_cannot_give_are_impossible(sums: list[float]) -> None:
    assert is_possible(Objective(), [6.0], 6, 3)
    assert not is_possible(Objective(), sums, 6, 3)


@pytest.mark.parametrize("text", ["constant", "linear", "cosine", "cosine:9", "step:2:0.3", "exponential:0.9"])
def test_rates_are_those_of_pytorchs_scheduler(text: str) -> None:
    schedule = parse_schedule(text, 6, 4)
    config = OptimizerConfig("sgd", 0.3, schedule=schedule)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = build_scheduler(schedule, optimizer)
    rates = []
    for _ in range(24):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert [config.rate(number) for number in range(24)] == rates
    assert config.rate(5) == rates[5]  # after a restore


def test_each_schedule_has_its_documented_rates() -> None:
    def rates(text: str) -> list[float]:
        config = OptimizerConfig("sgd", 1.0, schedule=parse_schedule(text, 4, 2))
        return [config.rate(number) for number in range(8)]

    assert rates("constant") == [1.0] * 8
    assert rates("step:2:0.5") == [1.0] * 4 + [0.5] * 4
    assert rates("exponential:0.5") == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25, 0.125, 0.125]
    assert rates("linear") == pytest.approx([1 - number / 8 for number in range(8)])
    assert rates("cosine")[4] == pytest.approx(0.5)


@pytest.mark.parametrize(("fields", "sentence"), [
    ({"loss": "mes"}, "There is no loss 'mes'. Did you mean mse?"),
    ({"loss": "CrossEntropy"}, "Did you mean cross-entropy?"),
    ({"loss": "cross-entropy:1"}, "--loss is cross-entropy:1; the label smoothing after the colon is at least 0"),
    ({"loss": "cross-entropy:much"}, "such as cross-entropy:0.1"),
    ({"batch": 4, "micro": 8}, "--micro is 8; it must be at most --batch, which is 4 samples"),
    ({"metric": "mean_absolute_eror"}, "There is no metric 'mean_absolute_eror'. Did you mean mean-absolute-error?"),
    ({"metric": "accuracy", "better": "lower"}, "--better is lower; of accuracy higher is better"),
    ({"metric": "f1-micro", "target": 3.0}, "--target is 3.0; f1-micro lies between 0 and 1"),
    ({"target": 2.0}, "--target is 2.0; an accuracy lies between 0 and 1"),
    ({"metric": "mean-squared-error", "target": -1.0}, "mean-squared-error is at least 0"),
    ({"metric": "loss", "target": float("nan")}, "it must be a finite number"),
    ({"schedule": "cosin"}, "There is no schedule 'cosin'. Did you mean cosine?"),
    ({"schedule": "step:2"}, "it must be step:ROUNDS:FACTOR such as step:10:0.1"),
    ({"schedule": "step:0:0.1"}, "it must be step:ROUNDS:FACTOR"),
    ({"schedule": "step:1:nan"}, "it must be step:ROUNDS:FACTOR"),
    ({"schedule": "exponential:x"}, "it must be exponential:FACTOR"),
    ({"schedule": "cosine:5"}, "its learning rate would be 0 from round 6 of 10 on"),
])
def test_a_wrong_name_or_value_is_one_sentence(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        RunSettings(**fields).check()
    assert sentence in str(caught.value)


@pytest.mark.parametrize(("loss", "metric", "shape", "binary", "sentence"), [
    ("mse", None, None, False, "--loss is mse, which needs values: floating-point numbers"),
    ("cross-entropy", None, (1,), False, "--loss is cross-entropy, which needs classes"),
    ("bce-with-logits", None, (2,), False, "needs labels: only 0 and 1; y holds values"),
    (None, "accuracy", (2,), True, "--metric is accuracy, which needs classes"),
    (None, "mean-absolute-error", None, False, "needs values: floating-point numbers; y holds classes"),
    (None, "f1-macro", (2,), False, "needs classes, or labels 0 and 1"),
])
def test_loss_and_metric_must_fit_the_data(
    loss: str | None, metric: str | None, shape: tuple[int, ...] | None, binary: bool, sentence: str
) -> None:
    with pytest.raises(UsageError, match=sentence):
        choose_objective(loss, metric, None, shape, binary)


def test_the_loss_of_classes_may_be_smoothed() -> None:
    outputs, targets = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    expected = torch.nn.functional.cross_entropy(outputs, targets, label_smoothing=0.3)
    torch.testing.assert_close(build_loss("cross-entropy:0.3")(outputs, targets), expected)
    assert choose_objective("cross-entropy:0.3", None, None, None, False).loss == "cross-entropy:0.3"
    with pytest.raises(UsageError, match=r"cross-entropy:0.3, which needs classes"):
        choose_objective("cross-entropy:0.3", None, None, (1,), False)


def test_by_default_loss_and_metric_follow_the_data() -> None:
    assert choose_objective(None, None, None, None, False) == Objective()
    assert choose_objective(None, None, None, (4,), True) == Objective("bce-with-logits", "f1-micro", "higher", (4,))
    assert choose_objective(None, None, None, (4, 2), False) == Objective("mse", "mean-absolute-error", "lower", (4, 2))
    assert choose_objective("own:loss", None, None, (4,), False) == Objective("own:loss", "loss", "lower", (4,))
    assert choose_objective(None, "own:metric", "lower", None, False).better == "lower"


def total(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).abs().sum()


def failing(_outputs: Tensor, _targets: Tensor) -> Tensor:
    raise KeyError("nothing")


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A user's module with losses and metrics."""
    module = types.ModuleType("own_losses")
    module.__dict__.update(
        total=total, failing=failing, each=lambda outputs, targets: (outputs - targets).square().mean(1),
        mean=lambda outputs, targets: nn.functional.mse_loss(outputs, targets),
        constant=lambda *_: torch.zeros(()), number=lambda *_: 3,
        worst=lambda outputs, targets: float((outputs - targets).abs().max()))
    monkeypatch.setitem(sys.modules, "own_losses", module)
    return module


@pytest.mark.usefixtures("own")
def test_own_losses_and_metrics() -> None:
    for name in ("each", "mean"):
        check_loss(Objective(f"own_losses:{name}", target_shape=(3,)), (3,), 3, 4)
        torch.testing.assert_close(build_loss(f"own_losses:{name}")(OUTPUTS, VALUES),
                                   nn.functional.mse_loss(OUTPUTS, VALUES))
    worst = Objective("mse", "own_losses:worst", "lower", (3,))
    assert metric(worst, VALUES) == pytest.approx((OUTPUTS - VALUES).abs().max().item())
    check_loss(Objective("own_losses:total", target_shape=(3,)), (3,), 3, 1)


@pytest.mark.usefixtures("own")
@pytest.mark.parametrize(("name", "sentence"), [
    ("total", "own_losses:total is not a mean over the samples"),
    ("failing", r"own_losses:failing failed: KeyError: 'nothing' \(test_objective.py, line \d+\)"),
    ("constant", "own_losses:constant does not depend on the model's outputs"),
    ("number", "own_losses:number returned int"),
    ("none", "the module own_losses has no function none"),
])
def test_an_own_loss_that_cannot_be_used_is_one_sentence(name: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        check_loss(Objective(f"own_losses:{name}", target_shape=(3,)), (3,), 3, 4)


@pytest.mark.usefixtures("own")
def test_an_own_metric_that_fails_is_an_error_of_the_model_not_of_the_edge() -> None:
    with pytest.raises(ModelFailedError, match=r"The metric own_losses:failing failed: KeyError"):
        metric(Objective("mse", "own_losses:failing", "lower", (3,)), VALUES)


TOKENS = torch.randint(0, 3, (30, 5), generator=GENERATOR)
PIXELS = torch.randint(0, 3, (30, 4, 2), generator=GENERATOR)


@pytest.mark.parametrize("classes", [TOKENS, PIXELS])
@pytest.mark.parametrize("last", [True, False])
def test_classes_of_tokens_and_pixels_are_counted_one_by_one(classes: Tensor, last: bool) -> None:
    """Outputs (N, ..., C), as encoders make them, and PyTorch's (N, C, ...)."""
    parts = tuple(classes.shape[1:])
    second = torch.randn(30, 3, *parts, generator=torch.Generator().manual_seed(1))
    outputs = second.movedim(1, -1) if last else second
    objective = choose_objective(None, None, None, None, False, parts)
    assert objective.class_shape == parts
    for name, smoothing in (("cross-entropy", 0.0), ("cross-entropy:0.1", 0.1)):
        loss = build_loss(name)
        whole = loss(outputs, classes)
        torch.testing.assert_close(whole, nn.functional.cross_entropy(second, classes,
                                                                       label_smoothing=smoothing))
        in_parts = loss(outputs[:10], classes[:10]) / 3 + loss(outputs[10:], classes[10:]) * 2 / 3
        torch.testing.assert_close(in_parts, whole)
    right = (second.argmax(1) == classes).float().mean().item()
    sums = [metric_sums(objective, *pair) for pair in zip(outputs.chunk(3), classes.chunk(3), strict=True)]
    assert metric_value(objective, [sum(row[0] for row in sums)], 30) == pytest.approx(right)
    counts = confusion_counts(outputs, classes, 3)
    assert sum(counts) == classes.numel()
    assert sum(counts[::4]) == round(right * classes.numel())
    micro = replace(objective, metric="f1-micro")
    assert metric_value(micro, metric_sums(micro, outputs, classes), 30) == pytest.approx(right)  # of classes the same


def test_as_many_tokens_as_classes_have_their_classes_last_and_pixels_second() -> None:
    outputs = torch.randn(6, 3, 3, generator=torch.Generator().manual_seed(2))
    assert classes_second(outputs, (3,)).equal(outputs.movedim(2, 1))
    square = torch.randn(6, 3, 3, 3, generator=torch.Generator().manual_seed(3))
    assert classes_second(square, (3, 3)) is square
    assert classes_second(outputs[:, 0], ()) is not None


def test_a_loss_of_ones_own_is_tried_with_classes_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("own_losses")
    module.of_tokens = lambda outputs, y: nn.functional.cross_entropy(outputs.transpose(1, 2), y)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "own_losses", module)
    objective = choose_objective("own_losses:of_tokens", "accuracy", None, None, False, (5,))
    check_loss(objective, (5, 3), 3, micro=2)
