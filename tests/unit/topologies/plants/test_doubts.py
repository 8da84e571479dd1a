"""What is taken as stated but may be meant otherwise is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.topologies.network_files import link, node, node_link, placed
from topologies.plants.published import read_plant

TOWNS = ("Oslo", "Bergen", "Trondheim")
JOINED = "\u0645\u06cc\u200c\u062e"
"""Persian letters with a zero-width non-joiner."""
RING = [link("Oslo", "Bergen"), link("Bergen", "Trondheim"), link("Trondheim", "Oslo")]


@pytest.mark.parametrize(
    ("attributes", "notes"),
    [
        ({"bw": 10}, ("`bw` is not used",)),
        ({"delay_ms": "2.5"}, ("`delay_ms` is not used",)),
        ({"metric": 3, "length_km": 100}, ("`metric` is not used",)),
        ({"length_km": 100, "dist": 80}, ("`dist` is not used",)),
        ({"note": "leased", "key": 0, "link-id": 7, "metric": None}, ()),
    ],
)
def test_numbers_that_are_not_used_are_told(tmp_path: Path, attributes: dict[str, object], notes: tuple[str]) -> None:
    file = node_link(tmp_path / "net.json", placed("Oslo", "Bergen"), [link("Oslo", "Bergen", **attributes)])
    assert read_plant(file).notes == notes


def test_sites_of_one_name_are_numbered_and_told(tmp_path: Path) -> None:
    nodes = [{**each, "name": "POP"} for each in placed(*TOWNS)]
    plant = read_plant(node_link(tmp_path / "net.json", nodes, RING))
    assert [site.name for site in plant.sites] == ["POP", "POP 2", "POP 3"]
    assert plant.notes == ("sites of one name are numbered: POP (3)",)


def test_a_place_at_zero_degrees_is_told(tmp_path: Path) -> None:
    nodes = [node("a", lat=1, lon=1), node("b", lat="0.0", lon=0), node("c", lat=0, lon=2)]
    plant = read_plant(node_link(tmp_path / "net.json", nodes, [link("a", "b"), link("b", "c")]))
    assert plant.notes == ("placed at 0, 0, in the sea (if a place is unknown, leave out its coordinates): b",)


def test_spans_stated_from_either_end_of_an_undirected_network_stay_parallel_and_are_told(tmp_path: Path) -> None:
    back = [link(each["target"], each["source"]) for each in RING]
    plant = read_plant(node_link(tmp_path / "net.json", placed(*TOWNS), [*RING, *back[:2], link("Oslo", "Trondheim")]))
    assert len(plant.fibres) == 6
    sentence = "stated from either end, taken as parallel spans (in a directed network they are one): "
    assert plant.notes == (f"{sentence}Bergen - Oslo, Bergen - Trondheim, Oslo - Trondheim",)
    twice = read_plant(node_link(tmp_path / "twice.json", placed(*TOWNS), [*RING, RING[0]]))
    assert (len(twice.fibres), twice.notes) == (4, ())


@pytest.mark.parametrize("letter", ["\u202e", "\u2066", "\u2028", "\x1b"])
def test_characters_that_terminals_obey_are_left_out_of_names(tmp_path: Path, letter: str) -> None:
    nodes = [{**each, "name": f"{each['id']}{letter}x"} for each in placed("Oslo", "Bergen")]
    plant = read_plant(node_link(tmp_path / "net.json", nodes, [link("Oslo", "Bergen")]))
    assert [site.name for site in plant.sites] == ["Oslo x", "Bergen x"]
    assert plant.notes == ("control characters and breaks of lines in names are left out: Oslo x, Bergen x",)


def test_letters_that_join_others_stay(tmp_path: Path) -> None:
    nodes = [{**each, "name": f"{each['id']} {JOINED}"} for each in placed("Oslo", "Bergen")]
    plant = read_plant(node_link(tmp_path / "net.json", nodes, [link("Oslo", "Bergen")]))
    assert (plant.sites[0].name, plant.notes) == (f"Oslo {JOINED}", ())
