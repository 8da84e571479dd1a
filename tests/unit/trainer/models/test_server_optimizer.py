"""Server optimizers: one step by hand, what is left alone, and state that is passed on and not modified."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from trainer.models.server_optimizer import ServerOptimizerConfig, parameter_names, server_step

PREVIOUS = {"0.weight": torch.tensor([1.0, 2.0]), "0.running_mean": torch.tensor([0.0])}
MEAN = {"0.weight": torch.tensor([0.8, 2.4]), "0.running_mean": torch.tensor([5.0])}


def step(config: ServerOptimizerConfig, state: dict[str, dict[str, Tensor]]) -> tuple[
    dict[str, Tensor], dict[str, dict[str, Tensor]]
]:
    return server_step(config, PREVIOUS, MEAN, ["0.weight"], state)


def test_fedavg_takes_the_mean_as_it_is() -> None:
    model, state = step(ServerOptimizerConfig(), {})
    assert all(model[name] is value for name, value in MEAN.items())
    assert state == {}


@pytest.mark.parametrize(("config", "first", "second"), [
    (ServerOptimizerConfig("fedavgm"), [0.8, 2.4], [0.62, 2.76]),  # 1.9 times the update
    (ServerOptimizerConfig("fedadam", 0.1), [1 - 0.1 * 0.2 / 0.201, 2 + 0.1 * 0.4 / 0.401], None),
], ids=["fedavgm", "fedadam"])
def test_parameters_are_stepped_and_buffers_are_those_of_the_mean(
    config: ServerOptimizerConfig, first: list[float], second: list[float] | None
) -> None:
    model, state = step(config, {})
    torch.testing.assert_close(model["0.weight"], torch.tensor(first))
    assert model["0.running_mean"].item() == 5
    before = {name: value.clone() for name, value in state["0.weight"].items()}
    again, later = step(config, state)
    assert all(torch.equal(state["0.weight"][name], value) for name, value in before.items())
    assert any(not torch.equal(later["0.weight"][name], value) for name, value in before.items())
    if second is not None:
        torch.testing.assert_close(again["0.weight"], torch.tensor(second))
    assert torch.equal(PREVIOUS["0.weight"], torch.tensor([1.0, 2.0]))


def test_without_a_change_the_model_stays() -> None:
    model, _ = server_step(ServerOptimizerConfig("fedadam"), PREVIOUS, PREVIOUS, ["0.weight"], {})
    assert torch.equal(model["0.weight"], PREVIOUS["0.weight"])


def test_parameters_that_do_not_train_are_not_stepped() -> None:
    layer = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    layer[0].weight.requires_grad_(False)
    assert parameter_names([layer]) == ["0.0.bias", "0.1.weight", "0.1.bias"]
