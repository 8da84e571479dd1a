"""`paceline spectrum` shows every slot of every span once, with the lightpath in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from trainer.cli.spectrum import occupants, spectrum_lines
from trainer.cli.spectrum_picture import draw_spectrum

LINKS = [{"link": name, "slots": slots} for name, slots in (("a->b", 6), ("b->a", 6), ("b->c.2", 4))]


def lightpath(name: str, links: list[str], channel: int, slots: int = 1, lit: bool = True) -> dict[str, Any]:
    nodes = [links[0].partition("->")[0], *(link.partition("->")[2].partition(".")[0] for link in links)]
    facts = {"channel": channel, "slots": slots, "lit": lit, "modulation": "DP-QPSK"}
    return {"id": name, "links": links, "nodes": nodes, **facts}


LIGHTPATHS = [lightpath("lp-1", ["a->b", "b->c.2"], 1, 3), lightpath("lp-2", ["b->a"], 0, lit=False)]


def test_each_direction_of_a_span_has_a_line_and_each_lightpath_a_symbol() -> None:
    assert spectrum_lines(LINKS, LIGHTPATHS) == [
        "link    slot 0 to 5 from left to right, each character one slot",
        "a->b    .aaa..  3 of 6 free",
        "b->a    b.....  5 of 6 free",
        "b->c.2  .aaa  1 of 4 free",
        "a  lp-1  a > b > c  slots 1-3  DP-QPSK  lit",
        "b  lp-2  b > a  slot 0  DP-QPSK  booked",
    ]
    assert occupants(LINKS[0], LIGHTPATHS) == [None, "lp-1", "lp-1", "lp-1", None, None]


def test_a_wide_spectrum_has_one_character_for_several_slots() -> None:
    wide = [{"link": "a->b", "slots": 384}]
    lines = spectrum_lines(wide, [lightpath("lp-1", ["a->b"], 381, 3)])
    assert lines[0].endswith("each character 3 slots")
    assert lines[1] == f"a->b  {'.' * 127}a  381 of 384 free"


def test_packet_links_and_dark_fibres_are_told_apart() -> None:
    assert spectrum_lines([], []) == ["The map is not optical: its links have no spectrum."]
    assert spectrum_lines(LINKS, [])[-1] == "No lightpaths."


@pytest.mark.parametrize("suffix", ["svg", "png"])
def test_the_picture_is_the_same_for_the_same_network(suffix: str, tmp_path: Path) -> None:
    pictures = [tmp_path / f"{number}.{suffix}" for number in (1, 2)]
    for picture in pictures:
        draw_spectrum("waves", LINKS, LIGHTPATHS, picture)
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
