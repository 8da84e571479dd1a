"""Resolves a map by name: Paceline's own maps, YAML files, and published fibre plants with edges and a cloud added.

Every command takes the same names, by `find_map` or `resolve_map`.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path

import yaml

from topologies.file_limits import YamlLoader
from topologies.map_file.loader import known_maps, load_map, map_path
from topologies.maps import Map
from topologies.placement.map_document import PlacementOptions, map_document, write_map
from topologies.plants.published import SUFFIXES, is_plant, plant_names, read_plant
from topologies.plants.survey import SurveyOptions
from topologies.problems import MapError, listed

MAP_SUFFIXES = (".yaml", ".yml")
OPTION_NAMES = {"length_attribute": "length-from", "scale_mbps_per_gbps": "scale"}


@dataclass(frozen=True, slots=True)
class MapOptions:
    """How a published network is read, and what is added to it."""

    survey: SurveyOptions = field(default_factory=SurveyOptions)
    placement: PlacementOptions = field(default_factory=PlacementOptions)

    def stated(self) -> list[str]:
        """The options that differ from the default, as they are written on the command line."""
        return [
            f"--{OPTION_NAMES.get(each.name, each.name.replace('_', '-'))}"
            for options in (self.survey, self.placement)
            for each in fields(options)
            if getattr(options, each.name) != getattr(type(options)(), each.name)
        ]


def find_map(name_or_path: str, options: MapOptions | None = None) -> Map:
    """The map of that name or path; of a fibre plant, with edges and a cloud added.

    Raises: MapError if there is none, or it is invalid.
    """
    with tempfile.TemporaryDirectory(prefix="paceline-") as directory:
        return load_map(str(resolve_map(name_or_path, options or MapOptions(), Path(directory))))


def resolve_map(name_or_path: str, options: MapOptions, directory: Path) -> Path:
    """The YAML file of a map; for a fibre plant it is written into `directory` first.

    Raises: MapError if there is no such map, it is invalid, or an option does not apply to it.
    """
    check_name(name_or_path)
    if not is_plant(name_or_path):
        path, stated = map_path(name_or_path), [name for name in options.stated() if name != "--scale"]
        if stated:
            reason = f"{name_or_path} is a map already: its file says where its nodes are and what its fibres carry"
            raise MapError([f"{reason}, so {listed(stated)} {'does' if len(stated) == 1 else 'do'} not apply"])
        return adapt_map(path, directory, options.placement.scale_mbps_per_gbps)
    document = map_document(read_plant(name_or_path, options.survey), options.placement)
    path = directory / f"{document['name']}.yaml"
    write_map(document, path)
    try:
        load_map(str(path))  # validates it
    except MapError as error:  # the user knows the plant, not the file that was written of it
        prefix = re.compile(rf"^{re.escape(str(path))}:\d+")
        raise MapError([prefix.sub(name_or_path, mistake) for mistake in error.mistakes]) from error
    return path


def check_name(name_or_path: str) -> None:
    """Check that there is a map, a published network or a file of that name.

    Raises: MapError with the names that are most like it.
    """
    path = Path(name_or_path)
    if name_or_path in (*known_maps(), *plant_names()):
        return
    if path.is_file():
        if path.suffix.lower() not in (*MAP_SUFFIXES, *SUFFIXES):
            kinds = ", ".join((*MAP_SUFFIXES, *SUFFIXES))
            raise MapError([f"{name_or_path}: the form of a file is told by its suffix, one of {kinds}"])
        return
    what = "directory, not a file" if path.is_dir() else ""
    if path.suffix.lower() in (*MAP_SUFFIXES, *SUFFIXES):
        raise MapError([f"there is no file {name_or_path}"])
    similar = _similar(name_or_path)
    hint = f"use one of {', '.join(known_maps())}, a published network (`paceline maps` lists them), or a file"
    hint = f"did you mean {' or '.join(similar)}?" if similar else hint
    raise MapError([f"no map {name_or_path!r}{f' (it is a {what})' if what else ''}: {hint}"])


def _similar(wanted: str) -> list[str]:
    """Up to three names like the one wanted: the same without group or in other letters, then near misses."""
    names = [*known_maps(), *plant_names()]
    folded = wanted.casefold().strip("/")
    ending = folded.rpartition("/")[2]
    same = [name for name in names if name.casefold() == folded]
    same = same or [name for name in names if name.casefold().rpartition("/")[2] == ending]
    by_fold = {name.casefold(): name for name in names} | {
        name.casefold().rpartition("/")[2]: name for name in names if not name.startswith(("gabriel/", "caida/"))
    }
    if same:
        return same[:3]
    begun = [name for name in names if name.casefold().rpartition("/")[2].startswith(ending) and len(ending) > 3]
    near = [by_fold[match] for match in get_close_matches(ending, by_fold, 3, 0.7)]
    return list(dict.fromkeys((*begun, *near)))[:3]


def adapt_map(path: Path, directory: Path, scale: float | None = None, ducts: Sequence[str] = ()) -> Path:
    """Copy a map file into `directory` with another scale (None: unchanged) and further ducts, each `[NAME=]A-B,C-D`.

    Raises: MapError if the map is invalid, or a duct names a span that the map does not have.
    """
    topology, document = load_map(str(path)), yaml.load(path.read_text(encoding="utf-8-sig"), Loader=YamlLoader)
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
