"""Resolves a map by name: Paceline's own maps, YAML files, and published fibre plants with edges and a cloud added."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from topologies.loader import load_map, map_path
from topologies.maps import Map
from topologies.placement import PlacementOptions, map_document, write_map
from topologies.problems import MapError
from topologies.published import is_plant, read_plant


def resolve_map(
    name_or_path: str, options: PlacementOptions, directory: Path, route_factor: float | None = None
) -> Path:
    """The YAML file of a map; for a fibre plant it is written into `directory` first.

    Raises: MapError if there is no such map, or it is invalid.
    """
    if not is_plant(name_or_path):
        return map_path(name_or_path)
    document = map_document(read_plant(name_or_path, route_factor), options)
    path = directory / f"{document['name']}.yaml"
    write_map(document, path)
    load_map(str(path))  # validates it
    return path


def adapt_map(path: Path, directory: Path, scale: float | None = None, ducts: Sequence[str] = ()) -> Path:
    """Copy a map file into `directory` with another scale (None: unchanged) and further ducts, each `[NAME=]A-B,C-D`.

    Raises: MapError if the map is invalid, or a duct names a span that the map does not have.
    """
    topology, document = load_map(str(path)), yaml.safe_load(path.read_text())
    if scale is None and not ducts:
        return path
    if scale is not None:
        document["scale_mbps_per_gbps"] = scale
    for index, duct in _ducts_by_link(topology, ducts).items():
        document["links"][index]["duct"] = duct
    copy = directory / f"{topology.name}-adapted.yaml"
    write_map(document, copy)
    load_map(str(copy))
    return copy


def _ducts_by_link(topology: Map, ducts: Sequence[str]) -> dict[int, str]:
    """The duct of every link named in `ducts`, in addition to the map's own ducts."""
    duct_of: dict[int, str] = {}
    for number, text in enumerate(ducts, 1):
        name, _, listed = text.rpartition("=")
        for word in (word.strip() for word in listed.split(",")):
            try:
                index = topology.link_index(word)
            except KeyError:
                known = ", ".join(topology.span_names)
                sentence = f"duct {text!r}: {topology.name} has no span {word!r}; its spans: {known}"
                raise MapError([sentence]) from None
            if other := duct_of.get(index) or topology.links[index].duct:
                raise MapError([f"duct {text!r}: span {word} is already in duct {other}"])
            duct_of[index] = name.strip() or f"d{number}"
    return duct_of


def length_km(topology: Map) -> float:
    """Total fibre length between switches, in km."""
    switches = {node.name for node in topology.switches}
    return sum(link.length_km for link in topology.links if set(link.ends) <= switches)
