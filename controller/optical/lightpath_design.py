"""What a lightpath along given switches would be: how much spectrum it takes, what it carries, in which modulation.

On the fixed grid it is one channel of 50 GHz and carries what the format allows that still works so far, at most the
channel's rate in the map. On the flexible grid it carries the channel's rate in any case: where only a slower format
works, two or more signals side by side make one lightpath that takes as much more spectrum (Jinno et al., IEEE
Communications Magazine 48 (2010), "distance-adaptive").
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from controller.domain.lightpath import Lightpath
from controller.domain.network import RESERVABLE_SHARE, DirectedLink, Network
from controller.domain.path import link_names
from controller.domain.reservation import Placement
from topologies.maps import SLOTS_PER_CHANNEL

SHORTEST_KM = 0.1
"""A shorter fibre counts as this long."""


@dataclass(frozen=True, slots=True)
class LightpathDesign:
    """See controller.domain.lightpath.Lightpath; with a margin below 0 it does not work."""

    width: int
    rate_bps: int
    modulation: str
    gsnr_db: float
    margin_db: float

    @property
    def works(self) -> bool:
        """Whether it can be read at the end."""
        return self.margin_db >= 0


@lru_cache(maxsize=1024)
def reservable_bps(rate_bps: int) -> int:
    """How much of a lightpath's rate reservations may take together; as of a link."""
    return round(rate_bps * RESERVABLE_SHARE)


@lru_cache(maxsize=65_536)
def design_lightpath(network: Network, nodes: tuple[str, ...]) -> LightpathDesign:
    """The best there is: the most rate, then the least spectrum, then the largest margin; or what comes closest.

    Raises: ValueError if the network is not optical (a bug in the caller).
    """
    from controller.optical.transmission_quality import FORMATS, quality

    if network.grid is None:
        raise ValueError(f"map {network.name} is not optical")
    links = network.links_along(nodes)
    channel_gbps = min(link.channel_gbps for link in links)
    light = quality(tuple(_fibre_km(link) for link in links))
    lines = []
    for line in FORMATS:
        signals = ceil(channel_gbps / line.rate_gbps) if network.grid == "flexible" else 1
        rate_bps = round(min(channel_gbps, signals * line.rate_gbps) * network.scale_mbps_per_gbps * 1e6)
        margin_db = round(light.margin_db(line), 2)
        width = signals * SLOTS_PER_CHANNEL[network.grid]
        lines.append(LightpathDesign(width, rate_bps, line.name, round(light.gsnr_db, 2), margin_db))
    working = [line for line in lines if line.works]
    if not working:
        return max(lines, key=lambda line: line.margin_db)
    return max(working, key=lambda line: (line.rate_bps, -line.width, line.margin_db))


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
    line = design_lightpath(network, lightpath.nodes)
    beyond = min(network.links[link].slot_count for link in lightpath.links) < lightpath.first_slot + lightpath.width
    return beyond or (line.width, line.rate_bps) != (lightpath.width, lightpath.rate_bps)


def precompute_fibres(network: Network) -> None:
    """Work out once what every fibre between switches does to light, so that no request waits for it."""
    if network.grid is None:
        return
    from controller.optical.transmission_quality import know

    switches = {switch.name for switch in network.switches}
    know(_fibre_km(link) for link in network.spans.values() if {link.source, link.destination} <= switches)


def _fibre_km(link: DirectedLink) -> float:
    return max(link.length_km, SHORTEST_KM)
