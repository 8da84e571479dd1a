"""Regenerator sites on spans that no light crosses at once, and how many regenerators that takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from math import ceil

from topologies.maps import Band
from topologies.placement.siting import reach_km
from topologies.plants.plant import Fibre, Plant, Site
from topologies.problems import listed


def with_regenerators(
    plant: Plant, channels_of: Callable[[Fibre], int], price: float | None = None, band: Band = "C"
) -> Plant:
    """Return the plant with equal parts within reach in place of every longer span, and a site between every two.

    A note tells the spans, the number of regenerators (one for each channel of a span at each of its sites) and, with a
    `price` of each, their cost in the same unit.
    """
    sites, fibres, spans, number = list(plant.sites), list[Fibre](), list[str](), 0
    site_of = {site.name: site for site in plant.sites}
    for fibre in plant.fibres:
        parts = ceil(fibre.length_km / reach_km(fibre.loss_db_per_km, band))
        if parts < 2:
            fibres.append(fibre)
            continue
        a, b = (site_of[end] for end in fibre.ends)
        between = [_between(a, b, part / parts, f"regen {len(spans) + 1}.{part}") for part in range(1, parts)]
        sites += between
        ends = [a.name, *(site.name for site in between), b.name]
        fibres += [
            replace(fibre, ends=(near, far), length_km=round(fibre.length_km / parts, 3))
            for near, far in pairwise(ends)
        ]
        spans.append(f"{a.name} - {b.name} ({fibre.length_km:g} km): {parts - 1}")
        number += (parts - 1) * channels_of(fibre)
    if not spans:
        return plant
    cost = "" if price is None else f", {number * price:g} at {price:g} each"
    where = f"regenerator sites on spans beyond optical reach: {listed(spans, 6)}"
    note = f"{where}; {number} regenerators, one for each channel{cost}"
    return replace(plant, sites=tuple(sites), fibres=tuple(fibres), notes=(*plant.notes, note))


def _between(a: Site, b: Site, share: float, name: str) -> Site:
    """Return a site on the line between two, at this share of the way; without a place if one of them has none."""
    if a.drawn_km is not None and b.drawn_km is not None:
        (xa, ya), (xb, yb) = a.drawn_km, b.drawn_km
        return Site(name, None, None, (xa + (xb - xa) * share, ya + (yb - ya) * share), is_regenerator=True)
    if a.longitude_deg is None or a.latitude_deg is None or b.longitude_deg is None or b.latitude_deg is None:
        return Site(name, None, None, is_regenerator=True)
    east = (b.longitude_deg - a.longitude_deg + 180) % 360 - 180
    longitude = (a.longitude_deg + east * share + 180) % 360 - 180
    latitude = a.latitude_deg + (b.latitude_deg - a.latitude_deg) * share
    return Site(name, longitude, latitude, is_regenerator=True)
