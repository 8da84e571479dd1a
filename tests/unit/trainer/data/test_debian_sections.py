"""Descriptions of Debian packages as token ids: every description once, no source package on both sides."""

from __future__ import annotations

import pytest
import torch

from trainer.data import debian_sections
from trainer.data.debian_sections import MIN_PACKAGES, SECTIONS, load_debian_sections
from trainer.data.wordpiece import WordPiece
from trainer.errors import DataError, UsageError
from trainer.models.building import build_model
from trainer.wheel_files import MINILM_PACKAGE, MINILM_VERSION, package_file

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "play", "##ing", "##er", "music", ".", "cafe", "-", "c"]


def has_wheel() -> bool:
    try:
        package_file(MINILM_PACKAGE, MINILM_VERSION, "vocab.txt")
    except DataError:
        return False
    return True


needs_wheel = pytest.mark.skipif(not has_wheel(), reason=f"{MINILM_PACKAGE} IS NOT INSTALLED")


@pytest.mark.parametrize(("text", "pieces"), [
    ("Playing music.", ["play", "##ing", "music", "."]), ("player-Café", ["play", "##er", "-", "cafe"]),
    ("playx", ["[UNK]"]), ("c" * 101, ["[UNK]"]), ("", []),
])
def test_words_are_divided_into_the_longest_known_pieces(text: str, pieces: list[str]) -> None:
    ids = WordPiece(TOKENS).encode(text, 8)
    known = [TOKENS[number] for number in ids]
    assert known == ["[CLS]", *pieces, "[SEP]", *["[PAD]"] * (6 - len(pieces))]


def test_what_is_too_long_is_cut_off_before_the_end() -> None:
    assert WordPiece(TOKENS).encode("music " * 20, 4) == [2, 7, 7, 3]


def stanza(name: str, section: str, text: str, source: str = "") -> str:
    source_line = f"Source: {source}\n" if source else ""
    return f"Package: {name}\n{source_line}Section: {section}\nDescription: {text}\n more of it\n .\n and more"


def test_stanzas_are_read_with_their_source_and_duplicates_count_once() -> None:
    rows = [stanza(f"{section}-{number}", section, f"{section} {number}", f"source-{section}-{number} (1.2)")
            for section in SECTIONS for number in range(MIN_PACKAGES)]
    rows += [stanza("other", "libs", "a library"), stanza("games-copy", "games", "games 0"),
             stanza("old", "games", "transitional package")]
    packages = debian_sections._packages("\n\n".join(rows))
    assert len(packages) == len(SECTIONS) * MIN_PACKAGES
    assert len({text for _, _, text in packages}) == len(packages)
    assert ("source-sound-7", "sound", "sound 7 more of it and more") in packages


def test_package_lists_without_enough_packages_are_refused() -> None:
    with pytest.raises(DataError, match="have 1 descriptions in section games; at least 100 are needed"):
        debian_sections._packages(stanza("chess", "games", "a game"))
    with pytest.raises(DataError, match="package lists are empty"):
        debian_sections._packages("")


@needs_wheel
def test_this_machine_has_the_data_and_no_sample_is_on_both_sides() -> None:
    data = load_debian_sections()
    assert data.classes == len(SECTIONS)
    for part in (data.train, data.held_out):
        assert torch.unique(part.labels).tolist() == list(range(len(SECTIONS)))
    train, held_out = ({tuple(row) for row in part.inputs.tolist()} for part in (data.train, data.held_out))
    assert len(held_out & train) < 0.01 * len(held_out)  # texts that differ beyond the last token
    assert 0.1 < len(data.held_out) / (len(data.train) + len(data.held_out)) < 0.3


@needs_wheel
def test_the_published_model_is_cut_between_its_layers_with_its_mask() -> None:
    built = build_model("minilm", 1, (16,), 12, (0, 30521))
    assert [len(boundary.tensors) for boundary in built.boundaries] == [1, *[2] * 7, 1, 1]
    assert [spec.coded for spec in built.boundaries[3].tensors] == [True, False]
    assert sum(value.numel() for layer in built.layers[:-1] for value in layer.parameters()) == 22_565_376
    with pytest.raises(UsageError, match="minilm takes token ids, whole numbers from 0 to 30521; the samples are real"):
        build_model("minilm", 1, (16,), 12)
