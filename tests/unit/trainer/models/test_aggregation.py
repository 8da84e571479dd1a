"""Aggregation: one wrong model of five does not move the robust rules beyond the others; clipping limits updates."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from trainer.config.settings import AGGREGATES, Aggregate
from trainer.models.aggregation import aggregate, clip_updates, nearest_model
from trainer.models.averaging import average

PREVIOUS = {"w": torch.zeros(4), "mask": torch.tensor([0.0, -math.inf]), "steps": torch.tensor(3)}
ROBUST: tuple[Aggregate, ...] = ("trimmed-mean", "median", "krum")


def model(*values: float, steps: int = 4) -> dict[str, Tensor]:
    return {"w": torch.tensor(values), "mask": PREVIOUS["mask"].clone(), "steps": torch.tensor(steps)}


HONEST = [model(1.0, 2.0, 3.0, 4.0), model(1.1, 2.0, 2.9, 4.2), model(0.9, 2.1, 3.0, 3.9), model(1.0, 1.9, 3.1, 4.1)]


@pytest.mark.parametrize("rule", ROBUST)
@given(value=st.floats(-(2.0**90), 2.0**90, width=32, allow_subnormal=False), place=st.integers(0, 4),
       steps=st.integers(0, 10**9))
def test_one_of_five_cannot_move_the_result_beyond_the_others(
    rule: Aggregate, value: float, place: int, steps: int
) -> None:
    models = [*HONEST]
    models.insert(place, model(value, -value, value, 0.0, steps=steps))
    result = aggregate(rule, models, [10**9 if index == place else 1 for index in range(5)], PREVIOUS)
    honest = torch.stack([each["w"] for each in HONEST])
    assert (result["w"] >= honest.amin(0) - 1e-6).all()
    assert (result["w"] <= honest.amax(0) + 1e-6).all()
    assert torch.equal(result["mask"], PREVIOUS["mask"])
    assert int(result["steps"]) == 4


def test_the_mean_is_that_of_averaging() -> None:
    result = aggregate("mean", HONEST, [1, 2, 3, 4], PREVIOUS)
    expected = average(HONEST, [1, 2, 3, 4])
    assert all(torch.equal(result[name], expected[name]) for name in expected)


def test_values_computed_by_hand() -> None:
    models = [model(value, 0, 0, 0) for value in (1.0, 2.0, 4.0, 8.0, 100.0)]
    assert aggregate("median", models, [1] * 5, PREVIOUS)["w"][0] == 4
    assert aggregate("median", models[:4], [1] * 4, PREVIOUS)["w"][0] == 3
    assert aggregate("trimmed-mean", models, [1] * 5, PREVIOUS)["w"][0] == pytest.approx(14 / 3)
    assert aggregate("trimmed-mean", models, [1] * 5, PREVIOUS, tolerated=2)["w"][0] == 4
    assert nearest_model(models, 1) == 1  # squared distances to the two nearest: 10, 5, 20, 52, 17680
    assert aggregate("krum", models, [1] * 5, PREVIOUS)["w"][0] == 2
    assert aggregate("krum", models[1:], [1] * 4, PREVIOUS)["w"][0] == 6  # too few for Krum: the median


@pytest.mark.parametrize("rule", AGGREGATES)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_models_have_an_aggregate(rule: Aggregate, count: int) -> None:
    result = aggregate(rule, [HONEST[0]] * count, [1] * count, PREVIOUS, tolerated=2)
    assert torch.equal(result["w"], HONEST[0]["w"])


def test_an_update_is_clipped_to_the_median_length_and_keeps_its_direction() -> None:
    models = [model(3.0, 4.0, 0, 0), model(0, 0, 0, 6.0), model(300.0, 400.0, 0, 0)]
    clipped = clip_updates(models, PREVIOUS, 1.0)
    torch.testing.assert_close(clipped[2]["w"], torch.tensor([3.6, 4.8, 0, 0]))
    assert torch.equal(clipped[0]["w"], models[0]["w"])
    assert torch.equal(clipped[2]["mask"], PREVIOUS["mask"])
    assert torch.equal(models[2]["w"], torch.tensor([300.0, 400.0, 0, 0]))


def test_complex_values_are_trimmed_by_coordinate() -> None:
    models = [{"z": torch.tensor([complex(value, -value)])} for value in (1.0, 2.0, 900.0)]
    assert aggregate("median", models, [1] * 3, {"z": torch.zeros(1, dtype=torch.complex64)})["z"][0] == complex(2, -2)
