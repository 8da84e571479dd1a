"""Predictions: a prior from costs, corrected by what is measured."""

from __future__ import annotations

import pytest

from trainer.costs import layer_costs, segment_shapes
from trainer.models import build_layers
from trainer.predictor import ComputeProfile, LayerSeconds, Predictor, prior_seconds

SHAPE = (3, 32, 32)


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(LayerSeconds((0.1, 0.2), (0.2, 0.4)))


def test_a_cut_costs_the_edge_its_leading_layers_and_the_cloud_the_rest(predictor: Predictor) -> None:
    assert predictor.edge_forward_s(1) == pytest.approx([0.0, 0.1, 0.3])
    assert predictor.edge_backward_s(2) == pytest.approx([0.0, 0.4, 1.2])
    assert predictor.cloud_s(1) == pytest.approx([0.9, 0.6, 0.0])


def test_a_halved_processor_is_believed_after_one_round(predictor: Predictor) -> None:
    predictor.forward_scale.correct(0.3, [0.61, 0.59, 0.62, 0.6])
    assert predictor.edge_forward_s(1)[2] == pytest.approx(0.6, rel=0.05)


def test_a_change_in_the_middle_of_the_first_step_is_believed_as_well(predictor: Predictor) -> None:
    predictor.forward_scale.correct(0.3, [0.33, 0.59, 0.62, 0.6])
    assert predictor.edge_forward_s(1)[2] == pytest.approx(0.6, rel=0.05)


def test_one_slow_step_does_not_swing_the_prediction(predictor: Predictor) -> None:
    predictor.forward_scale.correct(0.3, [0.30, 0.31, 0.9, 0.3])
    assert predictor.edge_forward_s(1)[2] == pytest.approx(0.3, rel=0.05)


def test_a_small_deviation_is_followed_slowly(predictor: Predictor) -> None:
    for _ in range(20):
        predictor.forward_scale.correct(predictor.edge_forward_s(1)[2], [0.33, 0.33])
    assert predictor.edge_forward_s(1)[2] == pytest.approx(0.33, rel=0.01)


def test_nothing_measured_changes_nothing(predictor: Predictor) -> None:
    predictor.forward_scale.correct(0.0, [0.1])
    predictor.forward_scale.correct(0.3, [])
    assert predictor.forward_scale.factor == 1.0


def test_costs_count_what_a_convolution_multiplies() -> None:
    costs = layer_costs(build_layers("signal-cnn", 1, SHAPE, 3), SHAPE)
    assert costs[0].forward_flops == 2 * 3 * 9 * 16 * 32 * 32
    assert costs[1].forward_flops == 0
    assert costs[1].moved_bytes == 4 * 16 * 32 * 32 + (4 + 8) * 16 * 16 * 16  # a pool notes where the largest was
    assert costs[2].backward_flops == 2 * costs[2].forward_flops
    assert 5e6 <= sum(cost.forward_flops for cost in costs) <= 15e6
    assert 50_000 <= sum(cost.parameters for cost in costs) <= 200_000
    assert segment_shapes(costs, SHAPE)[:3] == [(3, 32, 32), (16, 32, 32), (16, 16, 16)]


def test_the_prior_of_a_pool_is_paid_in_bytes() -> None:
    costs = layer_costs(build_layers("signal-cnn", 1, SHAPE, 3), SHAPE)
    slow, fast = (prior_seconds(costs, ComputeProfile(1e10, rate), 16).forward_s[1] for rate in (1e9, 1e10))
    assert slow > 5 * fast
