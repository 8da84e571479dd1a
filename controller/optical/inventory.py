"""The present lightpaths: their flows and free capacity."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from controller.booking.calendar import Calendar
from controller.domain.lightpath import Lightpath
from controller.domain.network import Network
from controller.domain.reservation import Reservation, State
from controller.optical.lightpath_design import reservable_bps
from controller.optical.spectrum_grid import FIXED, FLEXIBLE, L_BAND_LOWEST_THZ
from topologies.maps import C_BAND_SLOTS

SLOT_GHZ = {"fixed": FIXED.slot_ghz, "flexible": FLEXIBLE.slot_ghz}
LIT = frozenset({State.ACTIVE, State.DEGRADED})
"""The states in which a reservation's lightpaths are lit; in others they are only booked."""


@dataclass(frozen=True, slots=True)
class GroomedFlow:
    """A flow in a lightpath; `is_backup`: it uses the lightpath only after a failure of its path."""

    reservation_id: str
    tenant: str
    flow: str
    is_backup: bool


@dataclass(frozen=True, slots=True)
class LightpathState:
    """A lightpath at present. `reserved_bps`: the peak of its bookings from now on; `free_bps`: the remaining
    reservable rate.
    """

    lightpath: Lightpath
    is_lit: bool
    central_thz: float
    width_ghz: float
    length_km: float
    reserved_bps: int
    free_bps: int
    flows: tuple[GroomedFlow, ...]


def lightpath_inventory(
    network: Network, bookings: Calendar, reservations: Iterable[Reservation], now_s: float
) -> list[LightpathState]:
    """Return all lightpaths that have bookings, by route and channel."""
    booked = bookings.lightpaths()
    flows_by_lightpath: dict[str, list[GroomedFlow]] = {}
    lit: set[str] = set()
    for reservation in reservations:
        for placement in reservation.carried_placements if reservation.is_live else ():
            chains = ((placement.lightpaths, False), (placement.backup_lightpaths, True))
            owner = reservation.id, reservation.tenant, placement.flow.name
            for name, is_backup in ((each.id, is_backup) for chain, is_backup in chains for each in chain):
                flows_by_lightpath.setdefault(name, []).append(GroomedFlow(*owner, is_backup))
                if reservation.state in LIT:
                    lit.add(name)
    return [
        _state_of(
            network, bookings, lightpath, lightpath.id in lit, tuple(flows_by_lightpath.get(lightpath.id, ())), now_s
        )
        for lightpath in sorted(booked.values(), key=lambda each: (each.nodes, each.first_slot))
    ]


def central_thz(network: Network, lightpath: Lightpath) -> float:
    """Return the central frequency of its channel; slot 0 starts at the lowest 50 GHz channel of the C band, and the L
    band follows the C band. Source: ITU-T G.694.1.
    """
    grid = network.grid or "fixed"
    first, lowest_thz = lightpath.first_slot, FIXED.lowest_thz
    if first >= C_BAND_SLOTS[grid]:
        first, lowest_thz = first - C_BAND_SLOTS[grid], L_BAND_LOWEST_THZ
    return lowest_thz + (first + lightpath.width / 2) * SLOT_GHZ[grid] / 1000


def _state_of(
    network: Network,
    bookings: Calendar,
    lightpath: Lightpath,
    is_lit: bool,
    flows: tuple[GroomedFlow, ...],
    now_s: float,
) -> LightpathState:
    reserved_bps = bookings.reserved_bps(lightpath.id, now_s)
    width_ghz = lightpath.width * SLOT_GHZ[network.grid or "fixed"]
    length_km = sum(link.length_km for link in network.links_along(lightpath.nodes))
    free_bps = reservable_bps(lightpath.rate_bps) - reserved_bps
    facts = round(central_thz(network, lightpath), 6), width_ghz, length_km
    return LightpathState(lightpath, is_lit, *facts, reserved_bps, free_bps, flows)
