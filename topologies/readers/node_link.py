"""Reads JSON in networkx's node-link form, as topohub has it, and RFC 8345 `ietf-network-topology`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from topologies.problems import MapError
from topologies.readers.graph_files import network_of
from topologies.readers.source import SourceNetwork, SourceSite, SourceSpan, as_key, first_of, json_kind

RFC8345 = "ietf-network:networks"
LINK = "ietf-network-topology:link"


def read_node_link(name: str, source: str, facts: Mapping[str, Any]) -> SourceNetwork:
    """The network of node-link JSON.

    Raises: MapError if it is in another form.
    """
    word = "links" if facts.get("links") is not None else "edges"
    if facts.get("nodes") is None or facts.get(word) is None:
        raise MapError([
            f"{name}: this JSON is neither networkx node-link (nodes, links) nor a GNPy network (elements, "
            f"connections) nor RFC 8345 ({RFC8345}); it has {', '.join(map(str, facts)) or 'nothing'}"
        ])  # fmt: skip
    for key, form in (("nodes", '{"id": "a"}'), (word, '{"source": "a", "target": "b"}')):
        if not isinstance(facts[key], list):
            raise MapError([f"{name}: `{key}` is {json_kind(facts[key])}; it must be a list of objects such as {form}"])
    nodes = [(_key(f"{name}: node {number}", node, "id"), node) for number, node in enumerate(facts["nodes"], start=1)]
    spans = []
    for number, link in enumerate(facts[word], start=1):
        place = f"{name}: link {number}"
        ends = _key(place, link, "source"), _key(place, link, "target")
        spans.append(SourceSpan(ends, {word: link[word] for word in link if word not in ("source", "target")}))
    return network_of(name, source, nodes, tuple(spans), bool(facts.get("directed")))


def _key(place: str, entry: object, word: str) -> str:
    shown = json.dumps(entry, ensure_ascii=False)[:80]
    if not isinstance(entry, dict):
        raise MapError([f"{place} is {shown}; it must be an object with `{word}`"])
    if isinstance(entry.get(word), list | dict | bool | None):
        raise MapError([f"{place}: `{word}` must be a number or a text, in {shown}"])
    return as_key(entry[word])


def read_rfc8345(name: str, source: str, facts: Mapping[str, Any]) -> SourceNetwork:
    """The network of RFC 8345 JSON (RFC 7951 encoding): nodes are sites, links one direction each.

    The topology with most nodes is taken; of links between termination points of the same nodes, each is a span.

    Raises: MapError if it is in another form.
    """
    networks = [each for each in _entries(facts[RFC8345], "network") if _entries(each, "node")]
    if not networks:
        raise MapError([f"{name}: no network in {RFC8345} has nodes"])
    network = max(networks, key=lambda each: len(_entries(each, "node")))
    others = [str(each.get("network-id")) for each in networks if each is not network]
    notes = (f"the network {network.get('network-id')} is taken; others in the file: {', '.join(others)}",)
    sites = []
    for node in _entries(network, "node"):
        flat = dict(_flat(node))
        x, y = (first_of(flat, word, f"{word}-degrees") for word in ("longitude", "latitude"))
        label = first_of(flat, "name", "node-name", "title")
        sites.append(SourceSite(as_key(node.get("node-id")), None if label is None else str(label), x, y))
    spans = []
    for number, link in enumerate(_entries(network, LINK) or _entries(network, "link")):
        ends = [_entry(link, "source").get("source-node"), _entry(link, "destination").get("dest-node")]
        if None in ends:
            raise MapError([f"{name}: link {link.get('link-id', number)} has no source-node or no dest-node"])
        spans.append(SourceSpan((as_key(ends[0]), as_key(ends[1])), dict(_flat(link))))
    return SourceNetwork(name, source, tuple(sites), tuple(spans), True, notes=notes if others else ())


def _entry(facts: Mapping[str, Any], word: str) -> Mapping[str, Any]:
    value = facts.get(word)
    return value if isinstance(value, dict) else {}


def _entries(facts: object, word: str) -> list[Mapping[str, Any]]:
    value = facts.get(word) if isinstance(facts, dict) else None
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def _flat(facts: Mapping[str, Any]) -> Iterator[tuple[str, object]]:
    """All leaves below an entry, by their names without module prefix; those of augmentations included."""
    for word, value in facts.items():
        if isinstance(value, dict):
            yield from _flat(value)
        elif not isinstance(value, list):
            yield word.rpartition(":")[2], value


