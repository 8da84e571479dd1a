"""Reads SNDlib's own files, native and XML. Source: Orlowski et al., "SNDlib 1.0", Networks 55 (2010)."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree.ElementTree import Element

from topologies.problems import MapError
from topologies.readers.source import SourceNetwork, SourceSite, SourceSpan, number_of, off_globe

NATIVE_HEADER = "?SNDlib native format"
SECTION = r"^{}\s*\(\s*$(.*?)^\)"
NODE = re.compile(r"^\s*(\S+)\s*\(\s*(\S+)\s+(\S+)\s*\)\s*$")
LINK = re.compile(r"^\s*(\S+)\s*\(\s*(\S+)\s+(\S+)\s*\)(.*)$")
CAPACITIES = "capacities of links, installed or by module, are not used: SNDlib does not state their unit"

ELSEWHERE = frozenset({"india35"})
"""Networks with coordinates on the globe, but not where the network is."""


def read_native(path: Path, text: str) -> SourceNetwork:
    """Read the text of a file in SNDlib's native format. Demands and costs are not used.

    Raises: MapError
    """
    sites, spans, has_capacities = [], [], False
    for line in _section(path, text, "NODES"):
        if (node := NODE.match(line)) is None:
            raise MapError([f"{path.name}: a node is written `NAME ( LONGITUDE LATITUDE )`, not {line.strip()!r}"])
        sites.append(SourceSite(node[1], node[1], node[2], node[3]))
    for line in _section(path, text, "LINKS"):
        if (link := LINK.match(line)) is None:
            raise MapError([f"{path.name}: a link is written `NAME ( SOURCE TARGET ) …`, not {line.strip()!r}"])
        spans.append(SourceSpan((link[2], link[3]), {"id": link[1]}))
        installed, _, modules = link[4].partition("(")
        has_capacities |= bool(modules.strip(" )")) or bool(number_of((installed.split() or ["0"])[0]))
    drawn, notes = is_drawing(path.stem, [(site.x, site.y) for site in sites]), (CAPACITIES,) * has_capacities
    return SourceNetwork(path.stem, f"{path.name} (SNDlib)", tuple(sites), tuple(spans), is_drawing=drawn, notes=notes)


def _section(path: Path, text: str, name: str) -> list[str]:
    found = re.findall(SECTION.format(name), text, re.MULTILINE | re.DOTALL)
    if len(found) != 1:
        raise MapError([f"{path.name}: this SNDlib file has {'two sections' if found else 'no section'} {name}"])
    return [line for line in found[0].splitlines() if line.strip() and not line.lstrip().startswith("#")]


def read_xml(path: Path, root: Element) -> SourceNetwork:
    """Read SNDlib's XML, already parsed; its `coordinatesType` says whether coordinates are degrees or a drawing's.

    Raises: MapError
    """
    nodes, links = root.find("{*}networkStructure/{*}nodes"), root.find("{*}networkStructure/{*}links")
    if nodes is None or links is None:
        raise MapError([f"{path.name}: this SNDlib file has no networkStructure with nodes and links"])
    sites = []
    for number, node in enumerate(nodes.findall("{*}node"), 1):
        key = node.get("id", "").strip()
        if not key:
            raise MapError([f"{path.name}: node {number} has no id"])
        sites.append(SourceSite(key, key, _coordinate(node, "x"), _coordinate(node, "y")))
    spans = []
    for number, link in enumerate(links.findall("{*}link"), 1):
        ends = [_text(path, f"link {link.get('id', number)}", link, word) for word in ("source", "target")]
        spans.append(SourceSpan((ends[0], ends[1]), {"id": link.get("id")}))
    stated = nodes.get("coordinatesType")
    if stated not in (None, "geographical", "pixel"):
        raise MapError([f"{path.name}: coordinatesType is {stated!r}; it is geographical or pixel"])
    by_places = is_drawing(path.stem, [(site.x, site.y) for site in sites])
    drawn = {"geographical": path.stem in ELSEWHERE, "pixel": True}.get(stated or "", by_places)
    notes = (CAPACITIES,) if links.find(".//{*}capacity") is not None else ()
    return SourceNetwork(path.stem, f"{path.name} (SNDlib)", tuple(sites), tuple(spans), is_drawing=drawn, notes=notes)


def _coordinate(node: Element, axis: str) -> str | None:
    return node.findtext(f"{{*}}coordinates/{{*}}{axis}")


def _text(path: Path, owner: str, element: Element, word: str) -> str:
    found = [(each.text or "").strip() for each in element.findall(f"{{*}}{word}")]
    if len(found) != 1 or not found[0]:
        raise MapError([f"{path.name}: {owner} has {'several' if len(found) > 1 else 'no'} {word}"])
    return found[0]


def is_drawing(name: str, places: list[tuple[object, object]]) -> bool:
    """Whether coordinates without a stated meaning are those of a drawing: some are off the globe."""
    return name in ELSEWHERE or off_globe(places)
