"""Reads and validates a map file; reports all mistakes at once, each with file, line, value and a correction."""

from __future__ import annotations

import reprlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import networkx as nx
import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from topologies.file_limits import check_yaml_size, read_bounded
from topologies.identifiers import datapath_id, identifier_mistakes, ip_address, mac_address
from topologies.maps import (
    MAX_CHANNELS,
    MAX_EMULATED_MBPS,
    MAX_FIBRES,
    MAX_PORT_NUMBER,
    MIN_QUEUE_BYTES,
    CrossTraffic,
    Grid,
    Map,
    MapLink,
    MapNode,
    least_queue_bytes,
)
from topologies.problems import MapError

DIRECTORY = Path(__file__).parent

Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9]{0,8}$")]
Ends = tuple[Name, Name]
PortNumber = Annotated[int, Field(ge=1, le=MAX_PORT_NUMBER)]
DatapathId = Annotated[int, BeforeValidator(datapath_id)]
IpAddress = Annotated[str, BeforeValidator(ip_address)]
MacAddress = Annotated[str, BeforeValidator(mac_address)]
QueueBytes = Annotated[int, Field(ge=MIN_QUEUE_BYTES, le=10**9)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _Node(_Strict):
    name: Name
    kind: Literal["switch", "edge", "cloud", "host"]
    position_km: tuple[float, float]
    cpu_share: Annotated[float, Field(ge=0.01, le=64)] | None = None
    label: Annotated[str, Field(min_length=1, max_length=100)] | None = None
    datapath_id: DatapathId | None = None
    ip: IpAddress | None = None
    mac: MacAddress | None = None


class _Link(_Strict):
    ends: Ends
    length_km: Annotated[float, Field(ge=0, le=20_000)]
    channels: Annotated[int, Field(ge=1, le=768)] = 1
    channel_rate_gbps: Annotated[float, Field(gt=0, le=10_000)]
    duct: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    queue_bytes: QueueBytes | None = None
    ports: tuple[PortNumber | None, PortNumber | None] = (None, None)


class _CrossTraffic(_Strict):
    source: Name
    sink: Name
    bottleneck: Ends


class _Optical(_Strict):
    grid: Grid


class _File(_Strict):
    name: Name
    description: str = ""
    source: str = ""
    notes: list[str] = []
    scale_mbps_per_gbps: Annotated[float, Field(gt=0, le=1000)]
    mtu_bytes: Annotated[int, Field(ge=576, le=9000)] = 9000
    queue_bytes: QueueBytes | None = None
    nodes: Annotated[list[_Node], Field(min_length=2)]
    links: Annotated[list[_Link], Field(min_length=1)]
    cross_traffic: _CrossTraffic | None = None
    optical: _Optical | None = None


@dataclass(frozen=True, slots=True)
class _Mistake:
    location: tuple[str | int, ...]
    value: object
    advice: str


def known_maps() -> list[str]:
    """The names of the maps shipped with Paceline."""
    return sorted(path.stem for path in DIRECTORY.glob("*.yaml"))


def map_path(name_or_path: str) -> Path:
    """The file of a map, given by its name (a map shipped with Paceline) or by its path.

    Raises: MapError if there is no such map.
    """
    named = DIRECTORY / f"{name_or_path}.yaml"
    path = named if named.exists() else Path(name_or_path)
    if not path.is_file():
        known = ", ".join(known_maps())
        raise MapError([f"no map {name_or_path!r}: use one of {known}, or the path of a YAML file"])
    return path


def load_map(name_or_path: str) -> Map:
    """Load and validate the map of that name or path.

    Raises: MapError with every mistake found.
    """
    path = map_path(name_or_path)
    try:
        text = read_bounded(path).decode("utf-8-sig")
        check_yaml_size(text, str(path))
        raw, lines = yaml.safe_load(text), _lines(yaml.compose(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        raise MapError([f"{path}: not a readable YAML file: {' '.join(str(error).split())}"]) from error
    schema_mistakes, file = _check_schema(raw)
    mistakes = schema_mistakes + list(_check_semantics(raw))
    if mistakes or file is None:
        raise MapError([_sentence(path, lines, mistake) for mistake in mistakes])
    return _as_map(file)


def _check_schema(raw: object) -> tuple[list[_Mistake], _File | None]:
    try:
        return [], _File.model_validate(raw)
    except ValidationError as error:
        return [
            _Mistake(fault["loc"], fault["input"], _advice(fault["type"], fault["msg"])) for fault in error.errors()
        ], None


def _advice(kind: str, message: str) -> str:
    if kind == "missing":
        return "this entry is missing"
    if kind == "extra_forbidden":
        return "there is no such entry; remove it or correct its spelling"
    if kind == "string_pattern_mismatch":
        return "a name is a lower-case letter and up to 8 further lower-case letters or digits"
    message = message.removeprefix("Value error, ")
    return message[0].lower() + message[1:]


def _check_semantics(raw: object) -> Iterator[_Mistake]:
    """Check what the schema cannot express; entries that violate the schema are skipped."""
    if not isinstance(raw, dict):
        return
    kinds: dict[str, str] = {}
    for index, node in _entries(raw, "nodes"):
        name = node.get("name")
        if not isinstance(name, str):
            continue
        if name in kinds:
            yield _Mistake(("nodes", index, "name"), name, "another node has this name; choose a different one")
        if node.get("kind") == "cloud" and "cloud" in kinds.values():
            yield _Mistake(("nodes", index, "kind"), "cloud", "a map has one cloud; make this a host or an edge")
        kinds[name] = str(node.get("kind"))
    nodes, links = list(_entries(raw, "nodes")), list(_entries(raw, "links"))
    yield from (_Mistake(*mistake) for mistake in identifier_mistakes(nodes, links))
    yield from _check_links(raw, kinds)
    yield from _check_cross_traffic(raw, kinds)


def _check_links(raw: dict[str, Any], kinds: dict[str, str]) -> Iterator[_Mistake]:
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
                yield _Mistake(location, end, f"no node has this name; the nodes are {', '.join(kinds)}")
        if ends[0] == ends[1]:
            yield _Mistake(location, ends, "a link has two different ends")
        if graph.has_edge(*ends) and any(kinds.get(end, "switch") != "switch" for end in ends):
            yield _Mistake(location, ends, "these two are linked already; raise `channels` of that link instead")
        graph.add_edge(*ends)
        yield from _check_rate(index, link, scale, is_real)
        yield from _check_queue(index, link, scale, raw.get("queue_bytes"))
        yield from _check_channels(index, link, raw.get("optical"))
    yield from _check_hosts(raw, kinds, graph)
    if raw.get("optical") is not None:
        yield from _check_fibres(raw, kinds, graph)


def _check_rate(index: int, link: dict[str, Any], scale: object, is_real: bool) -> Iterator[_Mistake]:
    rate, channels = link.get("channel_rate_gbps"), link.get("channels", 1)
    if not (isinstance(rate, (int, float)) and isinstance(channels, int) and isinstance(scale, (int, float))):
        return
    if is_real:
        return  # nothing is emulated
    emulated = rate * channels * scale
    if emulated > MAX_EMULATED_MBPS:
        fitting = MAX_EMULATED_MBPS / (rate * channels)
        yield _Mistake(
            ("links", index, "channel_rate_gbps"),
            rate,
            f"{channels} x {rate:g} Gb/s at {scale:g} Mb/s per Gb/s is {emulated:g} Mb/s; at most "
            f"{MAX_EMULATED_MBPS:g} Mb/s can be emulated: lower scale_mbps_per_gbps to {fitting:g} or less",
        )


def _check_queue(index: int, link: dict[str, Any], scale: object, common_bytes: object) -> Iterator[_Mistake]:
    """Check that the queue holds the least burst of the port's best-effort meter."""
    rate, channels = link.get("channel_rate_gbps"), link.get("channels", 1)
    if not (isinstance(rate, (int, float)) and isinstance(channels, int) and isinstance(scale, (int, float))):
        return
    own = link.get("queue_bytes") is not None
    queue_bytes = link.get("queue_bytes") if own else common_bytes
    least_bytes = least_queue_bytes(rate * channels * scale * 1e6)
    if isinstance(queue_bytes, int) and MIN_QUEUE_BYTES <= queue_bytes < least_bytes:
        location = ("links", index, "queue_bytes") if own else ("queue_bytes",)
        names = "-".join(link["ends"])
        yield _Mistake(location, queue_bytes, f"the ports of {names} need {least_bytes} bytes or more at their rate")


def _check_channels(index: int, link: dict[str, Any], optical: object) -> Iterator[_Mistake]:
    most = MAX_CHANNELS.get(optical.get("grid", "")) if isinstance(optical, dict) else None
    channels = link.get("channels", 1)
    if most is not None and isinstance(channels, int) and channels > most:
        yield _Mistake(("links", index, "channels"), channels, f"at most {most} of these fit into the C band")


def _check_fibres(raw: dict[str, Any], kinds: dict[str, str], graph: nx.MultiGraph[str]) -> Iterator[_Mistake]:
    for index, node in _entries(raw, "nodes"):
        name = node.get("name")
        if not isinstance(name, str) or kinds.get(name) != "switch":
            continue
        fibres = sum(kinds.get(near) == "switch" for _, near in graph.edges(name))
        if fibres > MAX_FIBRES:
            advice = f"{fibres} fibres to other switches end here; at most {MAX_FIBRES} can on an optical map"
            yield _Mistake(("nodes", index, "name"), name, advice)


def _check_hosts(raw: dict[str, Any], kinds: dict[str, str], graph: nx.MultiGraph[str]) -> Iterator[_Mistake]:
    for index, node in _entries(raw, "nodes"):
        name = node.get("name")
        if not isinstance(name, str) or name not in graph:
            continue
        near = list(graph.neighbors(name))
        article = "an" if kinds[name].startswith("e") else "a"
        if kinds[name] != "switch" and (len(near) != 1 or kinds.get(near[0]) != "switch"):
            yield _Mistake(
                ("nodes", index, "name"),
                name,
                f"{article} {kinds[name]} has exactly one link, to a switch; it has {len(near)}",
            )
    if len(graph) and not nx.is_connected(graph):
        parts = sorted(nx.connected_components(graph), key=len)
        yield _Mistake(("links",), ", ".join(sorted(parts[0])), "these nodes cannot reach the rest; link them")


def _check_cross_traffic(raw: dict[str, Any], kinds: dict[str, str]) -> Iterator[_Mistake]:
    cross = raw.get("cross_traffic")
    if not isinstance(cross, dict):
        return
    for role in ("source", "sink"):
        name = cross.get(role)
        if isinstance(name, str) and kinds.get(name, "switch") == "switch":
            hosts = ", ".join(host for host, kind in kinds.items() if kind != "switch")
            yield _Mistake(("cross_traffic", role), name, f"name a host of this map: {hosts}")
    ends = [set(link["ends"]) for _, link in _entries(raw, "links") if isinstance(link.get("ends"), list)]
    bottleneck = cross.get("bottleneck")
    if isinstance(bottleneck, list) and set(bottleneck) not in ends:
        yield _Mistake(("cross_traffic", "bottleneck"), bottleneck, "name the two ends of a link of this map")


def _entries(raw: dict[str, Any], key: str) -> Iterator[tuple[int, dict[str, Any]]]:
    entries = raw.get(key)
    if isinstance(entries, list):
        yield from ((index, entry) for index, entry in enumerate(entries) if isinstance(entry, dict))


def _lines(node: yaml.Node | None, location: tuple[str | int, ...] = ()) -> dict[tuple[str | int, ...], int]:
    """The line number of every location (keys and indices from the root) in the file."""
    if node is None:
        return {}
    lines = {location: node.start_mark.line + 1}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            lines |= _lines(value, (*location, str(key.value)))
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            lines |= _lines(value, (*location, index))
    return lines


def _sentence(path: Path, lines: dict[tuple[str | int, ...], int], mistake: _Mistake) -> str:
    known = mistake.location
    while known and known not in lines:
        known = known[:-1]
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in mistake.location).lstrip(".")
    value = "" if isinstance(mistake.value, dict) else f" = {reprlib.repr(mistake.value)}"
    return f"{path}:{lines.get(known, 1)}: {where or 'the file'}{value}: {mistake.advice}"


def _as_map(file: _File) -> Map:
    cross = file.cross_traffic
    return Map(
        name=file.name,
        description=file.description,
        source=file.source,
        notes=tuple(file.notes),
        scale_mbps_per_gbps=file.scale_mbps_per_gbps,
        mtu_bytes=file.mtu_bytes,
        nodes=tuple(
            MapNode(n.name, n.kind, n.position_km, n.cpu_share, n.label, n.datapath_id, n.ip, n.mac) for n in file.nodes
        ),
        links=tuple(
            MapLink(k.ends, k.length_km, k.channels, k.channel_rate_gbps, k.duct, k.queue_bytes, k.ports)
            for k in file.links
        ),
        cross_traffic=None if cross is None else CrossTraffic(cross.source, cross.sink, cross.bottleneck),
        grid=None if file.optical is None else file.optical.grid,
        queue_bytes=file.queue_bytes,
    )
