"""Reads JSON in networkx's node-link form, as topohub has it, and RFC 8345 `ietf-network-topology`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from topologies.problems import MapError
from topologies.readers.graph_files import network_of
from topologies.readers.source import SourceNetwork, SourceSite, SourceSpan, as_key, first_of, json_kind
from topologies.readers.te_attributes import TE, te_attributes

RFC8345 = "ietf-network:networks"
LINK = "ietf-network-topology:link"
_COORDINATES = ("longitude", "longitude-degrees", "latitude", "latitude-degrees")


def read_node_link(name: str, source: str, facts: Mapping[str, Any], has_degrees: bool = False) -> SourceNetwork:
    """The network of node-link JSON. `has_degrees`: `pos` is longitude and latitude, and need not be told.

    Raises: MapError if it is in another form.
    """
    if facts.get("links") and facts.get("edges"):
        raise MapError([f"{name}: it has `links` and `edges`; one of them states the spans"])
    word = "links" if facts.get("links") is not None or "edges" not in facts else "edges"
    if "nodes" not in facts or word not in facts:
        raise MapError([
            f"{name}: this JSON is neither networkx node-link (nodes, links) nor a GNPy network (elements, "
            f"connections) nor RFC 8345 ({RFC8345}); it has {', '.join(map(str, facts)) or 'nothing'}"
        ])  # fmt: skip
    for key, form in (("nodes", '{"id": "a"}'), (word, '{"source": "a", "target": "b"}')):
        if not isinstance(facts[key], list):
            raise MapError([f"{name}: `{key}` is {json_kind(facts[key])}; it must be a list of objects such as {form}"])
    directed = facts.get("directed", False)
    if not isinstance(directed, bool | None):
        raise MapError([f"{name}: `directed` is {json.dumps(directed)[:40]}; it is true or false"])
    nodes = [(_key(f"{name}: node {number}", node, "id"), node) for number, node in enumerate(facts["nodes"], start=1)]
    spans = []
    for number, link in enumerate(facts[word], start=1):
        place = f"{name}: link {number}"
        ends = _key(place, link, "source"), _key(place, link, "target")
        spans.append(SourceSpan(ends, {word: link[word] for word in link if word not in ("source", "target")}))
    return network_of(name, source, nodes, tuple(spans), bool(directed), tells_pos=not has_degrees)


def _key(place: str, entry: object, word: str) -> str:
    shown = json.dumps(entry, ensure_ascii=False)[:80]
    if not isinstance(entry, dict):
        raise MapError([f"{place} is {shown}; it must be an object with `{word}`"])
    if isinstance(entry.get(word), list | dict | bool | None):
        raise MapError([f"{place}: `{word}` must be a number or a text, in {shown}"])
    if not str(entry[word]).strip():
        raise MapError([f"{place}: `{word}` is empty, in {shown}"])
    return as_key(entry[word])


def read_rfc8345(name: str, source: str, facts: Mapping[str, Any]) -> SourceNetwork:
    """The network of RFC 8345 JSON (RFC 7951 encoding): nodes are sites, links one direction each.

    The topology with most nodes is taken; of links between termination points of the same nodes, each is a span.

    Raises: MapError if it is in another form.
    """
    networks = [each for each in _entries(name, facts[RFC8345], "network") if _entries(name, each, "node")]
    if not networks:
        raise MapError([f"{name}: no network in {RFC8345} has nodes"])
    network = max(networks, key=lambda each: len(each["node"]))
    others = [str(each.get("network-id")) for each in networks if each is not network]
    notes = (f"the network {network.get('network-id')} is taken; others in the file: {', '.join(others)}",)
    sites = []
    for number, node in enumerate(_entries(name, network, "node"), start=1):
        key = _key(f"{name}: node {number}", node, "node-id")
        flat = _flat(node)
        if again := [word for word in flat if word.strip() in _COORDINATES and word.strip() != word]:
            both = f"{flat[again[0].strip()]} and {flat[again[0]]}"
            raise MapError([f"{name}: node {key!r} states `{again[0].strip()}` twice: {both}"])
        x, y = (first_of(flat, word, f"{word}-degrees") for word in ("longitude", "latitude"))
        label = first_of(flat, "name", "node-name", "title")
        sites.append(SourceSite(key, None if label is None else str(label), x, y))
    spans = []
    for number, link in enumerate(_entries(name, network, LINK) or _entries(name, network, "link"), start=1):
        ends = [_entry(link, "source").get("source-node"), _entry(link, "destination").get("dest-node")]
        if None in ends:
            raise MapError([f"{name}: link {link.get('link-id', number)} has no source-node or no dest-node"])
        plain = _flat({word: value for word, value in link.items() if word != TE})
        spans.append(SourceSpan((as_key(ends[0]), as_key(ends[1])), {**te_attributes(_entry(link, TE)), **plain}))
    return SourceNetwork(name, source, tuple(sites), tuple(spans), True, notes=notes if others else ())


def _entry(facts: Mapping[str, Any], word: str) -> Mapping[str, Any]:
    value = facts.get(word)
    return value if isinstance(value, dict) else {}


def _entries(name: str, facts: object, word: str) -> list[Mapping[str, Any]]:
    value = facts.get(word, []) if isinstance(facts, dict) else None
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise MapError([f"{name}: `{word}` of RFC 8345 must be a list of objects"])
    return value


def _flat(facts: Mapping[str, Any]) -> dict[str, object]:
    """All leaves below an entry, by their names without module prefix; those of augmentations included.

    A second value of a name has a space behind the name.
    """
    flat: dict[str, object] = {}
    for word, value in _leaves(facts):
        if flat.setdefault(word, value) != value:
            flat[f"{word} "] = value
    return flat


def _leaves(facts: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    for word, value in facts.items():
        if isinstance(value, dict):
            yield from _leaves(value)
        elif not isinstance(value, list):
            yield word.rpartition(":")[2], value
