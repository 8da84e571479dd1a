"""Every map there is: Paceline's own, anybody's YAML file, and published fibre plants with edges and a cloud put in."""

from __future__ import annotations

from pathlib import Path

from topologies.loader import load_map, map_path
from topologies.maps import Map
from topologies.placement import Wishes, map_facts, write_map
from topologies.plants import is_plant, read_plant


def found_map(what: str, wishes: Wishes, directory: Path, route_factor: float | None = None) -> Path:
    """The file of a map; for a fibre plant it is written into `directory` first.

    Raises: MapError if there is no such map, or it cannot be used.
    """
    if not is_plant(what):
        return map_path(what)
    facts = map_facts(read_plant(what, route_factor), wishes)
    path = directory / f"{facts['name']}.yaml"
    write_map(facts, path)
    load_map(str(path))  # says what is wrong with it, if anything is
    return path


def length_km(plan: Map) -> float:
    """All fibre between switches."""
    switches = {node.name for node in plan.switches}
    return sum(link.length_km for link in plan.links if set(link.ends) <= switches)
