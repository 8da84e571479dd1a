"""In which lightpaths a flow travels along its path: in those that are lit, or else in new ones.

In this order: lightpaths that are lit and have room, as few as cover the path; a new one from the first switch to the
last; new and lit ones in a row, with as little new spectrum as possible, where the light ends and begins anew at a
switch in between (which regenerates it, may change its channel, and lets flows of different lightpaths meet). A new one
takes the lowest slots that are free on all its links (first fit).

Source: Zhu and Mukherjee, "Traffic grooming in an optical WDM mesh network", IEEE JSAC 20 (2002).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from math import inf

from controller.booking.calendar import Calendar
from controller.domain.lightpath import Lightpath, lightpath_id
from controller.domain.network import Network
from controller.domain.path import Path, link_names
from controller.errors import NoCapacity, NoSpectrum, OutOfReach, Refused
from controller.optical.lightpath_design import design_lightpath, reservable_bps
from controller.optical.rsa import Order, block_starts
from topologies.maps import SLOTS_PER_CHANNEL

HasRoom = Callable[[Lightpath], bool]
"""Whether a flow fits into a lightpath beside what travels there."""

Row = tuple[Lightpath, ...]
"""End to end."""

Cost = tuple[int, int]
"""New spectrum in slots x links, then the number of lightpaths."""


class LightpathAllocator:
    """The lightpaths and the free spectrum of a network while a request's flows are placed, from start to end.

    `held`: lightpaths in which the request's flows travel until now. They may stay in them; nothing else may take their
    slots while packets are on their way from the old to the new.
    """

    def __init__(
        self, network: Network, bookings: Calendar, start_s: float, end_s: float, held: Sequence[Lightpath] = ()
    ) -> None:
        self.network = network
        self.held = tuple(held)
        self._bookings = bookings
        self._time = start_s, end_s
        self._placed: dict[Lightpath, int] = {}
        self._is_nothing_to_come = not held and bookings.all_lightpaths_lit_from(start_s)
        """Whether all lightpaths are lit at once, so that no two of them have a slot of one link."""
        self._others_along = bookings.lightpaths_during(start_s, end_s)
        self._now: dict[str, tuple[int, int]] = {}
        """For every link that was looked at: the slots that none has, and those that several have."""

    def allocate(self, lightpath: Lightpath) -> None:
        """A flow of the request travels in it."""
        self._placed[lightpath] = self._placed.get(lightpath, 0) + 1
        self._forget(lightpath)

    def free(self, lightpath: Lightpath) -> None:
        """One flow less."""
        self._placed[lightpath] -= 1
        if not self._placed[lightpath]:
            del self._placed[lightpath]
        self._forget(lightpath)

    def _forget(self, lightpath: Lightpath) -> None:
        for link in lightpath.links:
            self._now.pop(link, None)

    def along(self, nodes: Path, rate_bps: int, has_room: HasRoom) -> Row | None:
        """The lightpaths from the first of these switches to the last; None if there are none."""
        row = self.existing(nodes, has_room)
        if row is None:
            row = self.new(nodes, rate_bps)
        return self.mixed(nodes, rate_bps, has_room) if row is None else row

    def existing(self, nodes: Path, has_room: HasRoom) -> Row | None:
        """The same of those that are lit, as few as cover the way."""
        if len(nodes) < 2:
            return ()
        whole = self._lit_over(nodes, has_room)
        return self._cheapest(nodes, has_room) if whole is None else (whole,)

    def new(self, nodes: Path, rate_bps: int) -> Row | None:
        """The same of a new one all the way."""
        new = self._new_over(nodes, rate_bps)
        return None if new is None else (new,)

    def mixed(self, nodes: Path, rate_bps: int, has_room: HasRoom) -> Row | None:
        """The same of several, some of them new."""
        return self._cheapest(nodes, has_room, rate_bps)

    def widest_bps(self, nodes: Path, room_bps: Callable[[Lightpath], int]) -> int:
        """The highest rate for which `along` finds lightpaths. `room_bps`: what is left in one that is lit."""

        def over(part: Path) -> int:
            lit_bps = [room_bps(each) for each in self._lit(part) if self._is_clear(each)]
            line = design_lightpath(self.network, part)
            is_room = line.works and _lowest(self._free(part), line.width) is not None
            return max(*lit_bps, 0, reservable_bps(line.rate_bps) if is_room else 0)

        best = [inf] + [0.0] * (len(nodes) - 1)
        for end in range(1, len(nodes)):
            best[end] = max(min(best[begin], over(nodes[begin : end + 1])) for begin in range(end))
        return int(min(best[-1], sys.maxsize))

    def price(self, row: Row, rate_bps: int, order: Order) -> float:
        """What a row of lightpaths costs a flow, in slots x links; see controller.optical.rsa.

        In one that is lit: the flow's share of it. A new one counts whole, its place and the load of its links besides.
        """
        price = 0.0
        for lightpath in row:
            cost = lightpath.width * len(lightpath.links)
            if self.is_lit(lightpath):
                price += cost * rate_bps / lightpath.rate_bps
                continue
            price += cost + order.position * (lightpath.first_slot + 1)
            if order.load:
                shares = [self._taken_share(link) for link in lightpath.links]
                price += order.load * lightpath.width * sum(shares)
        return price

    def least_price(self, links: int, rate_bps: int) -> float:
        """No row of lit lightpaths over so many links is cheaper than that."""
        return links * rate_bps * _least_slots_per_bps(self.network) if links else 0.0

    def least_price_of_new(self, nodes: Path, rate_bps: int) -> float:
        """Nor a new one all the way than that; infinite if there is none."""
        line = design_lightpath(self.network, nodes)
        return line.width * (len(nodes) - 1) if line.works and rate_bps <= reservable_bps(line.rate_bps) else inf

    def least_price_of_mixed(self, links: int, rate_bps: int) -> float:
        """Nor a row of which a link at least is new."""
        full_price = SLOTS_PER_CHANNEL[self.network.grid or "fixed"]
        return self.least_price(links - 1, rate_bps) + full_price

    def _taken_share(self, link: str) -> float:
        slots = self.network.links[link].slot_count
        return 1 - self._at(link)[0].bit_count() / slots

    def refusal(self, flow: str, nodes: Path, rate_bps: int, has_room: HasRoom) -> Refused | None:
        """Why there are no lightpaths along these switches: the first link that no lightpath gets over."""
        for part in pairwise(nodes):
            if self._lit_over(part, has_room) is None and self._new_over(part, rate_bps) is None:
                return self._reason(flow, part, rate_bps)
        return None

    def _reason(self, flow: str, part: Path, rate_bps: int) -> Refused:
        link, line = f"{part[0]}->{part[1]}", design_lightpath(self.network, part)
        if not line.works:
            missing_db = round(-line.margin_db, 2)
            km = self.network.links[link].length_km
            sentence = f"{flow}: light does not get over {link} ({km:g} km): {line.modulation} lacks {missing_db:g} dB."
            return OutOfReach(sentence, flow=flow, link=link, missing_db=missing_db, gsnr_db=line.gsnr_db)
        most_bps = reservable_bps(line.rate_bps)
        if rate_bps > most_bps:
            wanted, most = f"{rate_bps / 1e6:.6g} Mb/s", f"{most_bps / 1e6:.6g} Mb/s"
            facts = {"capacity_bps": line.rate_bps, "reserved_bps": 0, "free_bps": most_bps, "asked_bps": rate_bps}
            sentence = f"{flow} needs {wanted}; one lightpath over {link} carries {most}."
            return NoCapacity(sentence, flow=flow, bottleneck={"link": link, **facts})
        slots = self.network.links[link].slot_count
        sentence = f"{flow}: no lightpath over {link} has room, and none of its {slots} slots is free for a new one."
        return NoSpectrum(sentence, flow=flow, link=link, slots=slots)

    def _cheapest(self, nodes: Path, has_room: HasRoom, new_bps: int | None = None) -> Row | None:
        """The cheapest row of two or more lightpaths along the switches (dynamic programming).

        `new_bps`: where none that is lit has room, a new one for that rate; None: only those that are lit.
        """
        best: dict[int, tuple[Cost, Row]] = {0: ((0, 0), ())}
        last = len(nodes) - 1
        for begin in range(last):
            if begin not in best:
                continue
            (spectrum, number), row = best[begin]
            for end in range(begin + 1, last + 1 if begin else last):
                if end in best and best[end][0] <= (spectrum, number + 1):
                    continue  # not even one that is lit would make it cheaper
                part, new = nodes[begin : end + 1], 0
                lightpath = self._lit_over(part, has_room)
                if lightpath is None and new_bps is not None:
                    lightpath = self._new_over(part, new_bps)
                    new = 0 if lightpath is None else lightpath.width * (end - begin)
                if lightpath is not None:
                    cost = spectrum + new, number + 1
                    if end not in best or cost < best[end][0]:
                        best[end] = cost, (*row, lightpath)
        return best[last][1] if last in best else None

    def is_lit(self, lightpath: Lightpath) -> bool:
        """Whether it would be lit without the flow for which it is looked at."""
        return lightpath in self._lit(lightpath.nodes)

    def _lit_over(self, nodes: Path, has_room: HasRoom) -> Lightpath | None:
        """A lightpath that is lit between exactly these switches, free for as long as it is wanted, with room."""
        for lightpath in self._lit(nodes):
            if has_room(lightpath) and self._is_clear(lightpath):
                return lightpath
        return None

    def _lit(self, nodes: Path) -> Iterable[Lightpath]:
        """The lightpaths along these switches at that time: of others, of the request as it is and as it is to be."""
        others = self._others_along(nodes)
        if not self.held and not self._placed:
            return others
        held, placed = ([each for each in own if each.nodes == nodes] for own in (self.held, self._placed))
        return dict.fromkeys((*held, *others, *placed))

    def _is_clear(self, lightpath: Lightpath) -> bool:
        if self._is_nothing_to_come:
            return True
        slots = lightpath.slot_mask
        return not any(self._at(link)[1] & slots for link in lightpath.links)

    def lowest(self, nodes: Path, width: int) -> int | None:
        """Where the lowest block of that width begins that is free along these switches; None if there is none."""
        return _lowest(self._free(nodes), width)

    def _new_over(self, nodes: Path, rate_bps: int) -> Lightpath | None:
        """A lightpath that can be lit between these switches and carries a flow of that rate."""
        free = self._free(nodes)
        if not free:  # then there is no need to ask how far light would get
            return None
        line = design_lightpath(self.network, nodes)
        if not line.works or rate_bps > reservable_bps(line.rate_bps):
            return None
        first = _lowest(free, line.width)
        if first is None:
            return None
        facts = line.rate_bps, line.modulation, line.gsnr_db, line.margin_db
        return Lightpath(lightpath_id(nodes, first, line.width), nodes, first, line.width, *facts)

    def _free(self, nodes: Path) -> int:
        """The slots that are free on all links for as long as they are wanted."""
        free, known = -1, self._now
        for link in link_names(nodes):
            free &= (known.get(link) or self._at(link))[0]
        return free

    def _at(self, link: str) -> tuple[int, int]:
        now = self._now.get(link)
        if now is None:
            taken, overlap = self._bookings.slot_usage(link, *self._time)
            for lightpath in dict.fromkeys((*self.held, *self._placed)) if self.held or self._placed else ():
                if link in lightpath.links and lightpath not in self._others_along(lightpath.nodes):
                    overlap |= taken & lightpath.slot_mask
                    taken |= lightpath.slot_mask
            now = self._now[link] = (1 << self.network.links[link].slot_count) - 1 & ~taken, overlap
        return now


def _lowest(free: int, width: int) -> int | None:
    starts = block_starts(free, width)
    return (starts & -starts).bit_length() - 1 if starts else None


@lru_cache(maxsize=64)
def _least_slots_per_bps(network: Network) -> float:
    """What a bit/s takes of the spectrum of a link in the best of lightpaths that is full."""
    return SLOTS_PER_CHANNEL[network.grid or "fixed"] / _channel_bps(network)


@lru_cache(maxsize=64)
def most_bps(network: Network) -> int:
    """No lightpath carries more reservations than that."""
    return reservable_bps(_channel_bps(network))


def _channel_bps(network: Network) -> int:
    channel_gbps = max(link.channel_gbps for link in network.links.values())
    return round(channel_gbps * network.scale_mbps_per_gbps * 1e6)
