"""Outputs for held-out samples: those of the whole model; a frozen front runs once."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from trainer.config.fine_tuning import parse_fine_tuning
from trainer.edge.evaluation import EVALUATION_SAMPLES, Evaluation
from trainer.models.building import build_model
from trainer.models.optimizer import OptimizerConfig
from trainer.models.stage import Stage


@pytest.mark.parametrize(("freeze", "front"), [(None, 0), ("0", 2), ("0,2", 4), ("2", 0)])
def test_a_frozen_front_runs_once_and_the_outputs_are_those_of_the_whole_model(freeze: str | None, front: int) -> None:
    built = build_model("resnet", 1, (3, 8, 8), 3, tuning=parse_fine_tuning(freeze)) if freeze is None else build_model(
        "signal-cnn", 1, (3, 16, 16), 3, tuning=parse_fine_tuning(freeze))
    stage = Stage(built.layers, 0, len(built.layers), OptimizerConfig(), built.unchanging)
    assert stage.unchanging_front() == front
    calls: list[int] = []
    built.layers[0].register_forward_hook(lambda _module, inputs, _output: calls.append(len(inputs[0])))
    evaluation = Evaluation(stage, lambda values: 2 * values)
    inputs = torch.randn(EVALUATION_SAMPLES + 5, *((3, 8, 8) if freeze is None else (3, 16, 16)))
    for samples in (len(inputs) - 3, len(inputs), len(inputs)):
        with torch.no_grad():
            for layer in built.layers[front:]:
                for value in layer.parameters():
                    value.mul_(0.9)
        own = nn.Sequential(*copy.deepcopy(built.layers)).eval()
        outputs = evaluation.outputs(inputs[:samples])
        assert outputs is not None
        with torch.no_grad():
            torch.testing.assert_close(outputs, own(2 * inputs[:samples]), rtol=1e-4, atol=1e-5)
        calls.pop()  # of the whole model, whose copy has the hook, too
    assert len(calls) == (4 if front else 6)
    assert evaluation.outputs(inputs[:0]) is None


@pytest.mark.parametrize("freeze", [None, "0,2"])
@pytest.mark.parametrize("samples", [7, EVALUATION_SAMPLES + 5])
def test_layers_may_run_as_their_values_arrive(freeze: str | None, samples: int) -> None:
    built = build_model("signal-cnn", 1, (3, 16, 16), 3, tuning=parse_fine_tuning(freeze))
    arrived = build_model("signal-cnn", 2, (3, 16, 16), 3).layers
    inputs = torch.randn(samples, 3, 16, 16)
    stage = Stage(built.layers, 0, len(built.layers), OptimizerConfig(), built.unchanging)
    evaluation = Evaluation(stage, lambda values: 2 * values)
    runs: list[int] = []
    for number, layer in enumerate(built.layers):
        layer.register_forward_hook(lambda *_, number=number: runs.append(number))
    for stale in (True, False):  # an averaging that was given up, then one to its end
        evaluation.restart()
        for first, last in ((0, 3), (3, 5), (5, len(built.layers))):
            for number in range(first, last):
                own = {name: value + stale for name, value in arrived[number].state_dict().items()
                       if name in stage.changing_values(number)}
                built.layers[number].load_state_dict(own, strict=False)
            if last < len(built.layers) and not (stale and first):
                evaluation.advance(inputs, last)
    runs_before_the_last = list(runs)
    outputs = evaluation.outputs(inputs)
    fresh = Evaluation(stage, lambda values: 2 * values).outputs(inputs)
    assert outputs is not None
    assert fresh is not None
    assert torch.equal(outputs, fresh)
    assert (4 in runs_before_the_last) == (samples <= EVALUATION_SAMPLES)
