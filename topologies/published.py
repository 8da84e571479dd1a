"""Reads published fibre plants into one form: sites and the fibres between them.

Four sources: a name of `topohub` (`sndlib/nobel-us`, `topozoo/Abilene`, ...), a GraphML file of the Internet Topology
Zoo, a networkx node-link JSON file, and a GNPy network JSON file (its ROADMs are the sites).

A great-circle distance is converted to a fibre length by the route factor of ITU-T G.826 §5: 1.5 below 1000 km, 1.25
from 1200 km, and 1500 km in between. A length given in the data is used unchanged.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import networkx as nx
import topohub

from topologies.problems import MapError

EARTH_RADIUS_KM = 6371.0
DATA = Path(topohub.__file__).parent / "data"
SUFFIXES = (".graphml", ".xml", ".json")


@dataclass(frozen=True, slots=True)
class Site:
    """A location with a switch; its coordinates are None if the data has none."""

    name: str
    longitude_deg: float | None
    latitude_deg: float | None

    @property
    def is_placed(self) -> bool:
        """Whether its coordinates are known."""
        return self.longitude_deg is not None and self.latitude_deg is not None


@dataclass(frozen=True, slots=True)
class Fibre:
    """A span between two sites; fibres of the same `duct` fail together."""

    ends: tuple[str, str]
    length_km: float
    duct: str | None = None


@dataclass(frozen=True, slots=True)
class Plant:
    """Sites and fibres, and the source they are taken from."""

    name: str
    source: str
    sites: tuple[Site, ...]
    fibres: tuple[Fibre, ...]


def is_plant(name_or_path: str) -> bool:
    """Whether it names a fibre plant rather than a map: `group/name`, or a file in one of the formats read here."""
    path = Path(name_or_path)
    named = "/" in name_or_path and not path.exists() and path.suffix not in (".yaml", ".yml")
    return named or path.suffix.lower() in SUFFIXES


def plant_names() -> list[str]:
    """All network names of `topohub`, sorted."""
    return sorted(path.relative_to(DATA).with_suffix("").as_posix() for path in DATA.rglob("*.json"))


def read_plant(name_or_path: str, route_factor: float | None = None) -> Plant:
    """Read the fibre plant of that name or path; `route_factor` replaces the rule of ITU-T G.826.

    Raises: MapError if there is none, or it is invalid.
    """
    path = Path(name_or_path)
    if path.suffix.lower() not in SUFFIXES:
        return _from_topohub(name_or_path, route_factor)
    try:
        if path.suffix.lower() != ".json":
            graph: nx.Graph[Any] = nx.Graph(nx.read_graphml(path))
            return _plant(path.stem, f"{path.name} (GraphML)", graph, route_factor)
        facts = json.loads(path.read_text())
        if isinstance(facts, dict) and "elements" in facts:
            return _from_gnpy(path, facts)
        return _plant(path.stem, f"{path.name} (node-link JSON)", _node_link(name_or_path, facts), route_factor)
    except (OSError, ValueError, TypeError, KeyError, ParseError, nx.NetworkXError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise MapError([f"{name_or_path}: cannot be read as a network: {reason}"]) from error


def fibre_km(great_circle_km: float, route_factor: float | None = None) -> float:
    """The estimated fibre length for a great-circle distance. Source: ITU-T G.826 §5."""
    if route_factor is not None:
        return great_circle_km * route_factor
    if great_circle_km < 1000:
        return great_circle_km * 1.5
    return max(1500.0, great_circle_km * 1.25)


def great_circle_km(a: Site, b: Site) -> float:
    """The distance over the Earth's surface (haversine). Raises: ValueError if a site has no coordinates."""
    if a.longitude_deg is None or a.latitude_deg is None or b.longitude_deg is None or b.latitude_deg is None:
        raise ValueError(f"{a.name} or {b.name} has no coordinates")
    phi_a, phi_b = math.radians(a.latitude_deg), math.radians(b.latitude_deg)
    d_lambda = math.radians(b.longitude_deg - a.longitude_deg)
    h = math.sin((phi_b - phi_a) / 2) ** 2 + math.cos(phi_a) * math.cos(phi_b) * math.sin(d_lambda / 2) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(h))


def _from_topohub(name: str, route_factor: float | None) -> Plant:
    if name not in plant_names():
        start = name.rpartition("/")[2][:4]
        similar = [known for known in plant_names() if known.rpartition("/")[2].startswith(start)]
        hint = f"similar names: {', '.join(similar[:5])}" if similar else "`paceline maps` lists them"
        raise MapError([f"topohub has no network {name!r}; {hint}"])
    facts = json.loads((DATA / f"{name}.json").read_text())  # topohub.get leaves the file open
    return _plant(name.rpartition("/")[2], f"topohub {name}", _node_link(name, facts), route_factor)


def _node_link(name: str, facts: object) -> nx.Graph[Any]:
    try:
        if not isinstance(facts, dict):
            raise TypeError("it is no object")
        return nx.Graph(nx.node_link_graph(facts, edges="edges" if "edges" in facts else "links"))
    except (KeyError, TypeError, ValueError, nx.NetworkXError) as error:
        raise MapError([f"{name}: this JSON is neither networkx node-link nor a GNPy network ({error!r})"]) from error


