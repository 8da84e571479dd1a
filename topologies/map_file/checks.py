"""Checks of a map file that its schema cannot express; entries that violate the schema are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from typing import Any, TypeGuard

import networkx as nx

from topologies.map_file.identifiers import identifier_mistakes
from topologies.maps import (
    MAX_CHANNELS,
    MAX_EMULATED_MBPS,
    MAX_FIBRES,
    MIN_QUEUE_BYTES,
    Band,
    least_queue_bytes,
    most_channels,
)
from topologies.text_encoding import is_control

LEAST_EMULATED_MBPS = 0.001


@dataclass(frozen=True, slots=True)
class Mistake:
    """A mistake at a location (keys and indices from the root), the value there, and what would be right."""

    location: tuple[str | int, ...]
    value: object
    advice: str


def check_semantics(raw: object) -> Iterator[Mistake]:
    """All mistakes of a file that has been parsed."""
    if not isinstance(raw, dict):
        return
    kinds: dict[str, str] = {}
    for index, node in _entries(raw, "nodes"):
        name = node.get("name")
        if not isinstance(name, str):
            continue
        if name in kinds:
            yield Mistake(("nodes", index, "name"), name, "another node has this name; choose a different one")
        kinds[name] = str(node.get("kind"))
    nodes, links = list(_entries(raw, "nodes")), list(_entries(raw, "links"))
    yield from _check_texts(raw, nodes, links)
    yield from (Mistake(*mistake) for mistake in identifier_mistakes(nodes, links))
    yield from _check_links(raw, kinds)
    yield from _check_cross_traffic(raw, kinds)


def _check_texts(
    raw: dict[str, Any], nodes: list[tuple[int, dict[str, Any]]], links: list[tuple[int, dict[str, Any]]]
) -> Iterator[Mistake]:
    """Texts that are shown have no control characters, which terminals obey; breaks of lines are none here."""
    texts: list[tuple[tuple[str | int, ...], object]] = [((word,), raw.get(word)) for word in ("description", "source")]
    notes = raw.get("notes")
    texts += [(("notes", index), note) for index, note in enumerate(notes if isinstance(notes, list) else ())]
    texts += [(("nodes", index, "label"), node.get("label")) for index, node in nodes]
    texts += [(("links", index, "duct"), link.get("duct")) for index, link in links]
    for location, text in texts:
        if isinstance(text, str) and any(is_control(letter) and letter not in "\n\t" for letter in text):
            yield Mistake(location, text, "control characters are not shown; remove them")


def _check_links(raw: dict[str, Any], kinds: dict[str, str]) -> Iterator[Mistake]:
    graph: nx.MultiGraph[str] = nx.MultiGraph()
    graph.add_nodes_from(kinds)
    scale = raw.get("scale_mbps_per_gbps")
    is_real = any(node.get("datapath_id") is not None for _, node in _entries(raw, "nodes"))
    for index, link in _entries(raw, "links"):
        ends = link.get("ends")
        if not (isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, str) for end in ends)):
            continue
        location = ("links", index, "ends")
        for end in ends:
            if end not in kinds:
                yield Mistake(location, end, f"no node has this name; the nodes are {', '.join(kinds)}")
        if ends[0] == ends[1]:
            yield Mistake(location, ends, "a link has two different ends")
        if graph.has_edge(*ends) and any(kinds.get(end, "switch") != "switch" for end in ends):
            yield Mistake(location, ends, "these two are linked already; raise `channels` of that link instead")
        graph.add_edge(*ends)
        yield from _check_rate(index, link, scale, is_real)
        yield from _check_queue(index, link, scale, raw.get("queue_bytes"))
        yield from _check_channels(index, link, raw.get("optical"))
        yield from _check_idle_slope(index, link, scale, raw.get("optical"))
    if raw.get("ats") is True and raw.get("optical") is not None:
        yield Mistake(("ats",), True, "on an optical map flows travel in lightpaths; ports have no regulators")
    yield from _check_hosts(raw, kinds, graph)
    yield from _check_regenerators(raw.get("optical"), kinds)
    if raw.get("optical") is not None:
        yield from _check_fibres(raw, kinds, graph)


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and isfinite(value)


def _check_rate(index: int, link: dict[str, Any], scale: object, is_real: bool) -> Iterator[Mistake]:
    rate, channels = link.get("channel_rate_gbps"), link.get("channels", 1)
    if not (_is_number(rate) and isinstance(channels, int) and _is_number(scale)):
        return
    emulated = rate * channels * scale
    if 0 < emulated < LEAST_EMULATED_MBPS:
        advice = f"{emulated:g} Mb/s; a link has at least {LEAST_EMULATED_MBPS:g} Mb/s: raise it or scale_mbps_per_gbps"
        yield Mistake(("links", index, "channel_rate_gbps"), rate, f"{channels} x {rate:g} Gb/s to scale is {advice}")
    if is_real:
        return  # nothing is emulated
    if emulated > MAX_EMULATED_MBPS:
        fitting = MAX_EMULATED_MBPS / (rate * channels)
        yield Mistake(
            ("links", index, "channel_rate_gbps"),
            rate,
            f"{channels} x {rate:g} Gb/s at {scale:g} Mb/s per Gb/s is {emulated:g} Mb/s; at most "
            f"{MAX_EMULATED_MBPS:g} Mb/s can be emulated: lower scale_mbps_per_gbps to {fitting:g} or less",
        )


def _check_queue(index: int, link: dict[str, Any], scale: object, common_bytes: object) -> Iterator[Mistake]:
    """Check that the queue holds the least burst of the port's best-effort meter."""
    rate, channels = link.get("channel_rate_gbps"), link.get("channels", 1)
    if not (_is_number(rate) and isinstance(channels, int) and _is_number(scale)):
        return
    own = link.get("queue_bytes") is not None
    queue_bytes = link.get("queue_bytes") if own else common_bytes
    least_bytes = least_queue_bytes(rate * channels * scale * 1e6)
    if isinstance(queue_bytes, int) and MIN_QUEUE_BYTES <= queue_bytes < least_bytes:
        location = ("links", index, "queue_bytes") if own else ("queue_bytes",)
        names = "-".join(link["ends"])
        yield Mistake(location, queue_bytes, f"the ports of {names} need {least_bytes} bytes or more at their rate")


