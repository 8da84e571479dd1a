"""Turns a fibre plant into a map: attaches edges and cloud at their sites, sets the scale of the emulation.

One host for cross-traffic is attached beside the first edge, another beside the cloud; they load the last span of the
first edge's path to the cloud.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from topologies.maps import MAX_FIBRES, Band, Grid, most_channels
from topologies.placement.regenerators import with_regenerators
from topologies.placement.siting import choose_sites, site_named
from topologies.plants.plant import Fibre, Plant, Site
from topologies.problems import MapError, listed

MOST_LETTERS = 100
"""Of a label."""
DEFAULT_CHANNELS = 4
"""Channels of a fibre whose speed is not stated."""
ACCESS_KM = 3.0
"""Length of the access link between a host and its switch."""
KM_PER_DEGREE = 111.2
YamlDumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
WITHOUT_MARK = str.maketrans({"ø": "o", "æ": "ae", "œ": "oe", "ł": "l", "đ": "d", "ð": "d", "þ": "th"})
"""Letters that Unicode does not take apart."""
CPU_SHARES = (0.12, 0.18, 0.24, 0.30)
"""CPU shares of the edges in turn: devices of different speed."""
CPU_TOTAL = 0.9
"""Upper limit of the sum of all edges' CPU shares."""
FASTEST_MBPS = 80.0
"""The rate at which the fastest fibre is emulated by default."""
SLOWEST_MBPS = 0.01
"""Slower fibres are emulated at this rate: at less, the delay of a frame would be minutes."""
CLOUD_CPU_SHARE = 1.0
"""All that its one thread can use: no limit, but it puts the cloud into the hosts' control group, which has preference.
"""


@dataclass(frozen=True, slots=True)
class PlacementOptions:
    """What is added to a plant. `edges`: their number or their sites, None: up to four; `cloud`: its site, None: the
    most central one.

    `channels`, `channel_rate_gbps`: of fibres whose speed is not stated. `scale_mbps_per_gbps`: None: the fastest fibre
    is emulated at 80 Mb/s. `grid`, `band`: of the fibres. `regenerators`: the sites at which a flow may change from one
    lightpath to the next, beside those that `regenerate` adds; None: all. `regenerate`: spans beyond optical reach get
    regenerator sites; `regenerator_price`: of one regenerator, in any unit.
    """

    edges: int | Sequence[str] | None = None
    cloud: str | None = None
    channels: int = DEFAULT_CHANNELS
    channel_rate_gbps: float = 100.0
    scale_mbps_per_gbps: float | None = None
    grid: Grid = "fixed"
    band: Band = "C"
    regenerators: Sequence[str] | None = None
    mtu_bytes: int = 9000
    regenerate: bool = False
    regenerator_price: float | None = None