def _plant(name: str, source: str, graph: nx.Graph[Any], route_factor: float | None) -> Plant:
    labels = _labels(graph)
    sites = {key: Site(labels[key], *_place(facts)) for key, facts in graph.nodes(data=True)}
    fibres, unknown = [], []
    for a, b, facts in graph.edges(data=True):
        if a == b:
            continue
        length_km = _length_km(facts, sites[a], sites[b], route_factor)
        if length_km is None:
            unknown.append(f"{labels[a]} - {labels[b]}")
        else:
            duct = facts.get("duct")
            fibres.append(Fibre((labels[a], labels[b]), round(length_km, 1), None if duct is None else str(duct)))
    if unknown:
        sentence = f"no length and no coordinates of both ends for {', '.join(unknown[:5])}"
        raise MapError([f"{name}: {sentence}; give the edges `length_km` or the nodes coordinates"])
    return Plant(name, source, tuple(sites.values()), tuple(fibres))


def _labels(graph: nx.Graph[Any]) -> dict[Any, str]:
    """A unique name for each node: its label, numbered where two are equal."""
    labels: dict[Any, str] = {}
    for key, facts in graph.nodes(data=True):
        label = next((str(facts[word]) for word in ("name", "label") if facts.get(word)), str(key))
        used, number, base = set(labels.values()), 2, label
        while label in used:
            label, number = f"{base} {number}", number + 1
        labels[key] = label
    return labels


def _place(facts: Mapping[str, Any]) -> tuple[float | None, float | None]:
    position = facts.get("pos")
    if isinstance(position, list | tuple) and len(position) == 2:
        return float(position[0]), float(position[1])
    for longitude, latitude in (("Longitude", "Latitude"), ("longitude", "latitude"), ("lon", "lat")):
        if longitude in facts and latitude in facts:
            return float(facts[longitude]), float(facts[latitude])
    return None, None


def _length_km(facts: Mapping[str, Any], a: Site, b: Site, route_factor: float | None) -> float | None:
    """The length given (`length_km`), else derived from the great-circle distance (`dist`, or from coordinates)."""
    if "length_km" in facts:
        return float(facts["length_km"])
    if "dist" in facts:
        return fibre_km(float(facts["dist"]), route_factor)
    if a.is_placed and b.is_placed:
        return fibre_km(great_circle_km(a, b), route_factor)
    return None


def _from_gnpy(path: Path, facts: Mapping[str, Any]) -> Plant:
    """ROADMs are sites; the fibres and amplifiers between two of them form one span."""
    elements = {element["uid"]: element for element in facts["elements"]}
    successors: dict[str, list[str]] = {}
    for connection in facts.get("connections", ()):
        successors.setdefault(connection["from_node"], []).append(connection["to_node"])
    roadms = [uid for uid, element in elements.items() if element.get("type") == "Roadm"]
    if len(roadms) < 2:
        raise MapError([f"{path.name}: a GNPy network needs two elements of type Roadm at least; it has {len(roadms)}"])
    names = {uid: uid.removeprefix("roadm ").strip() or uid for uid in roadms}
    lengths: dict[tuple[str, str], float] = {}
    for uid in roadms:
        for successor in successors.get(uid, ()):
            end, length_km = _follow(elements, successors, successor)
            if end in names and end != uid:
                first, second = sorted((names[uid], names[end]))
                lengths.setdefault((first, second), length_km)
    sites = tuple(Site(names[uid], *_gnpy_place(elements[uid])) for uid in roadms)
    fibres = tuple(Fibre(ends, round(length_km, 1)) for ends, length_km in lengths.items())
    return Plant(path.stem, f"{path.name} (GNPy)", sites, fibres)


def _follow(
    elements: Mapping[str, Mapping[str, Any]], successors: Mapping[str, Iterable[str]], uid: str
) -> tuple[str, float]:
    """The element at which a chain of fibres and amplifiers ends, and the length of the chain."""
    length_km, visited = 0.0, set()
    while elements[uid].get("type") not in ("Roadm", "Transceiver") and uid not in visited:
        visited.add(uid)
        params = elements[uid].get("params", {})
        if elements[uid].get("type") in ("Fiber", "RamanFiber"):
            unit = 0.001 if params.get("length_units", "km") == "m" else 1.0
            length_km += float(params["length"]) * unit
        next_uids = list(successors.get(uid, ()))
        if not next_uids:
            break
        uid = next_uids[0]
    return uid, length_km


def _gnpy_place(element: Mapping[str, Any]) -> tuple[float | None, float | None]:
    location = element.get("metadata", {}).get("location", {})
    longitude, latitude = location.get("longitude"), location.get("latitude")
    if not isinstance(longitude, int | float) or not isinstance(latitude, int | float) or longitude == latitude == 0:
        return None, None
    return float(longitude), float(latitude)