def _check_idle_slope(index: int, link: dict[str, Any], scale: object, optical: object) -> Iterator[Mistake]:
    slope, rate, channels = link.get("idle_slope_gbps"), link.get("channel_rate_gbps"), link.get("channels", 1)
    if not _is_number(slope):
        return
    location = ("links", index, "idle_slope_gbps")
    if optical is not None:
        yield Mistake(location, slope, "on an optical map flows travel in lightpaths; ports have no such shapers")
    if _is_number(rate) and isinstance(channels, int) and slope >= rate * channels:
        yield Mistake(location, slope, f"an idle slope is below the rate of the link, {rate * channels:g} Gb/s")
    elif _is_number(scale) and 0 < slope * scale < LEAST_EMULATED_MBPS:
        yield Mistake(location, slope, f"to scale it is {slope * scale:g} Mb/s; at least {LEAST_EMULATED_MBPS:g} Mb/s")


def _check_channels(index: int, link: dict[str, Any], optical: object) -> Iterator[Mistake]:
    if not isinstance(optical, dict) or optical.get("grid") not in MAX_CHANNELS:
        return
    band = _band(optical)
    most, channels = most_channels(optical["grid"], band), link.get("channels", 1)
    if isinstance(channels, int) and channels > most:
        advice = f"at most {most} of these fit into the {band} band"
        advice += "; with optical.band C+L there are more" if band == "C" else ""
        yield Mistake(("links", index, "channels"), channels, advice)


def _band(optical: object) -> Band:
    return "C+L" if isinstance(optical, dict) and optical.get("band") == "C+L" else "C"


def _check_regenerators(optical: object, kinds: dict[str, str]) -> Iterator[Mistake]:
    names = optical.get("regenerators") if isinstance(optical, dict) else None
    for name in names if isinstance(names, list) else ():
        if isinstance(name, str) and kinds.get(name) != "switch":
            switches = ", ".join(node for node, kind in kinds.items() if kind == "switch")
            yield Mistake(("optical", "regenerators"), name, f"no switch has this name; the switches are {switches}")


def _check_fibres(raw: dict[str, Any], kinds: dict[str, str], graph: nx.MultiGraph[str]) -> Iterator[Mistake]:
    band = _band(raw["optical"])
    most = MAX_FIBRES[band]
    for index, node in _entries(raw, "nodes"):
        name = node.get("name")
        if not isinstance(name, str) or kinds.get(name) != "switch":
            continue
        fibres = sum(kinds.get(near) == "switch" for _, near in graph.edges(name))
        if fibres > most:
            advice = f"{fibres} fibres to other switches end here; at most {most} can on an optical map"
            advice += " of both bands" if band == "C+L" else ""
            yield Mistake(("nodes", index, "name"), name, advice)


def _check_hosts(raw: dict[str, Any], kinds: dict[str, str], graph: nx.MultiGraph[str]) -> Iterator[Mistake]:
    for index, node in _entries(raw, "nodes"):
        name = node.get("name")
        if not isinstance(name, str) or name not in graph:
            continue
        near = list(graph.neighbors(name))
        article = "an" if kinds[name].startswith("e") else "a"
        if kinds[name] != "switch" and (len(near) != 1 or kinds.get(near[0]) != "switch"):
            yield Mistake(
                ("nodes", index, "name"),
                name,
                f"{article} {kinds[name]} has exactly one link, to a switch; it has {len(near)}",
            )
    if len(graph) and not nx.is_connected(graph):
        parts = sorted(nx.connected_components(graph), key=len)
        yield Mistake(("links",), ", ".join(sorted(parts[0])), "these nodes cannot reach the rest; link them")


def _check_cross_traffic(raw: dict[str, Any], kinds: dict[str, str]) -> Iterator[Mistake]:
    cross = raw.get("cross_traffic")
    if not isinstance(cross, dict):
        return
    for role in ("source", "sink"):
        name = cross.get(role)
        if isinstance(name, str) and kinds.get(name, "switch") == "switch":
            hosts = ", ".join(host for host, kind in kinds.items() if kind != "switch")
            yield Mistake(("cross_traffic", role), name, f"name a host of this map: {hosts}")
    ends = [set(link["ends"]) for _, link in _entries(raw, "links") if isinstance(link.get("ends"), list)]
    bottleneck = cross.get("bottleneck")
    if isinstance(bottleneck, list) and set(bottleneck) not in ends:
        yield Mistake(("cross_traffic", "bottleneck"), bottleneck, "name the two ends of a link of this map")


def _entries(raw: dict[str, Any], key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    entries = raw.get(key)
    if isinstance(entries, list):
        yield from ((index, entry) for index, entry in enumerate(entries) if isinstance(entry, dict))