def map_document(plant: Plant, options: PlacementOptions) -> dict[str, Any]:
    """The content of the map's YAML file.

    Raises: MapError if the options name sites that do not exist or do not apply, or the plant is not connected.
    """
    if options.channels != DEFAULT_CHANNELS and all(fibre.rate_gbps is not None for fibre in plant.fibres):
        raise MapError([f"{plant.name} states the speed of every span, so --channels does not apply"])
    if options.regenerate:
        plant = with_regenerators(
            plant, lambda fibre: _channels(fibre, options)[0], options.regenerator_price, options.band
        )
    regenerating = _regenerating(plant, options)
    sites = choose_sites(
        plant, options.edges, options.cloud, options.band, None if regenerating is None else set(regenerating)
    )
    names = short_names([site.name for site in plant.sites])
    positions = _positions_km(plant.sites)
    rates = [_channels(fibre, options) for fibre in plant.fibres]
    channels, most_gbps = max(rates, key=lambda rate: rate[0] * rate[1])
    scale = options.scale_mbps_per_gbps or min(1000.0, float(f"{FASTEST_MBPS / (channels * most_gbps):.4g}"))
    slow = [" - ".join(fibre.ends) for fibre, rate in zip(plant.fibres, rates, strict=True)
            if rate[0] * rate[1] * scale < SLOWEST_MBPS]  # fmt: skip
    rates = [rate if rate[0] * rate[1] * scale >= SLOWEST_MBPS else (1, SLOWEST_MBPS / scale) for rate in rates]
    nodes, links = _switches_and_spans(plant, rates, names, positions)
    access = _Access(names, positions, channels, most_gbps, most_channels(options.grid, options.band))
    for number, (site, share) in enumerate(zip(sites.edges, _cpu_shares(len(sites.edges)), strict=True), 1):
        access.attach(nodes, links, f"edge{number}", "edge", site, cpu_share=share)
    access.attach(nodes, links, "cloud", "cloud", sites.cloud, cpu_share=CLOUD_CPU_SHARE)
    for host, site in (("load1", sites.edges[0]), ("load2", sites.cloud)):
        access.attach(nodes, links, host, "host", site)
    path = sites.path
    bottleneck = [names[site] for site in path[-2:]] if len(path) > 1 else ["cloud", names[sites.cloud]]
    crowded = _crowded(plant, options.band)
    long = [site.name for site in plant.sites if len(site.name) > MOST_LETTERS]
    cut = [f"names are cut after {MOST_LETTERS} letters: {listed([name[:20] + '…' for name in long])}"] if long else []
    notes = [*plant.notes, *sites.notes, *crowded, *cut]
    if slow:
        notes.append(f"emulated at {SLOWEST_MBPS:g} Mb/s, which is faster than to scale: {listed(slow)}")
    return {
        "name": _map_name(plant.name),
        "description": f"{len(plant.sites)} sites; cloud at {sites.cloud}, edges at {', '.join(sites.edges)}.",
        "source": plant.source,
        **({"notes": notes} if notes else {}),
        "scale_mbps_per_gbps": scale,
        "mtu_bytes": options.mtu_bytes,
        **({} if crowded else {"optical": _optical(plant, options, names)}),
        "nodes": nodes,
        "links": links,
        "cross_traffic": {"source": "load1", "sink": "load2", "bottleneck": bottleneck},
    }


