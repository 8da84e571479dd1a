"""Sequences of token ids: packed, read without y, their next tokens as classes, and models that must not see them."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn

from trainer.cloud.edge_checks import labels_of
from trainer.config.objectives import Objective, choose_objective
from trainer.data.custom import to_data_set
from trainer.data.packing import pack
from trainer.errors import DataError, ProtocolError, UsageError
from trainer.models.building import random_batch
from trainer.models.causal_check import check_causal
from trainer.models.objective import is_possible, metric_sums, metric_value

IDS = np.array([[1, 2, 3, 4], [4, 5, 0, 6], [6, 6, 1, 2], [2, 0, 1, 1], [1, 3, 3, 7]])


def test_documents_are_packed_so_that_each_token_is_predicted_once() -> None:
    rows = pack([[1, 2, 3], [4], [], [5, 6, 7, 8]], tokens=3, separator=0)
    assert rows.tolist() == [[1, 2, 3, 0], [0, 4, 0, 0], [0, 5, 6, 7]]  # 8 and the last separator fill no row
    assert pack([[1]], tokens=3, separator=0).shape == (0, 4)


def test_without_y_the_classes_are_the_next_tokens() -> None:
    data = to_data_set({"X": IDS, "split": np.array(["train"] * 4 + ["test"])}, "ids.npz", 1)
    assert torch.equal(data.train.inputs, torch.from_numpy(IDS[:4, :-1]))
    assert torch.equal(data.train.labels, torch.from_numpy(IDS[:4, 1:]))
    assert (data.vocabulary, data.classes, data.class_shape, data.target_shape) == (8, 8, (3,), None)


@pytest.mark.parametrize(("values", "sentence"), [
    (IDS[:, :1], "without y it is token ids, and a sequence has at least two"),
    (IDS - 1, "holds whole numbers from -1 to 6; without y it is token ids, which count from 0"),
    (IDS + 2**18, "which count from 0 to at most 262143"),
    (IDS * 0.5, "has no array y"),
    (IDS[:, None], "has no array y"),
])
def test_what_is_no_sequence_of_token_ids_is_refused(values: npt.NDArray[np.generic], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        to_data_set({"X": values}, "ids.npz", 1)


def test_sequences_have_an_objective_of_their_own() -> None:
    def choose(loss: str | None, metric: str | None = None, vocabulary: int | None = 8) -> Objective:
        return choose_objective(loss, metric, None, None, False, (3,), vocabulary)

    expected = Objective("next-token", "perplexity", "lower", None, (3,), 1)
    assert choose(None) == choose("next-token") == choose("cross-entropy", "perplexity") == expected
    assert choose("next-token", "accuracy").better == "higher"
    assert [choose(None, vocabulary=size).target_bytes for size in (256, 257)] == [3, 12]
    with pytest.raises(UsageError, match=r"--loss is next-token, which needs token ids: .* without y; y holds classes"):
        choose("next-token", vocabulary=None)
    with pytest.raises(UsageError, match=r"--metric is perplexity, which needs classes; .* y holds values"):
        choose_objective(None, "perplexity", None, (2,), False)


def test_perplexity_is_the_exponential_of_the_mean_over_all_tokens_of_all_edges() -> None:
    objective = choose_objective(None, None, None, None, False, (3,), 8)
    outputs, targets = torch.randn(5, 3, 8), torch.randint(0, 8, (5, 3))
    parts = [metric_sums(objective, outputs[rows], targets[rows]) for rows in (slice(0, 2), slice(2, 5))]
    expected = math.exp(nn.functional.cross_entropy(outputs.flatten(0, 1), targets.flatten()).item())
    assert metric_value(objective, [sum(column) for column in zip(*parts, strict=True)], 5) == pytest.approx(expected)
    assert is_possible(objective, parts[0], 2, 8)
    assert not is_possible(objective, [-1.0], 2, 8)
    assert math.isfinite(metric_value(objective, [1e9], 1))


def test_labels_of_a_large_vocabulary_are_whole_numbers_of_four_bytes_that_exist() -> None:
    objective = choose_objective(None, None, None, None, False, (3,), 1000)
    labels = torch.tensor([[1, 999, 5]], dtype=torch.int32)
    assert labels_of({"labels": labels}, 1, 1000, objective).dtype == torch.int64
    for wrong, sentence in ((labels + 1, "reach 1000"), (labels - 2, "reach -1"), (labels.to(torch.uint8), "uint8")):
        with pytest.raises(ProtocolError, match=sentence):
            labels_of({"labels": wrong}, 1, 1000, objective)


class _Mean(nn.Module):
    """Adds the mean over tokens: over all, or over those up to a token."""

    def __init__(self, is_causal: bool) -> None:
        super().__init__()
        self.is_causal = is_causal

    def forward(self, values: Tensor) -> Tensor:
        """Add the mean."""
        counts = torch.arange(1, values.shape[1] + 1)[:, None]
        return values + (values.cumsum(1) / counts if self.is_causal else values.mean(1, keepdim=True))


def test_a_model_that_sees_later_tokens_is_refused() -> None:
    batch = partial(random_batch, sample_shape=(5,), integers=(0, 9))
    for is_causal in (True, False):
        layers = [nn.Embedding(10, 4), _Mean(is_causal), nn.Dropout(), nn.Linear(4, 10)]
        if is_causal:
            check_causal(layers, "mine", batch, (0, 9))
            assert all(layer.training for layer in layers)
        else:
            with pytest.raises(UsageError, match="The model mine is not causal"):
                check_causal(layers, "mine", batch, (0, 9))
