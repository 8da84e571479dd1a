"""Grooming: chooses the lightpaths that carry a flow along its path, lit ones first, else new ones.

In this order: lit lightpaths with free capacity, as few as cover the path; a new one from the first switch to the last;
a chain of new and lit ones with the least new spectrum, with regeneration at the switches in between (where the channel
may change and flows of different lightpaths meet), if the map lets them regenerate. A new one gets the lowest slots
that are free on all its links (first fit).

Source: Zhu and Mukherjee, "Traffic grooming in an optical WDM mesh network", IEEE JSAC 20 (2002).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from math import inf

from controller.booking.calendar import Calendar
from controller.caches import MIB, bounded_cache
from controller.domain.lightpath import Lightpath, lightpath_id
from controller.domain.network import Network
from controller.domain.path import Path, hop_count, link_names, nodes_of
from controller.errors import NoCapacity, NoSpectrum, OutOfReach, Refused
from controller.optical.lightpath_design import design_lightpath, reservable_bps
from controller.optical.rsa import RouteOrder
from controller.optical.spectrum import block_starts, starts_within_bands
from topologies.maps import C_BAND_SLOTS, SLOTS_PER_CHANNEL

HasCapacity = Callable[[Lightpath], bool]
"""Whether a flow fits into a lightpath beside its bookings."""

LightpathChain = tuple[Lightpath, ...]
"""End to end."""

Cost = tuple[int, int]
"""New spectrum in slots x links, then the number of lightpaths."""


class LightpathAllocator:
    """The lightpaths and the free spectrum of a network during the placement of a request's flows, from start to end.

    `held`: lightpaths that the request's flows use so far. The flows may stay in them; their slots remain occupied
    while packets are in flight from the old to the new.
    """

    def __init__(
        self, network: Network, bookings: Calendar, start_s: float, end_s: float, held: Sequence[Lightpath] = ()
    ) -> None:
        self.network = network
        self.held = tuple(held)
        self._bookings = bookings
        self._time = start_s, end_s
        self._placed: dict[Lightpath, int] = {}
        self._is_all_lit = not held and bookings.all_lightpaths_lit_from(start_s)
        """Whether all lightpaths are lit from the start, so that no two of them share a slot of a link."""
        self._others_along = bookings.lightpaths_during(start_s, end_s)
        self._slots_by_link: dict[str, tuple[int, int]] = {}
        """For every link evaluated: the free slots, and those of several lightpaths at different times."""

    def allocate(self, lightpath: Lightpath) -> None:
        """Add a flow of the request to a lightpath."""
        self._placed[lightpath] = self._placed.get(lightpath, 0) + 1
        self._invalidate(lightpath)

    def free(self, lightpath: Lightpath) -> None:
        """Remove a flow of the request from a lightpath."""
        self._placed[lightpath] -= 1
        if not self._placed[lightpath]:
            del self._placed[lightpath]
        self._invalidate(lightpath)

    def _invalidate(self, lightpath: Lightpath) -> None:
        for link in lightpath.links:
            self._slots_by_link.pop(link, None)

    def lightpaths_along(self, nodes: Path, rate_bps: int, has_capacity: HasCapacity) -> LightpathChain | None:
        """Return the chain of lightpaths from the first of these switches to the last; None if there is none."""
        chain = self.existing(nodes, has_capacity)
        if chain is None:
            chain = self.new(nodes, rate_bps)
        return self.mixed(nodes, rate_bps, has_capacity) if chain is None else chain

    def existing(self, nodes: Path, has_capacity: HasCapacity) -> LightpathChain | None:
        """Return a chain of lit lightpaths only, as few as cover the path."""
        if len(nodes) < 2:
            return ()
        single = self._existing_over(nodes, has_capacity)
        return self._cheapest(nodes, has_capacity) if single is None else (single,)

    def new(self, nodes: Path, rate_bps: int) -> LightpathChain | None:
        """Return a single new lightpath for the whole path."""
        lightpath = self._new_over(nodes, rate_bps)
        return None if lightpath is None else (lightpath,)

    def mixed(self, nodes: Path, rate_bps: int, has_capacity: HasCapacity) -> LightpathChain | None:
        """Return a chain of lit and new lightpaths."""
        return self._cheapest(nodes, has_capacity, rate_bps)

    def max_rate_bps(self, nodes: Path, free_bps: Callable[[Lightpath], int]) -> int:
        """Return the highest rate for which a chain exists. `free_bps`: the free capacity of a lit lightpath."""

        def segment_bps(segment: Path) -> int:
            lit_bps = [free_bps(lightpath) for lightpath in self._lit_along(segment) if self._is_clear(lightpath)]
            design = design_lightpath(self.network, segment)
            has_slots = design.is_feasible and _lowest(self.network, self._free(segment), design.width) is not None
            return max(*lit_bps, 0, reservable_bps(design.rate_bps) if has_slots else 0)

        best = {0: inf}
        for end in self.network.lightpath_ends(nodes)[1:]:
            best[end] = max(min(bps, segment_bps(nodes[begin : end + 1])) for begin, bps in best.items())
        return int(min(best[max(best)], sys.maxsize))

    def cost(self, chain: LightpathChain, rate_bps: int, order: RouteOrder) -> float:
        """Return the cost of a chain for a flow in slots x links; see controller.optical.rsa.

        A lit lightpath counts with the flow's share of its rate; a new one in full, plus its position and the load of
        its links.
        """
        cost = 0.0
        for lightpath in chain:
            lightpath_cost = lightpath.width * len(lightpath.links)
            if self.is_lit(lightpath):
                cost += lightpath_cost * rate_bps / lightpath.rate_bps
                continue
            cost += lightpath_cost + order.position * (lightpath.first_slot + 1)
            if order.load:
                load_shares = [self._taken_share(link) for link in lightpath.links]
                cost += order.load * lightpath.width * sum(load_shares)
        return cost

    def min_cost_existing(self, links: int, rate_bps: int) -> float:
        """Return a lower bound on the cost of a chain of lit lightpaths over so many links."""
        return links * rate_bps * _least_slots_per_bps(self.network) if links else 0.0

    def min_cost_new(self, nodes: Path, rate_bps: int) -> float:
        """Return a lower bound on the cost of one new lightpath for the whole path; infinite if infeasible."""
        design = design_lightpath(self.network, nodes)
        return (
            design.width * hop_count(nodes)
            if design.is_feasible and rate_bps <= reservable_bps(design.rate_bps)
            else inf
        )

    def min_cost_mixed(self, links: int, rate_bps: int) -> float:
        """Return a lower bound on the cost of a chain with at least one new lightpath."""
        min_new_cost = SLOTS_PER_CHANNEL[self.network.grid or "fixed"]
        return self.min_cost_existing(links - 1, rate_bps) + min_new_cost

    def _taken_share(self, link: str) -> float:
        slot_count = self.network.links[link].slot_count
        return 1 - self._slots_at(link)[0].bit_count() / slot_count

    def refusal(self, flow: str, nodes: Path, rate_bps: int, has_capacity: HasCapacity) -> Refused | None:
        """Return why there is no chain along these switches: the error of the first link that no lightpath can cross.
        """
        for segment in self.network.transparent_segments(nodes):
            if self._existing_over(segment, has_capacity) is None and self._new_over(segment, rate_bps) is None:
                return self._reason(flow, segment, rate_bps)
        return None

    def _reason(self, flow: str, segment: Path, rate_bps: int) -> Refused:
        links, design = link_names(segment), design_lightpath(self.network, segment)
        link, is_long = links[0], len(links) > 1
        where = f"{' > '.join(nodes_of(segment))}, which no switch regenerates on," if is_long else link
        if not design.is_feasible:
            missing_db = round(-design.margin_db, 2)
            km = sum(self.network.links[name].length_km for name in links)
            sentence = (
                f"{flow}: {where} ({km:g} km) is out of optical reach: {design.modulation} lacks {missing_db:g} dB."
            )
            return OutOfReach(sentence, flow=flow, link=link, missing_db=missing_db, gsnr_db=design.gsnr_db)
        max_bps = reservable_bps(design.rate_bps)
        if rate_bps > max_bps:
            needed, maximum = f"{rate_bps / 1e6:.6g} Mb/s", f"{max_bps / 1e6:.6g} Mb/s"
            facts = {
                "capacity_bps": design.rate_bps,
                "reserved_bps": 0,
                "free_bps": max_bps,
                "asked_bps": rate_bps,
            }
            sentence = f"{flow} needs {needed}; one lightpath over {link} carries {maximum}."
            return NoCapacity(sentence, flow=flow, bottleneck={"link": link, **facts})
        slots = self.network.links[link].slot_count
        sentence = f"{flow}: no lightpath over {link} has free capacity, and none of its {slots} slots is free."
        if is_long:
            needed = "slot is" if design.width == 1 else f"{design.width} adjacent slots are"
            sentence = f"{flow}: no lightpath over {where} has free capacity, and no {needed} free on all its links."
        return NoSpectrum(sentence, flow=flow, link=link, slots=slots)

    def _cheapest(self, nodes: Path, has_capacity: HasCapacity, new_bps: int | None = None) -> LightpathChain | None:
        """Return the cheapest chain of two or more lightpaths along the switches (dynamic programming).

        `new_bps`: the rate of new lightpaths where no lit one has capacity; None: lit ones only.
        """
        best: dict[int, tuple[Cost, LightpathChain]] = {0: ((0, 0), ())}
        others, are_others_all = self._others_along, not self.held and not self._placed
        positions, last = self.network.lightpath_ends(nodes), len(nodes) - 1
        for begun, start in enumerate(positions[:-1], 1):
            if start not in best:
                continue
            (spectrum, number), chain = best[start]
            for end in positions[begun:] if start else positions[begun:-1]:
                if end in best and best[end][0] <= (spectrum, number + 1):
                    continue  # even a lit lightpath would not make it cheaper
                segment, new_slots = nodes[start : end + 1], 0
                lightpath = None
                if others(segment) or not are_others_all:
                    lightpath = self._existing_over(segment, has_capacity)
                if lightpath is None and new_bps is not None:
                    lightpath = self._new_over(segment, new_bps)
                    new_slots = 0 if lightpath is None else lightpath.width * len(lightpath.links)
                if lightpath is not None:
                    cost = spectrum + new_slots, number + 1
                    if end not in best or cost < best[end][0]:
                        best[end] = cost, (*chain, lightpath)
        return best[last][1] if last in best else None

    def is_lit(self, lightpath: Lightpath) -> bool:
        """Return whether the lightpath is lit regardless of the flow being placed."""
        return lightpath in self._lit_along(lightpath.nodes)

    def _existing_over(self, nodes: Path, has_capacity: HasCapacity) -> Lightpath | None:
        """Return a lightpath that is lit along exactly these switches, for the whole time, with capacity for the flow.
        """
        for lightpath in self._lit_along(nodes):
            if has_capacity(lightpath) and (self._is_all_lit or self._is_clear(lightpath)):
                return lightpath
        return None

    def _lit_along(self, nodes: Path) -> Iterable[Lightpath]:
        """Return the lightpaths lit along these switches: of others, and of the request before and after the change."""
        others = self._others_along(nodes) or ()
        if not self.held and not self._placed:
            return others
        held, placed = (
            [lightpath for lightpath in candidates if lightpath.nodes == nodes]
            for candidates in (self.held, self._placed)
        )
        return dict.fromkeys((*held, *others, *placed))

    def _is_clear(self, lightpath: Lightpath) -> bool:
        """Return whether no other lightpath occupies a slot of it at another time."""
        if self._is_all_lit:
            return True
        slots = lightpath.slot_mask
        return not any(self._slots_at(link)[1] & slots for link in lightpath.links)

    def first_fit(self, nodes: Path, width: int) -> int | None:
        """Return the start of the lowest free block of that width along these switches; None if there is none."""
        return _lowest(self.network, self._free(nodes), width)

    def _new_over(self, nodes: Path, rate_bps: int) -> Lightpath | None:
        """Return a new lightpath between these switches that carries a flow of that rate; None if infeasible."""
        free = self._free(nodes)
        if not free:  # saves the evaluation of the transmission quality
            return None
        design = design_lightpath(self.network, nodes)
        if not design.is_feasible or rate_bps > reservable_bps(design.rate_bps):
            return None
        first_slot = _lowest(self.network, free, design.width)
        if first_slot is None:
            return None
        facts = design.rate_bps, design.modulation, design.gsnr_db, design.margin_db
        return Lightpath(lightpath_id(nodes, first_slot, design.width), nodes, first_slot, design.width, *facts)

    def _free(self, nodes: Path) -> int:
        """Return the slots that are free on all links for the whole time."""
        free, known = -1, self._slots_by_link
        for link in link_names(nodes):
            free &= (known.get(link) or self._slots_at(link))[0]
        return free

    def _slots_at(self, link: str) -> tuple[int, int]:
        """Return the free slots of a link, and those that several lightpaths occupy at different times."""
        slots = self._slots_by_link.get(link)
        if slots is None:
            taken, overlap = self._bookings.slot_usage(link, *self._time)
            for lightpath in dict.fromkeys((*self.held, *self._placed)) if self.held or self._placed else ():
                if link in lightpath.links and lightpath not in (self._others_along(lightpath.nodes) or ()):
                    overlap |= taken & lightpath.slot_mask
                    taken |= lightpath.slot_mask
            slots = self._slots_by_link[link] = (1 << self.network.links[link].slot_count) - 1 & ~taken, overlap
        return slots


def _lowest(network: Network, free: int, width: int) -> int | None:
    starts = starts_within_bands(block_starts(free, width), width, C_BAND_SLOTS[network.grid or "fixed"])
    return (starts & -starts).bit_length() - 1 if starts else None


@bounded_cache(4 * MIB, entry_bytes=MIB // 2)
def _least_slots_per_bps(network: Network) -> float:
    """Return the spectrum per bit/s of the most efficient lightpath when full."""
    return SLOTS_PER_CHANNEL[network.grid or "fixed"] / _channel_bps(network)


@bounded_cache(4 * MIB, entry_bytes=MIB // 2)
def max_flow_bps(network: Network) -> int:
    """Return the largest rate that a flow can have in any lightpath of the network."""
    return reservable_bps(_channel_bps(network))


def _channel_bps(network: Network) -> int:
    channel_gbps = max(link.channel_gbps for link in network.links.values())
    return round(channel_gbps * network.scale_mbps_per_gbps * 1e6)
