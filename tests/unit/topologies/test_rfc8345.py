"""Maps as RFC 8345 and 8795 JSON: valid by the modules of the RFCs, as GNPy's package has them, and read back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gnpy
import oopt_gnpy_libyang as libyang
import pytest

from topologies.map_file.loader import load_map
from topologies.plants.published import read_plant
from topologies.rfc8345 import float32_text, topology_document

MODULES = Path(gnpy.__file__).parent / "yang" / "ext"


@pytest.fixture(scope="module")
def mistakes() -> Callable[[dict[str, Any]], list[str]]:
    libyang.set_log_options(libyang.LogOptions.Store)
    options = libyang.ContextOptions.AllImplemented | libyang.ContextOptions.DisableSearchCwd
    context = libyang.Context(str(MODULES), options)
    context.load_module("ietf-te-topology", revision="2020-08-06")  # RFC 8795

    def found(document: dict[str, Any]) -> list[str]:
        checks = libyang.ValidationOptions.Present | libyang.ValidationOptions.MultiError
        try:
            context.parse_data(json.dumps(document), libyang.DataFormat.JSON, libyang.ParseOptions.Strict, checks)
        except libyang.Error:
            texts = [error.message for error in context.errors()]
            context.clean_all_errors()
            return texts
        return []

    return found


@pytest.mark.parametrize("name", ["metro", "pair", "waves"])
def test_a_map_is_a_valid_te_topology(name: str, mistakes: Callable[[dict[str, Any]], list[str]]) -> None:
    assert mistakes(topology_document(load_map(name))) == []


def test_a_document_that_the_modules_do_not_allow_is_found(mistakes: Callable[[dict[str, Any]], list[str]]) -> None:
    changes: tuple[Callable[[dict[str, Any]], object], ...] = (
        lambda link: link.pop("link-id"),
        lambda link: link["ietf-te-topology:te"]["te-link-attributes"].update({"te-delay-metric": -1}),
        lambda link: link.update({"rate": 1}),
    )
    for change in changes:
        document = topology_document(load_map("metro"))
        change(document["ietf-network:networks"]["network"][0]["ietf-network-topology:link"][0])
        assert mistakes(document)


@pytest.mark.parametrize("name", ["metro", "waves"])
def test_what_is_written_is_read_back(tmp_path: Path, name: str) -> None:
    topology = load_map(name)
    first, *others = topology.links  # two spans in one duct
    ducts = replace(first, duct="canal"), replace(others[0], duct="canal"), *others[1:]
    topology = replace(topology, links=ducts)
    file = tmp_path / "map.json"
    file.write_text(json.dumps(topology_document(topology)))
    plant = read_plant(str(file))
    names = {node.name for node in topology.switches}
    spans = {frozenset(link.ends): link for link in topology.links if names.issuperset(link.ends)}
    assert {site.name for site in plant.sites} == names
    assert len(plant.fibres) == len(spans)
    for span in plant.fibres:
        link = spans[frozenset(span.ends)]
        assert span.length_km == pytest.approx(link.length_km, abs=0.11)  # told in whole microseconds
        assert span.rate_gbps == link.rate_gbps
        assert span.duct == (None if link.duct is None else "srlg-1")


def test_bandwidths_are_written_as_rfc_8294_has_them() -> None:
    assert float32_text(1024) == "0x1p10"
    assert float32_text(1.5) == "0x1.8p0"
    assert float.fromhex(float32_text(1.25e10)) == pytest.approx(1.25e10, rel=1e-7)
