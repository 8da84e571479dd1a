"""Whatever stands in a file: a plant without anything impossible, or a sentence."""

from __future__ import annotations

import copy
import json
import math
import tempfile
from pathlib import Path
from typing import Any

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.topologies.network_files import gnpy, link, placed
from topologies.map_file.loader import load_map
from topologies.placement.map_document import PlacementOptions, map_document, write_map
from topologies.plants.plant import Plant
from topologies.plants.published import read_plant
from topologies.plants.survey import SurveyOptions
from topologies.problems import MapError

NODE_LINK = {
    "directed": False,
    "nodes": [*placed("Oslo", "Bergen", "Trondheim"), {"id": 5, "name": None}],
    "links": [
        link("Oslo", "Bergen", length=3), link("Bergen", "Trondheim", capacity=10, dist=4), link("Oslo", "Bergen"),
        link(5, "Oslo", length_km=9, duct="d"),
    ],
}  # fmt: skip
GNPY = gnpy([("A", "B", 80.0), ("A", "B", 61.0), ("B", "C", 120.0)])
RFC_8345 = {
    "ietf-network:networks": {
        "network": [
            {
                "network-id": "n",
                "node": [{"node-id": name, "longitude": number, "latitude": "50"} for number, name in enumerate("abc")],
                "ietf-network-topology:link": [
                    {"source": {"source-node": a}, "destination": {"dest-node": b}} for a, b in ("ab", "ba", "bc", "cb")
                ],
            }
        ]
    }
}
VALUES = st.sampled_from([
    None, True, -1, 0, 91, 181, "", "x", "5", "NaN", [], {}, [1, 2], {"a": 1}, math.nan, math.inf, 1e300, 10**40,
    "\x00", "Ö",
])  # fmt: skip
OPTIONS = st.sampled_from([
    SurveyOptions(), SurveyOptions(unplaced="place"), SurveyOptions(unplaced="drop"), SurveyOptions(span_km=4.0),
    SurveyOptions(km_per_unit=3.0), SurveyOptions(length_attribute="capacity"),
])  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places of all values below the root."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for key, each in entries for found in ((*path, key), *places(each, (*path, key)))]


def changed(facts: dict[str, Any], place: tuple[Any, ...], value: Any) -> dict[str, Any]:
    facts = copy.deepcopy(facts)
    target: Any = facts
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    return facts


def check(plant: Plant) -> None:
    graph: nx.MultiGraph[str] = nx.MultiGraph([fibre.ends for fibre in plant.fibres])
    assert nx.is_connected(graph)
    assert {site.name for site in plant.sites} == set(graph)
    assert all(0 < fibre.length_km <= 20_000 for fibre in plant.fibres)
    for site in plant.sites:
        assert site.longitude_deg is None or abs(site.longitude_deg) <= 180
        assert site.latitude_deg is None or abs(site.latitude_deg) <= 90
    with tempfile.TemporaryDirectory() as directory:
        write_map(map_document(plant, PlacementOptions()), Path(directory) / "x.yaml")
        assert len(load_map(f"{directory}/x.yaml").links) >= len(plant.fibres)


@pytest.mark.parametrize("facts", [NODE_LINK, GNPY, RFC_8345], ids=["node-link", "GNPy", "RFC 8345"])
@given(data=st.data(), value=VALUES, options=OPTIONS)
def test_a_changed_value_makes_a_plant_without_anything_impossible_or_a_sentence(
    facts: dict[str, Any], data: st.DataObject, value: Any, options: SurveyOptions
) -> None:
    text = json.dumps(changed(facts, data.draw(st.sampled_from(places(facts))), value))
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "net.json"
        path.write_text(text)
        try:
            plant = read_plant(str(path), options)
        except MapError as error:
            assert all(len(mistake) < 2000 and "Traceback" not in mistake for mistake in error.mistakes)
            return
    try:
        check(plant)
    except MapError as error:
        assert "no two sites between which anything can be reserved" in str(error)


def test_texts_of_a_file_in_notes_have_no_control_characters(tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    number = next(number for number, each in enumerate(GNPY["elements"]) if each["type"] == "Fiber")
    path.write_text(json.dumps(changed(GNPY, ("elements", number, "type_variety"), "A\x00\nB")))
    plant = read_plant(str(path), SurveyOptions())
    assert "fibres of type A B are computed as SSMF" in plant.notes
    check(plant)
