"""A drawn map says what is not on it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

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
