"""The lightpaths as they are now: who travels in each of them, and what is left."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from controller.booking.calendar import Calendar
from controller.domain.lightpath import Lightpath
from controller.domain.network import Network
from controller.domain.reservation import Reservation, State
from controller.optical.lightpath_design import reservable_bps
from controller.optical.rsa import FIXED, FLEXIBLE

SLOT_GHZ = {"fixed": FIXED.slot_ghz, "flexible": FLEXIBLE.slot_ghz}
LIT = frozenset({State.ACTIVE, State.DEGRADED})
"""The states in which a reservation has its lightpaths lit; in others they are only booked."""


@dataclass(frozen=True, slots=True)
class GroomedFlow:
    """A flow in a lightpath; `is_backup`: it travels there only when its path has failed."""

    reservation_id: str
    tenant: str
    flow: str
    is_backup: bool


@dataclass(frozen=True, slots=True)
class LightpathState:
    """A lightpath now. `reserved_bps`: the most that is taken in it from now on; `free_bps` is what reservations may
    take besides.
    """

    lightpath: Lightpath
    is_lit: bool
    central_thz: float
    width_ghz: float
    length_km: float
    reserved_bps: int
    free_bps: int
    passengers: tuple[GroomedFlow, ...]


def overview(
    network: Network, bookings: Calendar, reservations: Iterable[Reservation], now_s: float
) -> list[LightpathState]:
    """All lightpaths in which anything is booked, by route and channel."""
    booked = bookings.lightpaths()
    travels: dict[str, list[GroomedFlow]] = {}
    lit: set[str] = set()
    for reservation in reservations:
        for placement in reservation.carried_placements if reservation.is_live else ():
            rows = ((placement.lightpaths, False), (placement.backup_lightpaths, True))
            who = reservation.id, reservation.tenant, placement.flow.name
            for name, is_backup in ((each.id, is_backup) for row, is_backup in rows for each in row):
                travels.setdefault(name, []).append(GroomedFlow(*who, is_backup))
                if reservation.state in LIT:
                    lit.add(name)
    return [
        _standing(network, bookings, lightpath, lightpath.id in lit, tuple(travels.get(lightpath.id, ())), now_s)
        for lightpath in sorted(booked.values(), key=lambda each: (each.nodes, each.first_slot))
    ]


def central_thz(network: Network, lightpath: Lightpath) -> float:
    """The middle of its channel; slot 0 begins where the lowest channel of 50 GHz does. Source: ITU-T G.694.1."""
    slot_ghz = SLOT_GHZ[network.grid or "fixed"]
    return FIXED.lowest_thz + (lightpath.first_slot + lightpath.width / 2) * slot_ghz / 1000


def _standing(
    network: Network,
    bookings: Calendar,
    lightpath: Lightpath,
    is_lit: bool,
    passengers: tuple[GroomedFlow, ...],
    now_s: float,
) -> LightpathState:
    reserved_bps = bookings.reserved_bps(lightpath.id, now_s)
    width_ghz = lightpath.width * SLOT_GHZ[network.grid or "fixed"]
    length_km = sum(link.length_km for link in network.links_along(lightpath.nodes))
    free_bps = reservable_bps(lightpath.rate_bps) - reserved_bps
    facts = round(central_thz(network, lightpath), 6), width_ghz, length_km
    return LightpathState(lightpath, is_lit, *facts, reserved_bps, free_bps, passengers)
