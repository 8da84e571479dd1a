"""A folder of images as a data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from trainer.data.folder import ImageFolder, is_folder_name, open_folder, place_of
from trainer.data.load import load
from trainer.errors import DataError


def draw(path: Path, value: int, size: tuple[int, int] = (8, 6)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size[1], size[0]), (value, 0, 255 - value)).save(path)


def photographs(root: Path, each: int = 10) -> Path:
    for number in range(each):
        draw(root / "red" / f"{number}.png", number)
        draw(root / "green" / f"{number}.png", 100 + number)
    return root


def test_the_subfolders_are_the_classes_in_alphabetical_order(tmp_path: Path) -> None:
    data = load(str(photographs(tmp_path)), 1)
    assert data.class_names == ("green", "red")
    assert data.train.inputs.shape[1:] == (3, 8, 6)
    assert len(data.train) + len(data.held_out) == 20
    assert all((image[0] >= 100).all() == (label == 0)
               for image, label in zip(data.train.inputs, data.train.labels, strict=True))


def test_train_and_test_folders_say_what_is_held_out(tmp_path: Path) -> None:
    photographs(tmp_path / "train", 3)
    photographs(tmp_path / "test", 2)
    data = load(str(tmp_path), 1)
    assert (len(data.train), len(data.held_out)) == (6, 4)


def test_classes_of_a_file_keep_their_order_and_may_be_empty(tmp_path: Path) -> None:
    photographs(tmp_path)
    (tmp_path / "classes.txt").write_text("red\nyellow\ngreen\n")
    data = load(str(tmp_path), 1)
    assert (data.class_names, data.classes) == (("red", "yellow", "green"), 3)


def test_a_size_and_grey_values_are_part_of_the_name(tmp_path: Path) -> None:
    photographs(tmp_path)
    assert load(f"{tmp_path}:4x5", 1).train.inputs.shape[1:] == (3, 4, 5)
    assert load(f"{tmp_path}:4x5x1", 1).train.inputs.shape[1:] == (1, 4, 5)


def test_an_image_that_cannot_be_read_is_named_and_left_out(tmp_path: Path) -> None:
    photographs(tmp_path)
    (tmp_path / "red" / "broken.png").write_bytes((tmp_path / "red" / "1.png").read_bytes()[:40])
    (tmp_path / "red" / "text.jpg").write_text("no image")
    data = load(str(tmp_path), 1)
    assert len(data.train) + len(data.held_out) == 20
    (note,) = data.notes
    assert "broken.png" in note
    assert "text.jpg" in note


@pytest.mark.parametrize(("change", "message"), [
    (lambda root: draw(root / "red" / "large.png", 1, (9, 9)), "has 9 x 9 pixels and .* 8 x 6; give one size"),
    (lambda root: (root / "classes.txt").write_text("red\n"), "has 1 classes; it needs 2 to 256 folders"),
    (lambda root: (root / "classes.txt").write_text("red\nred\n"), "names a class twice: red"),
    (lambda root: (root / "classes.txt").write_text("blue\ncyan\n"), "no readable image in the folders of its classes"),
])
def test_folders_that_are_no_data_set_are_refused(change: object, message: str, tmp_path: Path) -> None:
    photographs(tmp_path)
    assert callable(change)
    change(tmp_path)
    with pytest.raises(DataError, match=message):
        load(str(tmp_path), 1)


def test_names_of_folders_are_told_from_other_names(tmp_path: Path) -> None:
    assert is_folder_name(str(tmp_path))
    assert is_folder_name("missing/")
    assert not is_folder_name("mine:data")
    assert not is_folder_name("data.npz")
    with pytest.raises(DataError, match="there is no folder missing"):
        open_folder("missing/")
    with pytest.raises(DataError, match="height and width must be at least 1"):
        open_folder(f"{tmp_path}:0x4")


def test_edges_divide_a_folder_by_name_whatever_else_arrives(tmp_path: Path) -> None:
    folder = ImageFolder(tmp_path, ("a", "b"), None, 3)
    places = [place_of(tmp_path / "a" / f"{number}.png", folder, 1, 4) for number in range(4000)]
    counts = np.bincount([edge for edge, _ in places])
    assert counts.min() > 900
    assert 700 < sum(held_out for _, held_out in places) < 900
