"""The global model on its way to the edges."""

from __future__ import annotations

import torch

from trainer.cloud.model_averaging import MIN_PART_BYTES, PARTS, parts_of


def test_the_parts_of_a_model_are_all_of_its_layers_in_order() -> None:
    sizes = [4, 0, 50_000, 10, 30_000, 0, 200_000, 7]
    model = {f"{number}.weight": torch.zeros(size) for number, size in enumerate(sizes) if size}
    parts = parts_of(model, len(sizes))
    assert [first for first, _, _ in parts] == [0, *(last for _, last, _ in parts[:-1])]
    assert parts[-1][1] == len(sizes)
    assert 1 < len(parts) <= PARTS
    assert {name: value for _, _, values in parts for name, value in values.items()} == model
    for first, last, values in parts:
        assert {int(name.split(".")[0]) for name in values} <= set(range(first, last))
    assert all(sum(value.nbytes for value in values.values()) >= MIN_PART_BYTES for _, _, values in parts[:-1])


def test_a_small_model_is_one_part() -> None:
    model = {"0.weight": torch.zeros(10), "2.weight": torch.zeros(10)}
    assert [(first, last) for first, last, _ in parts_of(model, 3)] == [(0, 3)]
