"""In which lightpaths a flow travels along its path: in those that are lit, or else in new ones.

In this order: lightpaths that are lit and have room, as few as cover the path; a new one from the first switch to the
last; new and lit ones in a row, with as little new spectrum as possible, where the light ends and begins anew at a
switch in between (which regenerates it, may change its channel, and lets flows of different lightpaths meet). A new one
takes the lowest slots that are free on all its links (first fit).

Source: Zhu and Mukherjee, "Traffic grooming in an optical WDM mesh network", IEEE JSAC 20 (2002).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

from controller.bookings import Bookings
from controller.errors import NoCapacity, NoSpectrum, OutOfReach, Refused
from controller.network import Network
from controller.optical.lightpaths import Lightpath, identity
from controller.optical.lines import line_along, reservable_bps
from controller.reservation import Placement
from controller.routes import Path, link_names
from controller.spectrum import block_starts

HasRoom = Callable[[Lightpath], bool]
"""Whether a flow fits into a lightpath beside what travels there."""

Cost = tuple[int, int]
"""New spectrum in slots x links, then the number of lightpaths."""


@dataclass(frozen=True, slots=True)
class _OnLink:
    """The lightpaths on a link, the slots that none has, and those that several have, at different times."""

    lightpaths: tuple[Lightpath, ...]
    free: int
    overlap: int


class Light:
    """The lightpaths and the free spectrum of a network while a request's flows are placed, from start to end.

    `held`: lightpaths in which the request's flows travel until now. They may stay in them; nothing else may take their
    slots while packets are on their way from the old to the new.
    """

    def __init__(
        self, network: Network, bookings: Bookings, start_s: float, end_s: float, held: Sequence[Lightpath] = ()
    ) -> None:
        self.network = network
        self.held = tuple(held)
        self._bookings = bookings
        self._time = start_s, end_s
        self._others: dict[str, tuple[Lightpath, ...]] = {}
        self._placed: Counter[Lightpath] = Counter()
        self._now: dict[str, _OnLink] = {}
        """For every link that was looked at: what is on it as things stand."""

    def place(self, lightpath: Lightpath) -> None:
        """A flow of the request travels in it."""
        self._placed[lightpath] += 1
        self._forget(lightpath)

    def take_away(self, lightpath: Lightpath) -> None:
        """One flow less."""
        self._placed[lightpath] -= 1
        if not self._placed[lightpath]:
            del self._placed[lightpath]
        self._forget(lightpath)

    def _forget(self, lightpath: Lightpath) -> None:
        for link in lightpath.links:
            self._now.pop(link, None)

    def along(self, nodes: Path, rate_bps: int, has_room: HasRoom) -> tuple[Lightpath, ...] | None:
        """The lightpaths from the first of these switches to the last; None if there are none."""
        if len(nodes) < 2:
            return ()

        @cache
        def lit(part: Path) -> Lightpath | None:
            return self._lit_along(part, has_room)

        row = self._cheapest(nodes, lit)
        if row is not None:
            return row
        new = self._new_along(nodes, rate_bps)
        if new is not None:
            return (new,)
        return self._cheapest(nodes, lambda part: lit(part) or self._new_along(part, rate_bps))

    def refusal(self, flow: str, nodes: Path, rate_bps: int, has_room: HasRoom) -> Refused | None:
        """Why there are no lightpaths along these switches: the first link that no lightpath gets over."""
        for part in pairwise(nodes):
            if self._lit_along(part, has_room) is None and self._new_along(part, rate_bps) is None:
                return self._reason(flow, part, rate_bps)
        return None

    def _reason(self, flow: str, part: Path, rate_bps: int) -> Refused:
        link, line = f"{part[0]}->{part[1]}", line_along(self.network, part)
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
        slots = self.network.links[link].slots
        sentence = f"{flow}: no lightpath over {link} has room, and none of its {slots} slots is free for a new one."
        return NoSpectrum(sentence, flow=flow, link=link, slots=slots)

    def _cheapest(
        self, nodes: Path, over: Callable[[Path], Lightpath | None]
    ) -> tuple[Lightpath, ...] | None:
        """The cheapest row of lightpaths along the switches, each as `over` has it (dynamic programming)."""
        best: dict[int, tuple[Cost, tuple[Lightpath, ...]]] = {0: ((0, 0), ())}
        for end in range(1, len(nodes)):
            for begin in range(end):
                if begin not in best:
                    continue
                lightpath = over(nodes[begin : end + 1])
                if lightpath is None:
                    continue
                (spectrum, number), row = best[begin]
                new = 0 if self._is_lit(lightpath) else lightpath.width * (end - begin)
                cost = spectrum + new, number + 1
                if end not in best or cost < best[end][0]:
                    best[end] = cost, (*row, lightpath)
        return best[len(nodes) - 1][1] if len(nodes) - 1 in best else None

    def _is_lit(self, lightpath: Lightpath) -> bool:
        return lightpath in self._on(lightpath.links[0])

    def _lit_along(self, nodes: Path, has_room: HasRoom) -> Lightpath | None:
        """A lightpath that is lit between exactly these switches, free for as long as it is wanted, with room."""
        for lightpath in self._on(f"{nodes[0]}->{nodes[1]}"):
            if lightpath.nodes == nodes and self._is_clear(lightpath) and has_room(lightpath):
                return lightpath
        return None

    def _is_clear(self, lightpath: Lightpath) -> bool:
        slots = lightpath.slots
        return not any(
            other.slots & slots and other.id != lightpath.id
            for link in lightpath.links
            if self._at(link).overlap & slots
            for other in self._on(link)
        )

    def lowest(self, nodes: Path, width: int) -> int | None:
        """Where the lowest block of that width begins that is free along these switches; None if there is none."""
        starts = block_starts(self._free(nodes), width)
        return (starts & -starts).bit_length() - 1 if starts else None

    def _new_along(self, nodes: Path, rate_bps: int) -> Lightpath | None:
        """A lightpath that can be lit between these switches and carries a flow of that rate."""
        if not self._free(nodes):  # then there is no need to ask how far light would get
            return None
        line = line_along(self.network, nodes)
        if not line.works or rate_bps > reservable_bps(line.rate_bps):
            return None
        first = self.lowest(nodes, line.width)
        if first is None:
            return None
        facts = line.rate_bps, line.modulation, line.gsnr_db, line.margin_db
        return Lightpath(identity(nodes, first, line.width), nodes, first, line.width, *facts)

    def _free(self, nodes: Path) -> int:
        """The slots that are free on all links for as long as they are wanted."""
        free = -1
        for link in link_names(nodes):
            free &= self._at(link).free
        return free

    def _on(self, link: str) -> tuple[Lightpath, ...]:
        """The lightpaths on a link during that time: of others, of the request as it is, and as it is to be."""
        return self._at(link).lightpaths

    def _at(self, link: str) -> _OnLink:
        if link not in self._now:
            if link not in self._others:
                self._others[link] = tuple(self._bookings.lit_on(link, *self._time))
            on = dict.fromkeys((*_over(self.held, link), *self._others[link], *_over(self._placed, link)))
            self._now[link] = _on_link(tuple(on), self.network.links[link].slots)
        return self._now[link]


def _on_link(lightpaths: tuple[Lightpath, ...], slots: int) -> _OnLink:
    taken = overlap = 0
    for lightpath in lightpaths:
        overlap |= taken & lightpath.slots
        taken |= lightpath.slots
    return _OnLink(lightpaths, (1 << slots) - 1 & ~taken, overlap)


def is_possible(network: Network, placement: Placement) -> bool:
    """Whether a placement from another time is one of this network: its links are there, and so are its lightpaths."""
    rows = [(placement.path, placement.lightpaths), (placement.backup_path or (), placement.backup_lightpaths)]
    for path, lightpaths in rows:
        if any(link not in network.links for link in link_names(path)):
            return False
        if bool(lightpaths) != (network.grid is not None and len(path) > 3):
            return False
        if any(_is_other(network, lightpath) for lightpath in lightpaths):
            return False
    return True


def _is_other(network: Network, lightpath: Lightpath) -> bool:
    line = line_along(network, lightpath.nodes)
    beyond = min(network.links[link].slots for link in lightpath.links) < lightpath.first_slot + lightpath.width
    return beyond or (line.width, line.rate_bps) != (lightpath.width, lightpath.rate_bps)


def _over(lightpaths: Iterable[Lightpath], link: str) -> list[Lightpath]:
    return [lightpath for lightpath in lightpaths if link in lightpath.links]
