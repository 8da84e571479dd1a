"""Predicted computing times: a prior from costs, corrected by measurements."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.models.building import build_layers
from trainer.profiling.layer_costs import layer_costs, segment_shapes
from trainer.profiling.predictor import (
    CloudPredictor,
    ComputeProfile,
    ComputeWork,
    CostModel,
    LayerSeconds,
    Predictor,
    TailPredictor,
    prior_seconds,
    seconds_on,
)
from trainer.profiling.slowdown import StepTimes

SHAPE = (3, 32, 32)


LAYERS = LayerSeconds((0.1, 0.2), (0.2, 0.4))


@pytest.fixture
def predictor() -> Predictor:
    return Predictor(LAYERS)


def at(predictor: Predictor, cut: int) -> float:
    return predictor.forward_s()[cut] + predictor.backward_s()[cut]


def update(predictor: Predictor, cut: int, steps_s: list[float], share: float = 1.0) -> None:
    """Update by a round of steps of one micro-batch, a third of each forward, on that share of a processor."""
    predictor.update(cut, 1, [step(step_s / 3, 2 * step_s / 3, share) for step_s in steps_s])


def step(forward_s: float, backward_s: float, share: float = 1.0) -> StepTimes:
    """Wall times; `share` of them is CPU time."""
    return StepTimes(forward_s, share * forward_s, backward_s, share * backward_s)


def test_a_cut_costs_the_edge_its_leading_layers_and_the_cloud_the_rest(predictor: Predictor) -> None:
    assert predictor.forward_s() == pytest.approx([0.0, 0.1, 0.3])
    assert predictor.backward_s() == pytest.approx([0.0, 0.2, 0.6])
    assert CloudPredictor(LAYERS).work_s() == pytest.approx([0.9, 0.6, 0.0])


def test_a_tail_costs_the_time_of_its_layers_until_it_is_measured() -> None:
    tail = TailPredictor(LAYERS.restricted_to(1, 2))
    assert tail.work_s() == pytest.approx(0.6)
    for _ in range(20):
        tail.update(4, [4 * 0.8] * 3)
    assert tail.work_s() == pytest.approx(0.8, rel=0.03)
    assert TailPredictor.from_json(json.loads(json.dumps(tail.to_json()))).work_s() == pytest.approx(tail.work_s())


def test_a_cloud_without_the_tail_needs_nothing_for_its_layers() -> None:
    assert CloudPredictor(LAYERS.restricted_to(0, 1)).work_s() == pytest.approx([0.3, 0.0, 0.0])


def test_a_halved_processor_shows_after_one_round_at_every_cut(predictor: Predictor) -> None:
    for cut in (2, 1, 2, 1):
        update(predictor, cut, [at(predictor, cut)] * 4)
    update(predictor, 2, [1.82, 1.78, 1.81, 1.8])
    assert at(predictor, 2) == pytest.approx(1.8, rel=0.05)
    assert at(predictor, 1) == pytest.approx(0.6, rel=0.1)


def test_a_change_in_the_middle_of_the_first_step_shows_as_well(predictor: Predictor) -> None:
    for _ in range(5):
        update(predictor, 2, [0.9] * 4)
    update(predictor, 2, [1.0, 1.78, 1.81, 1.8])
    assert at(predictor, 2) == pytest.approx(1.8, rel=0.05)


def test_a_halved_share_of_a_processor_shows_after_one_round_at_every_cut(predictor: Predictor) -> None:
    for cut in (2, 1, 2, 1):
        update(predictor, cut, [at(predictor, cut)] * 4)
    update(predictor, 2, [1.5, 1.9, 1.7, 1.9], share=0.5)
    assert at(predictor, 2) == pytest.approx(1.75, rel=0.05)
    assert at(predictor, 1) == pytest.approx(0.58, rel=0.05)


def test_a_share_that_makes_short_steps_uneven_does_not_change_the_layer_times(predictor: Predictor) -> None:
    for _ in range(8):
        predictor.update(2, 1, [step(0.3, 0.6), step(0.6, 1.2, 0.5), step(0.3, 0.6), step(0.6, 1.2, 0.5)])
    assert at(predictor, 2) == pytest.approx(1.35, rel=0.06)
    assert at(predictor, 1) == pytest.approx(at(predictor, 2) / 3, rel=1e-3)


def test_one_slow_step_does_not_swing_the_prediction(predictor: Predictor) -> None:
    for _ in range(5):
        update(predictor, 2, [0.9] * 4)
    update(predictor, 2, [0.90, 0.91, 2.7, 0.9])
    assert at(predictor, 2) == pytest.approx(0.9, rel=0.05)


def test_measurements_at_a_cut_affect_its_own_layers_most(predictor: Predictor) -> None:
    for _ in range(10):
        update(predictor, 1, [0.45] * 4)
        update(predictor, 2, [1.05] * 4)
    assert at(predictor, 1) == pytest.approx(0.45, rel=0.03)
    assert at(predictor, 2) == pytest.approx(1.05, rel=0.03)


def test_nothing_measured_changes_nothing(predictor: Predictor) -> None:
    predictor.update(0, 4, [step(0.1, 0.1)])
    predictor.update(2, 4, [])
    assert predictor.forward_s() == pytest.approx([0.0, 0.1, 0.3])


def test_the_cloud_predictor_updates_by_the_work_for_all_edges_together() -> None:
    cloud = CloudPredictor(LAYERS)
    for _ in range(10):
        cloud.update([(1, 4), (0, 4)], [2 * 4 * 1.5] * 4)
    assert sum(cloud.work_s()[:2]) == pytest.approx(3.0, rel=0.05)


def test_the_state_of_a_predictor_survives_as_json(predictor: Predictor) -> None:
    for cut in (1, 2, 2):
        update(predictor, cut, [0.5 * cut, 0.52 * cut])
    restored = Predictor.from_json(json.loads(json.dumps(predictor.to_json())))
    for instance in (predictor, restored):
        update(instance, 2, [1.1, 1.2])
    assert restored.backward_s() == predictor.backward_s()
    assert restored.noise_share == predictor.noise_share


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31), noise=st.floats(0.005, 0.06), share=st.sampled_from([0.4, 0.5, 2.0, 2.5]),
    layers=st.integers(2, 12),
)
def test_predictions_for_a_noisy_node_are_steady_and_follow_a_new_share_within_one_round(
    seed: int, noise: float, share: float, layers: int
) -> None:
    random = np.random.default_rng(seed)
    true_s = random.uniform(0.005, 0.05, layers)
    prior_s = tuple(true_s * random.lognormal(0, 0.2, layers))
    predictor = Predictor(LayerSeconds(prior_s, prior_s))
    cut, predicted, errors = int(random.integers(1, layers + 1)), [], []
    for number in range(24):
        node_s = true_s / (share if number >= 12 else 1.0)
        predicted.append(at(predictor, cut) / (2 * float(node_s[:cut].sum())))
        steps = [float(node_s[:cut].sum()) * 4 * random.lognormal(0, noise) for _ in range(4)]
        predictor.update(cut, 4, [step(step_s, step_s) for step_s in steps])
        errors.append(abs(at(predictor, cut) / (2 * float(node_s[:cut].sum())) - 1))
    assert errors[12] < 0.06 + 2 * noise  # after the first round at the new share
    for steady in (predicted[4:12], predicted[16:]):
        assert max(steady) - min(steady) < 0.02 + 1.5 * noise


def test_a_cost_model_finds_what_flops_bytes_and_calls_cost() -> None:
    truth = CostModel(1e-10, 3e-9, 2e-5)
    works = [ComputeWork(flops, moved) for flops in (1e5, 1e7, 1e8) for moved in (1e4, 1e6)]
    fitted = CostModel.fit(works, [truth.seconds(work) for work in works])
    assert (fitted.flop_s, fitted.byte_s, fitted.call_s) == pytest.approx((1e-10, 3e-9, 2e-5), rel=1e-6)


def test_a_cost_is_never_negative() -> None:
    works = [ComputeWork(1e8, 1e6), ComputeWork(2e8, 3e6), ComputeWork(1e8, 5e6)]
    fitted = CostModel.fit(works, [0.02, 0.03, 0.01])  # more bytes take less time
    assert min(fitted.flop_s, fitted.byte_s, fitted.call_s) >= 0


def test_costs_count_the_multiplications_of_a_convolution() -> None:
    costs = layer_costs(build_layers("signal-cnn", 1, SHAPE, 3), SHAPE)
    assert costs[0].forward_flops == 2 * 3 * 9 * 16 * 32 * 32
    assert costs[1].forward_flops == 0
    assert costs[1].moved_bytes == 4 * 16 * 32 * 32 + (4 + 8) * 16 * 16 * 16  # a pool stores the indices of the maxima
    assert costs[2].backward_flops == 2 * costs[2].forward_flops
    assert 5e6 <= sum(cost.forward_flops for cost in costs) <= 15e6
    assert 50_000 <= sum(cost.parameters for cost in costs) <= 200_000
    assert segment_shapes(costs, SHAPE)[:3] == [(3, 32, 32), (16, 32, 32), (16, 16, 16)]


def test_the_prior_of_a_pool_depends_on_memory_speed() -> None:
    costs = layer_costs(build_layers("signal-cnn", 1, SHAPE, 3), SHAPE)
    slow, fast = (prior_seconds(costs, ComputeProfile(1e10, rate), 16).forward_s[1] for rate in (1e9, 1e10))
    assert slow > 5 * fast


COSTS = layer_costs(build_layers("signal-cnn", 1, SHAPE, 3), SHAPE)
CLOUD = ComputeProfile(4e10, 8e9)
MEASURED = LayerSeconds(tuple(2e-3 * (1 + number) for number in range(len(COSTS))), (1e-3,) * len(COSTS), 2.0)


def on(node: ComputeProfile, samples: int = 16) -> LayerSeconds:
    return seconds_on(node, samples, COSTS, MEASURED, CLOUD, 16)


def test_a_node_as_fast_as_the_cloud_takes_as_long_without_its_slowdown() -> None:
    predicted = on(CLOUD)
    assert predicted.forward_s == pytest.approx([second / 2 for second in MEASURED.forward_s])
    assert predicted.backward_s == pytest.approx([second / 2 for second in MEASURED.backward_s])
    assert on(ComputeProfile(4e10, 8e9, 3.0)).forward_s == pytest.approx([1.5 * s for s in MEASURED.forward_s])


def test_a_slower_processor_slows_convolutions_and_a_slower_memory_slows_pools() -> None:
    convolution, pool = 0, 1
    fewer_flops, fewer_bytes = on(ComputeProfile(1e10, 8e9)), on(ComputeProfile(4e10, 2e9))
    assert fewer_flops.forward_s[pool] == pytest.approx(MEASURED.forward_s[pool] / 2)
    assert fewer_bytes.forward_s[pool] == pytest.approx(4 * MEASURED.forward_s[pool] / 2)
    assert 1.3 < 2 * fewer_flops.forward_s[convolution] / MEASURED.forward_s[convolution] < 4
    assert on(ComputeProfile(1e10, 2e9)).work_s == pytest.approx([4 * second / 2 for second in MEASURED.work_s])


def test_half_the_samples_take_half_as_long() -> None:
    assert on(CLOUD, samples=8).work_s == pytest.approx([second / 4 for second in MEASURED.work_s])


def test_a_layer_without_counted_work_takes_as_long_as_memory_is_slow() -> None:
    free = replace(COSTS[0], forward_flops=0.0, moved_bytes=0.0, backward_flops=0.0, backward_moved_bytes=0.0)
    measured = LayerSeconds((1e-3,), (0.0,))
    assert seconds_on(ComputeProfile(1e10, 2e9), 16, [free], measured, CLOUD, 16).forward_s == pytest.approx((4e-3,))
