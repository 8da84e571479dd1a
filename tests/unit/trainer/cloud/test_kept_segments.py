"""Segments of a frozen part that are sent once: which samples are missing, what is kept, in memory and on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trainer.cloud.kept_segments import KeepingSpace, KeptSegments, row_bytes
from trainer.config.fine_tuning import parse_fine_tuning
from trainer.data.sending import SentSamples
from trainer.models.boundary import Boundary
from trainer.models.building import build_model
from trainer.models.constant_front import constant_cuts
from trainer.protocol import segments
from trainer.protocol.codec import Codec

SAMPLES = 12


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.lists(st.integers(0, 9), max_size=5), min_size=2, max_size=2), max_size=6))
def test_every_sample_is_sent_once_before_it_is_needed(steps: list[list[list[int]]]) -> None:
    sent, known = SentSamples(10), set[int]()
    for step in steps:
        micro_batches = [torch.tensor(indices, dtype=torch.int64) for indices in step]
        for indices, missing in zip(step, sent.take(micro_batches), strict=True):
            assert not known & set(missing.tolist())
            assert len(set(missing.tolist())) == len(missing)
            known |= set(missing.tolist())
            assert set(indices) <= known
    assert sent.count == len(known)


@pytest.mark.parametrize("memory_bytes", [0, 10**6], ids=["disk", "memory"])
@pytest.mark.parametrize("used", ["fp32", "bf16", "int8", "zstd"])
@pytest.mark.parametrize("sides", [(4, 8, 8), (3,), (200,)], ids=["channels", "few", "rows"])
def test_kept_segments_are_those_that_arrived(
    tmp_path: Path, used: Codec, sides: tuple[int, ...], memory_bytes: int
) -> None:
    boundary, space = Boundary.of_shape(*sides), KeepingSpace(memory_bytes, tmp_path)
    kept = KeptSegments(2, boundary, used, SAMPLES, space)
    values, targets = torch.randn(SAMPLES, *sides), torch.arange(SAMPLES)
    arrived = torch.empty(SAMPLES, *sides)
    for rows in torch.split(torch.randperm(SAMPLES), [6, 5, 1]):
        tensors = segments.encode_segment("segment", values[rows], boundary, len(rows), used)
        arrived[rows] = segments.decode_segment("segment", tensors, boundary, len(rows), used)
        kept.add(rows, tensors, targets[rows])
    for rows in (torch.tensor([3, 0, 11, 3]), torch.arange(SAMPLES)):
        assert torch.equal(kept.values(rows), arrived[rows])
        assert torch.equal(kept.targets(rows), targets[rows])
    assert list(tmp_path.iterdir()) == []
    in_memory = SAMPLES * row_bytes(boundary, used) if memory_bytes else 0
    assert space.memory_bytes == memory_bytes - in_memory
    kept.release()
    assert space.memory_bytes == memory_bytes


def test_what_is_too_large_for_memory_and_disk_has_no_room(tmp_path: Path) -> None:
    space = KeepingSpace(100, tmp_path)
    assert 10**6 <= space.room_bytes < 2**60
    with pytest.raises(OSError, match=r"No space left|too large"):
        space.allocate((2**50,), torch.float32)


class Mean(nn.Module):
    """Mixes the samples of a batch."""

    def forward(self, values: Tensor) -> Tensor:
        """Subtract the mean over the batch."""
        return values - values.mean(dim=0, keepdim=True)


def frozen_linear() -> nn.Linear:
    layer = nn.Linear(4, 4)
    layer.requires_grad_(False)
    return layer


@pytest.mark.parametrize(("front", "constant"), [
    ([frozen_linear(), nn.ReLU()], [True, True, True]),
    ([frozen_linear(), nn.Dropout(0.5)], [True, True, False]),
    ([nn.BatchNorm1d(4, affine=False), frozen_linear()], [True, False, False]),
    ([nn.BatchNorm1d(4, affine=False).eval(), frozen_linear()], [True, False, False]),
    ([Mean(), frozen_linear()], [True, False, False]),
    ([nn.Linear(4, 4), frozen_linear()], [True, False, False]),
], ids=["frozen", "dropout", "statistics", "evaluation", "batch", "trained"])
def test_segments_are_constant_behind_frozen_layers_without_chance_and_batch(
    front: list[nn.Module], constant: list[bool]
) -> None:
    layers = [*front, nn.Linear(4, 2)]
    boundaries = [Boundary.of_shape(4)] * 3 + [Boundary.of_shape(2)]
    assert constant_cuts(layers, boundaries, lambda samples: torch.randn(samples, 4)) == (*constant, False)


def test_a_frozen_front_of_the_zoo_has_constant_segments_up_to_the_first_trained_layer() -> None:
    built = build_model("signal-cnn", 1, (3, 16, 16), 3, tuning=parse_fine_tuning("0,2,4"))
    assert built.constant == (True,) * 7 + (False,) * (len(built.layers) - 6)
    plain = build_model("signal-cnn", 1, (3, 16, 16), 3)
    assert plain.constant == (True,) + (False,) * len(plain.layers)
