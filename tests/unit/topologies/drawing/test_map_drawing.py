"""A drawn map says what is not on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from topologies.drawing.map_drawing import draw
from topologies.map_file.loader import load_map


def test_what_was_left_out_stands_below_the_map(tmp_path: Path) -> None:
    note = "left out, without coordinates: " + ", ".join(f"peer {number}" for number in range(40))
    plain = load_map("waves")
    noted = replace(plain, notes=(note, "no speeds are stated"))
    texts = []
    for number, topology in enumerate((plain, noted)):
        picture = tmp_path / f"{number}.svg"
        draw(topology, picture)
        texts.append(picture.read_text(encoding="utf-8"))
    assert "left out" not in texts[0]
    assert "left out, without coordinates: peer 0, peer 1" in texts[1]
    assert "peer 39" in texts[1]
    assert "no speeds are stated" not in texts[1]


@pytest.mark.parametrize(
    ("name", "missing"), [("A$b_$", ""), ("$$", ""), ("[/b]", ""), ("Łódź", ""), ("\u6771 \u4eac", "\u6771\u4eac")]
)
def test_any_name_is_drawn_as_it_is_and_letters_that_the_font_lacks_are_told(
    tmp_path: Path, name: str, missing: str
) -> None:
    waves = load_map("waves")
    nodes = tuple(replace(node, label=name) if node.name == "r1" else node for node in waves.nodes)
    links = tuple(replace(link, duct=name) if link.ends == ("r1", "r2") else link for link in waves.links)
    assert draw(replace(waves, nodes=nodes, links=links), tmp_path / "map.svg") == missing
    assert f"<!-- duct {name} -->" in (tmp_path / "map.svg").read_text(encoding="utf-8")
