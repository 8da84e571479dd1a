"""Distance correlation: its definition, its limits, and that of the segments of a model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from trainer.models.building import build_model
from trainer.privacy.distance_correlation import distance_correlation
from trainer.profiling.leakage import segment_leakage


def normal(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_what_is_scaled_shifted_and_rotated_has_a_distance_correlation_of_1() -> None:
    samples = normal(60, 3)
    rotation, _ = torch.linalg.qr(normal(3, 3, seed=2))
    assert distance_correlation(samples, 7 * samples @ rotation - 3) == pytest.approx(1, abs=1e-6)


def test_independent_samples_have_a_small_one_also_with_many_values() -> None:
    assert distance_correlation(normal(200, 5000), normal(200, 5000, seed=2)) < 0.2
    assert distance_correlation(normal(200, 1), torch.ones(200, 1)) == 0


def test_dependence_without_correlation_is_seen() -> None:
    samples = torch.linspace(-1, 1, 101)[:, None]
    assert distance_correlation(samples, samples**2) > 0.4


def test_it_is_that_of_the_definition() -> None:
    """Szekely and Rizzo 2014, equation 3.4, summed element by element."""
    one, other = normal(9, 2).double(), normal(9, 4, seed=3).double() + normal(9, 1).double()
    matrices = []
    for samples in (one, other):
        distance = [[float((a - b).norm()) for b in samples] for a in samples]
        rows = [sum(row) for row in distance]
        matrices.append([[0.0 if i == j else distance[i][j] - (rows[i] + rows[j]) / 7 + sum(rows) / 56
                          for j in range(9)] for i in range(9)])
    first, second = (torch.tensor(matrix, dtype=torch.float64) for matrix in matrices)
    expected = (first * second).sum() / ((first * first).sum() * (second * second).sum()).sqrt()
    assert distance_correlation(one, other) == pytest.approx(max(0.0, float(expected)) ** 0.5, rel=1e-9)


def test_every_cut_of_a_model_has_one_and_the_raw_input_gives_all_away() -> None:
    built = build_model("signal-cnn", 1, (3, 32, 32), 3)
    inputs = normal(40, 3, 32, 32) + 3 * normal(40, 3, 1, 1, seed=2)
    found = segment_leakage(built.layers, built.boundaries, inputs)
    assert len(found) == len(built.layers) + 1
    assert found[0] == 1 and all(0 <= value <= 1 for value in found)
    assert found[1] > 0.5
    assert all(layer.training for layer in built.layers)


def test_an_identity_gives_all_away() -> None:
    inputs = normal(30, 4)
    built = build_model("mlp", 1, (4,), 3)
    flat = [nn.Flatten(), nn.Identity()]
    found = segment_leakage(flat, [built.boundaries[0]] * 3, inputs)
    assert found[1:] == pytest.approx([1, 1], abs=1e-6)
