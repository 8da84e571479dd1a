"""What an edge keeps for itself in a run with secure aggregation."""

from __future__ import annotations

import pytest
import torch

from trainer.edge.secure_update import SecureUpdates
from trainer.errors import ProtocolError
from trainer.models.building import build_layers
from trainer.models.optimizer import OptimizerConfig
from trainer.models.rng import RandomStream
from trainer.models.split_model import ClientModel
from trainer.models.stage import Stage
from trainer.protocol import messages

CUT = 3
SHARE = 0.25


@pytest.fixture
def model() -> ClientModel:
    return ClientModel(Stage(build_layers("signal-cnn", 1, (3, 32, 32), 3), 0, CUT, OptimizerConfig(reset=False)))


def train(model: ClientModel) -> None:
    segment = model.forward(torch.rand(2, 3, 32, 32), RandomStream(1, "edge1", 1, 1, 0))
    model.backward(0, [torch.ones_like(segment)])
    model.step()


def test_optimizer_state_stays_on_the_edge_for_the_last_two_averagings(model: ClientModel) -> None:
    sums = SecureUpdates("edge1", 3)
    kept = {}
    for number in (2, 4, 6):
        train(model)
        sums.remember_state(number, model)
        kept[number] = {name: tensor.clone() for name, tensor in model.export_layers().items() if ".state." in name}
    assert kept[6]
    for number, expected in ((6, kept[6]), (9, kept[6]), (4, kept[4]), (5, kept[4]), (2, {})):
        found = sums.state_after(number)
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_messages_of_a_sum_that_was_not_begun_are_refused(model: ClientModel) -> None:
    sums = SecureUpdates("edge1", 3)
    for message in (messages.SumPeers(keys={}), messages.SumShares(shares={}), messages.Unmask(survivors=["edge1"])):
        with pytest.raises(ProtocolError, match="continues a secure sum that it has not begun"):
            sums.reply(message, model)


def test_the_values_of_an_edge_are_those_of_its_layers_and_its_tail() -> None:
    stage = Stage(build_layers("signal-cnn", 1, (3, 32, 32), 3), 0, CUT, OptimizerConfig())
    tail = len(stage.layers) - 1
    names = ClientModel(stage, tail).value_names()
    assert names == [name for name in stage.state_dict(0, len(stage.layers))
                     if int(name.split(".")[0]) < CUT or int(name.split(".")[0]) >= tail]
    assert set(ClientModel(stage, tail).value_names(trained_only=True)) <= set(names)
