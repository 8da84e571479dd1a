"""What an edge says is checked: requests, measured times, counts, step times, segments."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainer.cloud import edge_checks
from trainer.data.standardization import Moments, Statistics, summarize
from trainer.errors import ProtocolError
from trainer.profiling.predictor import ComputeProfile
from trainer.protocol import messages

SAMPLES = 20


def request_of(inputs: Tensor, **changes: Any) -> messages.JoinRequest:
    labels = torch.arange(len(inputs)) % 3
    fields: dict[str, Any] = {
        "nonce": "0" * 32, "edge": "edge1", "task": "t", "samples": len(inputs), "held_out": 5,
        "sample_shape": tuple(inputs.shape[1:]), "statistics": summarize(inputs, labels, 3),
        "profile": ComputeProfile(1e9, 1e9), **changes,
    }
    return messages.JoinRequest(**fields)


INPUTS = torch.arange(SAMPLES * 2 * 4, dtype=torch.float32).reshape(SAMPLES, 2, 4)
HONEST = request_of(INPUTS)


@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e-12, 1.0, 1e6]), st.sampled_from([0.0, 1.0, -1e8, 1e-9]),
       st.sampled_from([(1,), (5,), (2, 4), (3, 4, 4)]))
def test_the_statistics_of_any_data_are_possible(
    seed: int, scale: float, offset: float, shape: tuple[int, ...]
) -> None:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn((SAMPLES, *shape), generator=generator, dtype=torch.float64) * scale + offset
    edge_checks.check_join_request(request_of(inputs))
    edge_checks.check_join_request(request_of(inputs.to(torch.float32)))


def test_protected_labels_have_no_class_counts() -> None:
    statistics = replace(HONEST.statistics, class_counts=(0, 0, 0))
    edge_checks.check_join_request(HONEST.model_copy(update={"statistics": statistics}))


def with_moments(**changes: Any) -> dict[str, Any]:
    return {"statistics": replace(HONEST.statistics, plain=replace(HONEST.statistics.plain, **changes))}


@pytest.mark.parametrize(("changes", "reason"), [
    ({"samples": 10**9}, "edge1 has 1000000000 samples, but those of its classes sum to 20"),
    ({"samples": 10**9, "statistics": replace(HONEST.statistics, class_counts=(10**9,))},
     "edge1 sent statistics of 80 values of a feature; its samples have 4000000000"),
    ({"profile": ComputeProfile(0.0, 1e9)}, "profiles itself with 0 FLOP/s"),
    ({"profile": ComputeProfile(1e9, math.inf)}, "profiles itself with inf bytes/s"),
    ({"profile": ComputeProfile(math.nan, 1e9)}, "profiles itself with nan FLOP/s"),
    ({"profile": ComputeProfile(-1.0, 1e9)}, "-1 FLOP/s; possible are 1000 to 1e+18"),
    ({"profile": ComputeProfile(1e9, 1e300)}, "profiles itself with 1e+300 bytes/s"),
    ({"profile": ComputeProfile(1e9, 1e9, 0.5)}, "profiles itself with a slowdown of 0.5"),
    ({"profile": ComputeProfile(1e9, 1e9, math.nan)}, "profiles itself with a slowdown of nan"),
    ({"sample_shape": (2**16, 2**16, 2**16)}, "samples of 281474976710656 values"),
    ({"statistics": replace(HONEST.statistics, class_counts=(SAMPLES, *[0] * 256))}, "257 classes; 1 to 256"),
    ({"statistics": replace(HONEST.statistics, class_counts=(SAMPLES + 1, -1))}, "a least one of -1"),
    ({"statistics": replace(HONEST.statistics, class_counts=())}, "0 classes"),
    (with_moments(mean=(math.nan, 0.0)), "feature 0 that are not finite"),
    (with_moments(m2=(1.0, -1.0)), "feature 1 that no values have"),
    (with_moments(m2=(1e12, 1.0)), "feature 0 that no values have"),
    (with_moments(m3=(1e15, 1.0)), "feature 0 that no values have"),
    (with_moments(mean=(1e6, 80.0)), "feature 0 that no values have: mean 1e+06, minimum 0"),
    (with_moments(minimum=(200.0, 4.0)), "feature 0 that no values have"),
    (with_moments(mean=(1.0,)), "statistics of 1 features; its samples have 2"),
])
def test_an_impossible_request_is_refused_with_the_value(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ProtocolError) as caught:
        edge_checks.check_join_request(HONEST.model_copy(update=changes))
    assert reason in str(caught.value)


def test_the_moments_of_other_sources_are_checked_like_those_of_values() -> None:
    logged = Moments(80, (9e9, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (1.0, 1.0))
    statistics = Statistics(HONEST.statistics.plain, logged, HONEST.statistics.class_counts)
    with pytest.raises(ProtocolError, match="feature 0"):
        edge_checks.check_join_request(HONEST.model_copy(update={"statistics": statistics}))


@pytest.mark.parametrize("confusion", [(2, 1, 0), (2, 1, 0, 3), (3, 1, 0, 1)])
def test_counts_of_confused_classes_are_those_of_the_held_out_samples(confusion: tuple[int, ...]) -> None:
    edge_checks.check_evaluated(messages.Evaluated(sums=(3.0,), total=5, confusion=(2, 1, 1, 1)), 5)
    with pytest.raises(ProtocolError, match="confused classes"):
        edge_checks.check_evaluated(messages.Evaluated(sums=(3.0,), total=5, confusion=confusion), 5)


@given(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100))
def test_counts_are_those_of_the_held_out_samples(correct: int, total: int, held_out: int) -> None:
    counts = messages.Evaluated(sums=(float(correct),), total=total)
    if total == held_out and correct <= total:
        edge_checks.check_evaluated(counts, held_out)
    else:
        with pytest.raises(ProtocolError):
            edge_checks.check_evaluated(counts, held_out)


DONE = messages.StepDone(step=0, forward_s=0.1, forward_cpu_s=0.1, backward_s=0.1, backward_cpu_s=0.1, late_s=0.0,
                         gradients_received_s=[1010.0, 1010.1], loss=0.5)


@pytest.mark.parametrize(("changes", "reason"), [
    ({}, None),
    ({"forward_s": -0.1}, "its forward_s is -0.1 s"),
    ({"backward_cpu_s": 1e9}, "its backward_cpu_s is 1e+09 s"),
    ({"late_s": -1.0}, "its late_s is -1 s"),
    ({"loss": -0.5}, "its loss is -0.5"),
    ({"gradients_received_s": [1010.1, 1010.0]}, "in another order"),
    ({"gradients_received_s": [900.0, 1010.0]}, "it received a gradient -100 s after it was sent"),
    ({"gradients_received_s": [1010.0, 2010.0]}, "after it was sent"),
    ({"tail_inputs_received_s": [900.0, 1010.0]}, "an input of its tail -100 s after the step began"),
])
def test_the_times_of_a_step_lie_within_it(changes: dict[str, Any], reason: str | None) -> None:
    """The clock of the edge is 1000 s ahead."""
    done = DONE.model_copy(update=changes)
    if reason is None:
        edge_checks.check_step_done(done, [0.0, 0.1], 11.0, 1000.0, 30.0)
        return
    with pytest.raises(ProtocolError) as caught:
        edge_checks.check_step_done(done, [0.0, 0.1], 11.0, 1000.0, 30.0)
    assert reason in str(caught.value)


def test_a_frame_was_sent_before_it_arrived() -> None:
    edge_checks.check_sent_time(1009.9, 10.0, 1000.0, 30.0)
    for sent_s in (1100.0, 900.0):
        with pytest.raises(ProtocolError, match="before it arrived"):
            edge_checks.check_sent_time(sent_s, 10.0, 1000.0, 30.0)


def test_inputs_lie_in_the_range_that_the_edges_joined_with() -> None:
    edge_checks.check_values(torch.tensor([[0, 99]]), (0, 99))
    edge_checks.check_values((torch.tensor([[0, 100]]), torch.tensor([True])), None)
    for ids in ([[0, 100]], [[-1, 5]]):
        with pytest.raises(ProtocolError, match="the edges joined with 0 to 99"):
            edge_checks.check_values(torch.tensor(ids), (0, 99))
    with pytest.raises(ProtocolError, match="NaN"):
        edge_checks.check_values(torch.tensor([math.nan]))


def test_a_reason_is_shown_without_control_characters_and_limited() -> None:
    assert edge_checks.printable("a\x1b[2Jb\n" + "x" * 10_000) == "a [2Jb " + "x" * 493