def _switches_and_spans(
    plant: Plant, rates: Sequence[tuple[int, float]], names: Mapping[str, str], positions: Mapping[str, list[float]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The map's nodes and links that the plant has; `rates`: number and rate in Gb/s of each fibre's channels."""
    nodes: list[dict[str, Any]] = [
        {
            "name": names[site.name], "kind": "switch", "position_km": positions[site.name],
            "label": site.name[:MOST_LETTERS],
        }
        for site in plant.sites
    ]  # fmt: skip
    links: list[dict[str, Any]] = []
    for fibre, (number, rate_gbps) in zip(plant.fibres, rates, strict=True):
        ends = [names[end] for end in fibre.ends]
        optional = {name: getattr(fibre, name) for name in ("duct", "loss_db_per_km", "fibre_type")}
        links.append({
            "ends": ends, "length_km": fibre.length_km, "channels": number, "channel_rate_gbps": rate_gbps,
            **{name: value for name, value in optional.items() if value is not None},
        })  # fmt: skip
    return nodes, links


@dataclass(frozen=True, slots=True)
class _Access:
    """What access links are made of. An edge has `channels`, every other host twice as many, at most `most`."""

    names: Mapping[str, str]
    positions: Mapping[str, list[float]]
    channels: int
    rate_gbps: float
    most: int

    def attach(
        self, nodes: list[dict[str, Any]], links: list[dict[str, Any]], host: str, kind: str, site: str, **facts: float
    ) -> None:
        """Append a host and its link to the switch at a site."""
        channels = min(self.most, self.channels if kind == "edge" else 2 * self.channels)
        nodes.append({"name": host, "kind": kind, "position_km": self.positions[site], **facts})
        links.append({
            "ends": [host, self.names[site]], "length_km": ACCESS_KM, "channels": channels,
            "channel_rate_gbps": self.rate_gbps,
        })  # fmt: skip


def _optical(plant: Plant, options: PlacementOptions, names: Mapping[str, str]) -> dict[str, Any]:
    """The map's entry `optical`, with what differs from its defaults."""
    optical: dict[str, Any] = {"grid": options.grid}
    if options.band != "C":
        optical["band"] = options.band
    regenerating = _regenerating(plant, options)
    if regenerating is not None:
        optical["regenerators"] = [names[site] for site in regenerating] or "none"
    return optical


def _regenerating(plant: Plant, options: PlacementOptions) -> list[str] | None:
    """The sites that regenerate; None: all."""
    if options.regenerators is None:
        return None
    chosen = [site_named(plant, name) for name in options.regenerators]
    return list(dict.fromkeys([*chosen, *(site.name for site in plant.sites if site.is_regenerator)]))


def _crowded(plant: Plant, band: Band) -> list[str]:
    """A note if more fibres end at a site than an optical map can have."""
    numbers = Counter(end for fibre in plant.fibres for end in fibre.ends)
    most = MAX_FIBRES[band]
    many = [f"{site} ({number})" for site, number in numbers.items() if number > most]
    sentence = f"more than {most} fibres end at {listed(many)}: the links are packet links, without lightpaths"
    return [sentence] if many else []


def _channels(fibre: Fibre, options: PlacementOptions) -> tuple[int, float]:
    """Number and rate of the channels of a fibre: of 100 Gb/s, or one slower channel."""
    if fibre.rate_gbps is None:
        return options.channels, options.channel_rate_gbps
    half = most_channels(options.grid, options.band) // 2  # the cloud's access link has twice as many
    number = min(half, max(1, math.ceil(fibre.rate_gbps / options.channel_rate_gbps)))
    return number, float(f"{fibre.rate_gbps / number:.6g}")


def write_map(document: Mapping[str, Any], path: Path) -> None:
    """Write the map as a YAML file; creates missing directories."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = yaml.dump(
        dict(document), Dumper=YamlDumper, sort_keys=False, default_flow_style=None, width=118, allow_unicode=True
    )
    path.write_text(text, encoding="utf-8")


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Unique short names that fit into interface names: up to nine lower-case letters and digits."""
    short: dict[str, str] = {}
    used = set[str]()
    for name in names:
        letters = ascii_letters(name)
        base = letters if letters[:1].isalpha() else f"s{letters}"
        reserved = re.fullmatch(r"edge\d+|cloud|load\d", base[:9])
        candidate, number = base[:8] if reserved else base[:9], 2
        while candidate in used or (reserved and candidate == base):
            tail = str(number)
            candidate, number = base[: 9 - len(tail)] + tail, number + 1
        short[name] = candidate
        used.add(candidate)
    return short


def ascii_letters(name: str) -> str:
    """The lower-case letters and digits of a name; letters with marks lose them: Örebro is orebro, Łódź is lodz."""
    plain = unicodedata.normalize("NFKD", name.casefold().translate(WITHOUT_MARK))
    return re.sub(r"[^a-z0-9]", "", plain)


def _positions_km(sites: Sequence[Site]) -> dict[str, list[float]]:
    """Positions on a plane: those of the drawing, else x to the east (equirectangular about the centre).

    Sites without a place stand on a circle around the middle of the others.
    """
    drawn = {site.name: site.drawn_km for site in sites if site.drawn_km is not None}
    placed = {
        site.name: (site.longitude_deg, site.latitude_deg)
        for site in sites
        if site.longitude_deg is not None and site.latitude_deg is not None
    }
    known: dict[str, tuple[float, float]] = dict(drawn)
    if placed:
        middle_x, middle_y = (sum(axis) / len(placed) for axis in zip(*placed.values(), strict=True))
        shrink = math.cos(math.radians(middle_y))
        for name, (x, y) in placed.items():
            known[name] = ((x - middle_x) * shrink * KM_PER_DEGREE, (y - middle_y) * KM_PER_DEGREE)
    missing = [site.name for site in sites if site.name not in known]
    centre = tuple(sum(axis) / len(known) for axis in zip(*known.values(), strict=True)) if known else (0.0, 0.0)
    radius = max((math.dist(place, centre) for place in known.values()), default=200.0) / 2 or 100.0
    for number, name in enumerate(missing):
        angle = 2 * math.pi * number / len(missing)
        known[name] = centre[0] + radius * math.cos(angle), centre[1] + radius * math.sin(angle)
    return {name: [round(x, 1), round(y, 1)] for name, (x, y) in known.items()}


def _cpu_shares(edges: int) -> list[float]:
    shares = [CPU_SHARES[number % len(CPU_SHARES)] for number in range(edges)]
    shrink = min(1.0, CPU_TOTAL / sum(shares)) if shares else 1.0
    return [max(0.01, round(share * shrink, 3)) for share in shares]


def _map_name(name: str) -> str:
    letters = ascii_letters(name)
    return (letters if letters[:1].isalpha() else f"m{letters}")[:9]
