"""Every map there is: Paceline's own, anybody's YAML file, and published fibre plants with edges and a cloud put in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from topologies.loader import load_map, map_path
from topologies.maps import Map
from topologies.placement import Wishes, map_facts, write_map
from topologies.problems import MapError
from topologies.published import is_plant, read_plant


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


def adapted(path: Path, directory: Path, scale: float | None = None, ducts: Sequence[str] = ()) -> Path:
    """A map's file at another scale (None: as it is) and with further ducts, each `[NAME=]A-B,C-D`; in `directory`.

    Raises: MapError if the map cannot be used, or a duct names no spans of it.
    """
    plan, facts = load_map(str(path)), yaml.safe_load(path.read_text())
    if scale is None and not ducts:
        return path
    if scale is not None:
        facts["scale_mbps_per_gbps"] = scale
    lying = _spans_in(plan, ducts)
    for link in facts["links"]:
        if duct := lying.get(frozenset(link["ends"])):
            link["duct"] = duct
    copy = directory / f"{plan.name}-adapted.yaml"
    write_map(facts, copy)
    load_map(str(copy))
    return copy


def _spans_in(plan: Map, ducts: Sequence[str]) -> dict[frozenset[str], str]:
    """Which spans lie in which duct, beside what the map says."""
    spans = {frozenset(link.ends): link for link in plan.links}
    lying: dict[frozenset[str], str] = {}
    for number, text in enumerate(ducts, 1):
        name, _, listed = text.rpartition("=")
        for word in listed.split(","):
            span = frozenset(word.strip().split("-"))
            if span not in spans:
                known = ", ".join("-".join(link.ends) for link in plan.links)
                raise MapError([f"duct {text!r}: {plan.name} has no span {word.strip()!r}; its spans: {known}"])
            if other := lying.get(span) or spans[span].duct:
                raise MapError([f"duct {text!r}: span {word.strip()} lies in duct {other} already"])
            lying[span] = name.strip() or f"d{number}"
    return lying


def length_km(plan: Map) -> float:
    """All fibre between switches."""
    switches = {node.name for node in plan.switches}
    return sum(link.length_km for link in plan.links if set(link.ends) <= switches)
