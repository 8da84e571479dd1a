"""When the planner keeps segments of a frozen part, and what a round then sends."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch

from trainer.cloud.edge_replica import EdgeReplica, build_replica
from trainer.cloud.edge_session import EdgeSession
from trainer.cloud.keeping import Keeping
from trainer.cloud.kept_segments import KeepingSpace, KeptSegments
from trainer.cloud.round_planning import plan_training_round
from trainer.config.fine_tuning import parse_fine_tuning
from trainer.config.settings import RunSettings
from trainer.data.standardization import Standardization
from trainer.models.building import build_model
from trainer.models.optimizer import OptimizerConfig
from trainer.planning.codec_selection import CodecSelector
from trainer.planning.forecasts import StepForecaster
from trainer.planning.plan import Offer, RoundPlan
from trainer.profiling.predictor import LayerSeconds
from trainer.protocol.messages import Prepare

SAMPLES, BATCH, STEPS, MSS = 40, 10, 2, 1448
TUNING = parse_fine_tuning("0,1")
BUILT = build_model("mlp", 1, (6,), 3, tuning=TUNING)
SECONDS = LayerSeconds((1e-3,) * 5, (0.0, 0.0, 1e-3, 1e-3, 1e-3))
OFFER = Offer({"edge1": ("up",)}, {"edge1": ("down",)}, {"up": 1e6, "down": 1e6}, 1e4)


def replica() -> EdgeReplica:
    recipe = Prepare(model="mlp", sample_shape=(6,), classes=3, seed=1, tuning=TUNING, optimizer=OptimizerConfig(),
                     standardization=Standardization("none", (), (), (), "a test"), batch=BATCH, micro=2, steps=STEPS)
    request = SimpleNamespace(samples=SAMPLES, min_cut=1, collects=False)
    session = SimpleNamespace(name="edge1", request=request, data_order=5, planning_mss_bytes=MSS, worker=None)
    return build_replica(cast(EdgeSession, session), recipe, torch.device("cpu"), BUILT)


def plan(
    edge: EdgeReplica, number: int, rounds: int, directory: Path, cuts: tuple[tuple[int, ...], ...] = ((2,),),
    memory_bytes: int = 10**9,
) -> RoundPlan:
    forecaster = StepForecaster({"edge1": SECONDS}, SECONDS, BUILT.boundaries, {"edge1": BATCH}, 2, [0] * 5,
                                CodecSelector("fp32"))
    space = KeepingSpace(memory_bytes, directory)
    keeping = Keeping(BUILT.constant, BUILT.boundaries, space, forecaster, rounds, STEPS)
    settings = RunSettings(edges=("edge1",), rounds=rounds, steps=STEPS, batch=BATCH, micro=2, cuts=cuts)
    return plan_training_round(number, OFFER, settings, {"edge1": edge}, forecaster, 5, keeping=keeping)


def send(edge: EdgeReplica, number: int, directory: Path) -> None:
    """Mark what a round sends as kept."""
    if edge.kept is None:
        edge.kept = KeptSegments(2, BUILT.boundaries[2], "fp32", SAMPLES, KeepingSpace(10**9, directory))
    for step in range(STEPS):
        edge.kept.sent.take(edge.micro_batches_of((number - 1) * STEPS + step))


def test_a_sample_is_sent_in_the_first_epoch_and_nothing_afterwards(tmp_path: Path) -> None:
    edge = replica()
    plans = []
    for number in range(1, 5):
        plans.append(plan(edge, number, 10, tmp_path))
        send(edge, number, tmp_path)
    edges = [made.edges[0] for made in plans]
    assert all(planned.keep for planned in edges)
    assert [planned.up_bps > 0 for planned in edges] == [True, True, False, False]  # an epoch is four steps
    assert [planned.down_bps for planned in edges] == [0] * 4
    assert [planned.forward_s > 0 for planned in edges] == [True, True, False, False]
    assert plans[2].step_s < 0.5 * plans[0].step_s


def test_segments_that_would_be_used_once_are_not_kept(tmp_path: Path) -> None:
    assert not plan(replica(), 1, 2, tmp_path).edges[0].keep
    assert plan(replica(), 1, 3, tmp_path).edges[0].keep


def test_segments_behind_a_trained_layer_are_not_kept(tmp_path: Path) -> None:
    planned = plan(replica(), 1, 10, tmp_path, ((3,),)).edges[0]
    assert not planned.keep
    assert planned.down_bps > 0


def test_segments_without_room_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=100))
    assert not plan(replica(), 1, 10, tmp_path, memory_bytes=100).edges[0].keep


def test_over_many_rounds_a_frozen_cut_wins_over_a_trained_one(tmp_path: Path) -> None:
    """The bits of both cuts are the same; only segments of the frozen one are sent once."""
    assert plan(replica(), 1, 1000, tmp_path, ()).edges[0].cut <= 2
