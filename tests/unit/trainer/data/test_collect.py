"""Sources that grow: what arrives is read once, what is not usable is named, and enough is enough."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.trainer.data.test_folder import draw
from trainer.data.collect import Collector, Limits, Progress
from trainer.data.dataset import LocalData
from trainer.data.growing_sources import Block, GrowingSource, Share, open_source
from trainer.errors import DataError, TrainerError, UsageError, UserCodeError

ALONE = Share("edge1", 0, 1, 1)


def read(source: GrowingSource) -> tuple[int, list[str]]:
    """Read what has arrived: the number of samples, and the sentences."""
    arrivals = list(source.arrivals())
    return (sum(len(arrival.inputs) for arrival in arrivals if isinstance(arrival, Block)),
            [arrival for arrival in arrivals if isinstance(arrival, str)])


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], str]:
    """Make a function importable; return its name."""
    def install(function: Callable[..., Any]) -> str:
        module = types.ModuleType("stream_of_a_test")
        module.samples = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "stream_of_a_test", module)
        return "stream_of_a_test:samples"

    return install


def collected(data: str, wanted: int, share: Share = ALONE) -> tuple[LocalData, list[str], list[Progress]]:
    notes: list[str] = []
    reports: list[Progress] = []
    collector = Collector(open_source(data, share), notes.append)
    try:
        return collector.wait_for(wanted, reports.append), notes, reports
    finally:
        collector.close()


def test_a_folder_yields_each_image_once_and_waits_for_those_being_written(tmp_path: Path) -> None:
    draw(tmp_path / "a" / "1.png", 1)
    draw(tmp_path / "b" / "1.png", 2)
    source = open_source(str(tmp_path), ALONE)
    assert read(source) == (2, [])
    assert read(source) == (0, [])
    draw(tmp_path / "whole.png", 3)
    whole = (tmp_path / "whole.png").read_bytes()
    growing = tmp_path / "a" / "2.png"
    growing.write_bytes(whole[:30])
    assert read(source)[0] == 0
    growing.write_bytes(whole)
    assert read(source) == (1, [])


def test_a_folder_names_what_is_no_image_and_what_is_in_no_class(tmp_path: Path) -> None:
    for name in "ab":
        draw(tmp_path / name / "1.png", 1)
    (tmp_path / "a" / "2.png").write_text("no image")
    draw(tmp_path / "loose.png", 1)
    source = open_source(str(tmp_path), ALONE)
    first, second = read(source), read(source)
    assert first == (2, [f"{tmp_path / 'loose.png'} is left out: it is in no class; the classes are a, b."])
    assert second[0] == 0
    assert "2.png is left out: it is no readable image" in second[1][0]
    (tmp_path / "c").mkdir()
    assert read(source) == (0, [f"{tmp_path / 'c'} is left out: the classes were fixed at the start: a, b."])


def test_edges_that_watch_one_folder_divide_it(tmp_path: Path) -> None:
    for number in range(30):
        draw(tmp_path / "ab"[number % 2] / f"{number}.png", number)
    counts = [read(open_source(str(tmp_path), Share(f"edge{index}", index, 3, 1)))[0] for index in range(3)]
    assert sum(counts) == 30
    assert min(counts) > 2


def test_a_file_that_is_appended_to_yields_its_new_rows(tmp_path: Path) -> None:
    path, inputs, classes = tmp_path / "mine.npz", np.arange(40, dtype=float).reshape(20, 2), np.arange(20) % 2
    shares = [open_source(str(path), Share("edge", index, 2, 1)) for index in range(2)]
    assert [read(source) for source in shares] == [(0, []), (0, [])]  # not there yet
    np.savez(path, X=inputs[:8], y=classes[:8])
    assert [read(source) for source in shares] == [(4, []), (4, [])]
    np.savez(path, X=inputs, y=classes)
    assert [read(source) for source in shares] == [(6, []), (6, [])]
    assert [read(source) for source in shares] == [(0, []), (0, [])]


def test_all_rows_of_a_file_that_was_replaced_are_new(tmp_path: Path) -> None:
    path = tmp_path / "mine.npz"
    source = open_source(str(path), ALONE)
    for first in (0, 100):
        np.savez(path, X=np.arange(first, first + 10.0)[:, None], y=np.arange(10) % 2)
        count, notes = read(source)
        assert count == 10
    assert notes == [f"{path} has other rows than before; all of its 10 rows are new samples."]


@pytest.mark.parametrize(("arrays", "sentence"), [
    ({"X": np.ones((4, 2))}, "it has no array y"),
    ({"X": np.full((4, 2), np.nan), "y": np.arange(4)}, "holds 8 values that are NaN"),
    ({"X": np.ones((4, 2)), "y": np.arange(4), "split": np.full(4, "other")}, 'split must hold "train" or "test"'),
])
def test_a_file_that_cannot_be_used_is_named_when_it_stays_so(
    arrays: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, **arrays)
    source = open_source(str(path), ALONE)
    assert read(source) == (0, [])
    count, notes = read(source)
    assert count == 0
    assert sentence in notes[0]
    assert read(source) == (0, [])


def test_an_iterator_yields_samples_and_bad_ones_are_named(stream: Callable[[Callable[..., Any]], str]) -> None:
    def samples(seed: int, edge: str) -> Iterator[object]:
        assert (seed, edge) == (1, "edge1")
        yield from ((np.full(3, number, dtype=float), number % 2) for number in range(6))
        yield np.full(4, 1.0), 1
        yield np.full(3, np.nan), 1
        yield "text"
        yield np.full(3, 1.0), -1
        yield from ((np.full(3, number, dtype=float), number % 2) for number in range(6))

    data, notes, _ = collected(stream(samples), 8)
    assert len(data.train) >= 8
    assert data.train.inputs.shape[1:] == (3,)
    assert len(notes) == 4
    assert "the inputs have the shape (4,), those of the first sample (3,)" in " ".join(notes)
    assert "NaN" in " ".join(notes)
    assert "it is str, not a pair (x, y)" in " ".join(notes)
    assert "the classes -1 to -1" in " ".join(notes)


def test_a_source_that_ends_or_fails_too_early_is_an_error(stream: Callable[[Callable[..., Any]], str]) -> None:
    name = stream(lambda: iter([(np.ones(2), 0)] * 4))
    with pytest.raises(DataError, match="has ended; 4 of 9 samples collected"):
        collected(name, 9)

    def failing() -> Iterator[object]:
        yield np.ones(2), 0
        raise ZeroDivisionError("by hand")

    with pytest.raises(UserCodeError, match=r"failed at sample 2: ZeroDivisionError: by hand \(test_collect.py"):
        collected(stream(failing), 9)
    with pytest.raises(DataError, match="returned tuple; with --collect it must return an iterator"):
        collected(stream(lambda: (np.ones((2, 2)), np.arange(2))), 9)


def test_samples_of_one_class_are_not_enough(stream: Callable[[Callable[..., Any]], str]) -> None:
    more = threading.Event()

    def samples() -> Iterator[object]:
        yield from [(np.ones(2), 1)] * 10
        more.wait()
        yield np.ones(2), 0

    reports: list[Progress] = []
    collector = Collector(open_source(stream(samples), ALONE), lambda _: None)

    def report(progress: Progress) -> None:
        reports.append(progress)
        if "all of class 1; another class is needed" in progress.sentence:
            more.set()

    data = collector.wait_for(4, report)
    assert sorted(set(data.train.labels.tolist())) == [0, 1]


def test_new_samples_that_the_model_cannot_take_are_left_out(stream: Callable[[Callable[..., Any]], str]) -> None:
    go_on = threading.Event()

    def samples() -> Iterator[object]:
        yield from [(np.array([number, 1]), number % 2) for number in range(4)]
        go_on.wait()
        yield from [(np.array([1, 1]), 2), (np.array([9, 1]), 1), (np.array([2, 1]), 1)]

    notes: list[str] = []
    collector = Collector(open_source(stream(samples), ALONE), notes.append)
    before = collector.wait_for(4, lambda _: None)
    collector.limits = Limits(classes=2, integers=(0, 3))
    assert collector.take() is None
    go_on.set()
    with pytest.raises(DataError):
        collector.wait_for(99, lambda _: None)
    after = collector._data
    assert after is not None
    assert len(after.train) + len(after.held_out) == len(before.train) + len(before.held_out) + 1
    assert after.train.inputs[: len(before.train)].equal(before.train.inputs)
    assert "their classes are not among the 2" in notes[0]
    assert "their inputs lie outside (0, 3)" in notes[1]


@pytest.mark.parametrize(("data", "error", "message"), [
    ("traffic-lights", UsageError, "which does not grow"),
    ("nothing", UsageError, "with --collect it is a folder of images, FILE.npz"),
    ("missing/", DataError, "there is no folder missing"),
    ("no_module_of_this_name:samples", UsageError, "cannot be imported"),
])
def test_what_cannot_grow_is_refused(data: str, error: type[TrainerError], message: str) -> None:
    with pytest.raises(error, match=message):
        open_source(data, ALONE)
