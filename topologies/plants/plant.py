"""A fibre plant: sites and the fibres between them, and the estimate of a fibre's length from a distance."""

from __future__ import annotations

import math
from dataclasses import dataclass

from topologies.maps import FibreType

EARTH_RADIUS_KM = 6371.0


@dataclass(frozen=True, slots=True)
class Site:
    """A location with a switch; its coordinates are None if it has none. `drawn_km`: its position on a drawing.

    `is_regenerator`: it only regenerates signals, and has no edge or cloud by default.
    """

    name: str
    longitude_deg: float | None
    latitude_deg: float | None
    drawn_km: tuple[float, float] | None = None
    is_regenerator: bool = False

    @property
    def is_placed(self) -> bool:
        """Whether its coordinates, or its position on a drawing, are known."""
        return self.drawn_km is not None or (self.longitude_deg is not None and self.latitude_deg is not None)


@dataclass(frozen=True, slots=True)
class Fibre:
    """A span between two sites; fibres of the same `duct` fail together. None: not stated. `loss_db_per_km`: with all
    losses along it but connectors of 0.5 dB.
    """

    ends: tuple[str, str]
    length_km: float
    duct: str | None = None
    rate_gbps: float | None = None
    loss_db_per_km: float | None = None
    fibre_type: FibreType | None = None


@dataclass(frozen=True, slots=True)
class Plant:
    """Sites and fibres, and the source they are taken from.

    `notes`: everything that was estimated, left out or not used, a sentence each.
    """

    name: str
    source: str
    sites: tuple[Site, ...]
    fibres: tuple[Fibre, ...]
    notes: tuple[str, ...] = ()


def fibre_km(distance_km: float, route_factor: float | None = None) -> float:
    """The estimated fibre length for a great-circle distance. Source: ITU-T G.826 §5."""
    if route_factor is not None:
        return distance_km * route_factor
    if distance_km < 1000:
        return distance_km * 1.5
    return max(1500.0, distance_km * 1.25)


def great_circle_km(a: Site, b: Site) -> float:
    """The distance over the Earth's surface (haversine). Raises: ValueError if a site has no coordinates."""
    if a.longitude_deg is None or a.latitude_deg is None or b.longitude_deg is None or b.latitude_deg is None:
        raise ValueError(f"{a.name} or {b.name} has no coordinates")
    phi_a, phi_b = math.radians(a.latitude_deg), math.radians(b.latitude_deg)
    d_lambda = math.radians(b.longitude_deg - a.longitude_deg)
    h = math.sin((phi_b - phi_a) / 2) ** 2 + math.cos(phi_a) * math.cos(phi_b) * math.sin(d_lambda / 2) ** 2
    return 2 * EARTH_RADIUS_KM * math.asin(math.sqrt(min(1.0, h)))


def distance_km(a: Site, b: Site) -> float:
    """The distance on the drawing, else over the Earth's surface. Raises: ValueError if a site has no place."""
    if a.drawn_km is not None and b.drawn_km is not None:
        return math.dist(a.drawn_km, b.drawn_km)
    return great_circle_km(a, b)
