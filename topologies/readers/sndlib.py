"""Reads SNDlib's own files, native and XML. Source: Orlowski et al., "SNDlib 1.0", Networks 55 (2010)."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree.ElementTree import Element

from topologies.problems import MapError
from topologies.readers.source import SourceNetwork, SourceSite, SourceSpan, off_globe

NATIVE_HEADER = "?SNDlib native format"
SECTION = r"^{}\s*\(\s*$(.*?)^\)"
NODE = re.compile(r"^\s*(\S+)\s*\(\s*(\S+)\s+(\S+)\s*\)\s*$")
LINK = re.compile(r"^\s*(\S+)\s*\(\s*(\S+)\s+(\S+)\s*\)")

ELSEWHERE = frozenset({"india35"})
"""Networks with coordinates on the globe, but not where the network is."""


def read_native(path: Path, text: str) -> SourceNetwork:
    """Read the text of a file in SNDlib's native format. Demands and costs are not used.

    Raises: MapError
    """
    sites, spans = [], []
    for line in _section(path, text, "NODES"):
        if (node := NODE.match(line)) is None:
            raise MapError([f"{path.name}: a node is written `NAME ( LONGITUDE LATITUDE )`, not {line.strip()!r}"])
        sites.append(SourceSite(node[1], node[1], node[2], node[3]))
    for line in _section(path, text, "LINKS"):
        if (link := LINK.match(line)) is None:
            raise MapError([f"{path.name}: a link is written `NAME ( SOURCE TARGET ) …`, not {line.strip()!r}"])
        spans.append(SourceSpan((link[2], link[3]), {"id": link[1]}))
    drawn = is_drawing(path.stem, [(site.x, site.y) for site in sites])
    return SourceNetwork(path.stem, f"{path.name} (SNDlib)", tuple(sites), tuple(spans), is_drawing=drawn)


def _section(path: Path, text: str, name: str) -> list[str]:
    found = re.search(SECTION.format(name), text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise MapError([f"{path.name}: this SNDlib file has no section {name}"])
    return [line for line in found[1].splitlines() if line.strip() and not line.lstrip().startswith("#")]


def read_xml(path: Path, root: Element) -> SourceNetwork:
    """Read SNDlib's XML, already parsed; its `coordinatesType` says whether coordinates are degrees or a drawing's.

    Raises: MapError
    """
    nodes, links = root.find("{*}networkStructure/{*}nodes"), root.find("{*}networkStructure/{*}links")
    if nodes is None or links is None:
        raise MapError([f"{path.name}: this SNDlib file has no networkStructure with nodes and links"])
    sites = [
        SourceSite(str(node.get("id")), node.get("id"), _coordinate(node, "x"), _coordinate(node, "y"))
        for node in nodes.findall("{*}node")
    ]
    spans = [
        SourceSpan((_text(link, "source"), _text(link, "target")), {"id": link.get("id")})
        for link in links.findall("{*}link")
    ]
    stated = nodes.get("coordinatesType")
    by_places = is_drawing(path.stem, [(site.x, site.y) for site in sites])
    drawn = {"geographical": path.stem in ELSEWHERE, "pixel": True}.get(stated or "", by_places)
    return SourceNetwork(path.stem, f"{path.name} (SNDlib)", tuple(sites), tuple(spans), is_drawing=drawn)


def _coordinate(node: Element, axis: str) -> str | None:
    return node.findtext(f"{{*}}coordinates/{{*}}{axis}")


def _text(element: Element, word: str) -> str:
    return (element.findtext(f"{{*}}{word}") or "").strip()


def is_drawing(name: str, places: list[tuple[object, object]]) -> bool:
    """Whether coordinates without a stated meaning are those of a drawing: some are off the globe."""
    return name in ELSEWHERE or off_globe(places)
