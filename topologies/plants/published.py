"""Reads a fibre plant by its name in topohub (`sndlib/nobel-us`, `topozoo/Abilene`, …) or from a file.

A great-circle distance is converted to a fibre length by the route factor of ITU-T G.826 §5: 1.5 below 1000 km, 1.25
from 1200 km, and 1500 km in between. A length given in the data is used unchanged.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from xml.etree.ElementTree import Element, ParseError, fromstring

import topohub

from topologies.file_limits import read_bounded
from topologies.plants.plant import Plant
from topologies.plants.survey import SurveyOptions, plant_of
from topologies.readers import gnpy_network, graph_files, node_link, sndlib
from topologies.readers.json_files import parsed_json
from topologies.readers.source import SourceNetwork, unreadable
from topologies.text_encoding import WIDE, check_content, decoded

DATA = Path(topohub.__file__).parent / "data"
SUFFIXES = (".graphml", ".gml", ".xml", ".json", ".xls", ".xlsx", ".txt", ".native")
SNDLIB = "sndlib/"


@cache
def plant_names() -> tuple[str, ...]:
    """All network names of `topohub`, sorted."""
    return tuple(sorted(path.relative_to(DATA).with_suffix("").as_posix() for path in DATA.rglob("*.json")))


def is_plant(name_or_path: str) -> bool:
    """Whether it names a fibre plant rather than a map: a name of topohub, or a file in a format read here."""
    return name_or_path in plant_names() or Path(name_or_path).suffix.lower() in SUFFIXES


def read_plant(name_or_path: str, options: SurveyOptions | None = None) -> Plant:
    """Read the fibre plant of that name or path.

    Raises: MapError if there is none, or it is invalid.
    """
    source = read_source(name_or_path)
    return plant_of(source, options or SurveyOptions())


def read_source(name_or_path: str) -> SourceNetwork:
    """Read what a file, or topohub, states about a network.

    Raises: MapError if it cannot be read.
    """
    if name_or_path in plant_names():
        return _from_topohub(name_or_path)
    path = Path(name_or_path)
    try:
        if path.suffix.lower() in (".xls", ".xlsx"):
            path.open("rb").close()
            return gnpy_network.read_workbook(path)
        return _from_content(path, read_bounded(path))
    except RecursionError as error:
        raise unreadable(name_or_path, "it is nested too deeply") from error
    except OSError as error:
        raise unreadable(name_or_path, error.strerror or error) from error


def _from_content(path: Path, content: bytes) -> SourceNetwork:
    is_xml = path.suffix.lower() in (".xml", ".graphml")
    try:
        check_content(content)
        text = "" if is_xml else decoded(content)
    except ValueError as error:
        raise unreadable(path.name, error) from error
    return _from_xml(path, content) if is_xml else _from_text(path, text)


def _from_text(path: Path, text: str) -> SourceNetwork:
    suffix = path.suffix.lower()
    if suffix == ".gml":
        return graph_files.read_gml(path, text)
    if suffix != ".json":
        if not text.startswith(sndlib.NATIVE_HEADER):
            raise unreadable(path.name, f"a text file is read in SNDlib's form, which starts {sndlib.NATIVE_HEADER!r}")
        return sndlib.read_native(path, text)
    facts = parsed_json(path.name, text)
    if gnpy_network.YANG in facts or "elements" in facts:
        return gnpy_network.read_gnpy(path.stem, f"{path.name} (GNPy)", facts)
    if node_link.RFC8345 in facts:
        return node_link.read_rfc8345(path.stem, f"{path.name} (RFC 8345)", facts)
    return node_link.read_node_link(path.stem, f"{path.name} (node-link JSON)", facts)


def _from_xml(path: Path, content: bytes) -> SourceNetwork:
    if b"<!ENTITY" in content:
        raise unreadable(path.name, "it defines entities, which can expand without limit; remove them")
    try:
        if b"encoding" not in content[:100] and not content.startswith(WIDE):
            decoded(content)
        root: Element = fromstring(content)
    except (ParseError, ValueError, LookupError) as error:
        raise unreadable(path.name, error) from error
    name = root.tag.rpartition("}")[2]
    if name == "graphml":
        return graph_files.read_graphml(path, root)
    if name == "network":
        return sndlib.read_xml(path, root)
    raise unreadable(path.name, f"its XML is <{name}>; GraphML (<graphml>) and SNDlib (<network>) are read")


def _from_topohub(name: str) -> SourceNetwork:
    facts = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))  # topohub.get leaves the file open
    stem = name.rpartition("/")[2]
    source = node_link.read_node_link(stem, f"topohub {name}", facts, has_degrees=True)
    if not name.startswith(SNDLIB) or not sndlib.is_drawing(stem, [(site.x, site.y) for site in source.sites]):
        return source
    # topohub's `dist` is the great-circle distance between the places of the drawing: it means nothing
    return SourceNetwork(source.name, source.source, source.sites, source.spans, is_drawing=True, has_dist=False)
