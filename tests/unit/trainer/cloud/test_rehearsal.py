"""What the cloud makes while edges join is what it would make when they have joined, and is not made again."""

from __future__ import annotations

import pytest
import torch

from trainer.cloud import preparation, rehearsal
from trainer.cloud.made_ahead import MadeAhead
from trainer.cloud.preparation import Preparation, prepare
from trainer.cloud.rehearsal import rehearse, shared_model
from trainer.config.partitioning import IID
from trainer.config.settings import RunSettings
from trainer.data import load
from trainer.data.load import load_local, preload
from trainer.data.standardization import summarize
from trainer.profiling.predictor import ComputeProfile
from trainer.protocol.messages import JoinRequest

EDGES = "edge1", "edge2"
DATA = "traffic-lights"


@pytest.fixture(autouse=True)
def data(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data set that the process has loaded, for the time of a test."""
    monkeypatch.setattr(load, "_preloaded", {})
    preload(DATA, 1)


def requests() -> list[JoinRequest]:
    shares = [load_local(DATA, IID, edge, number, len(EDGES), 1) for number, edge in enumerate(EDGES)]
    return [
        JoinRequest(
            nonce="0" * 32, edge=edge, task=DATA, samples=len(share.train), held_out=len(share.held_out),
            sample_shape=tuple(share.train.inputs.shape[1:]), profile=ComputeProfile(1e9, 1e9),
            statistics=summarize(share.train.inputs, share.train.labels, share.classes),
        )
        for edge, share in zip(EDGES, shares, strict=True)
    ]


def settings_of(**changes: object) -> RunSettings:
    return RunSettings(edges=EDGES, data=DATA, **changes)  # type: ignore[arg-type]


def facts(prepared: Preparation) -> tuple[object, ...]:
    return prepared.message, prepared.costs, prepared.boundaries, prepared.constant, prepared.reasons


def test_a_rehearsed_run_is_prepared_alike_and_builds_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    settings, cpu = settings_of(), torch.device("cpu")
    afresh = prepare(requests(), settings)
    layers = shared_model(afresh.message, cpu, MadeAhead()).layers
    made = rehearse(settings)

    def fail(*_: object, **__: object) -> None:
        raise AssertionError("it was rehearsed")

    for module, name in ((preparation, "build_for_inputs"), (preparation, "layer_costs"), (rehearsal, "build_shared")):
        monkeypatch.setattr(module, name, fail)
    rehearsed = prepare(requests(), settings, made)
    assert facts(rehearsed) == facts(afresh)
    for ours, theirs in zip(shared_model(rehearsed.message, cpu, made).layers, layers, strict=True):
        assert all(torch.equal(*pair) for pair in zip(ours.parameters(), theirs.parameters(), strict=True))


def test_edges_that_join_with_other_data_have_it_prepared_for_theirs() -> None:
    settings = settings_of()
    made = rehearse(settings)
    smaller = [request.model_copy(update={"sample_shape": (3, 16, 16)}) for request in requests()]
    assert facts(prepare(smaller, settings, made)) == facts(prepare(smaller, settings))


def test_what_a_rehearsal_fails_at_is_told_when_the_edges_have_joined() -> None:
    settings = settings_of(model="no_such_package:model")
    made = rehearse(settings)
    with pytest.raises(Exception, match="no_such_package"):
        prepare(requests(), settings, made)
