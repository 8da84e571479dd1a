"""The design of a lightpath along given switches: spectrum, rate and modulation.

On the fixed grid it is one channel of 50 GHz and has the rate of the fastest format that is feasible over this
distance, at most the channel's rate in the map. On the flexible grid it always has the channel's rate: where only a
slower format is feasible, several signals side by side form one lightpath that takes proportionally more spectrum
(Jinno et al., IEEE Communications Magazine 48 (2010), "distance-adaptive").
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

from controller.caches import MIB, bounded_cache
from controller.domain.lightpath import Lightpath
from controller.domain.network import RESERVABLE_SHARE, DirectedLink, Network
from controller.domain.path import link_names
from controller.domain.reservation import Placement
from topologies.maps import SLOTS_PER_CHANNEL, USUAL_LOSS_DB_PER_KM

if TYPE_CHECKING:  # GNPy is slow to import
    from controller.optical.transmission_quality import Fibre

SHORTEST_KM = 0.1
"""Shorter fibres count with this length."""


@dataclass(frozen=True, slots=True)
class LightpathDesign:
    """The parameters of a lightpath, see controller.domain.lightpath.Lightpath; infeasible if the margin is negative.
    """

    width: int
    rate_bps: int
    modulation: str
    gsnr_db: float
    margin_db: float

    @property
    def is_feasible(self) -> bool:
        """Whether the receiver can decode the signal."""
        return self.margin_db >= 0


@bounded_cache(MIB // 4, entry_bytes=256)
def reservable_bps(rate_bps: int) -> int:
    """Return how much of a lightpath's rate may be reserved; the same share as of a link."""
    return round(rate_bps * RESERVABLE_SHARE)


@bounded_cache(8 * MIB, entry_bytes=512)
def design_lightpath(network: Network, nodes: tuple[str, ...]) -> LightpathDesign:
    """Return the design with the highest rate, then the least spectrum, then the largest margin; if infeasible, the
    closest.

    Raises: ValueError if the network is not optical (a bug in the caller).
    """
    from controller.optical.transmission_quality import FORMATS, quality_of

    if network.grid is None:
        raise ValueError(f"map {network.name} is not optical")
    links = network.links_along(nodes)
    channel_gbps = min(link.channel_gbps for link in links)
    signal_quality = quality_of(tuple(_fibre(link) for link in links), network.band)
    designs = []
    for format_ in FORMATS:
        signals = ceil(channel_gbps / format_.rate_gbps) if network.grid == "flexible" else 1
        rate_bps = round(min(channel_gbps, signals * format_.rate_gbps) * network.scale_mbps_per_gbps * 1e6)
        margin_db = round(signal_quality.margin_db(format_), 2)
        width = signals * SLOTS_PER_CHANNEL[network.grid]
        designs.append(LightpathDesign(width, rate_bps, format_.name, round(signal_quality.gsnr_db, 2), margin_db))
    feasible = [design for design in designs if design.is_feasible]
    if not feasible:
        return max(designs, key=lambda design: design.margin_db)
    return max(feasible, key=lambda design: (design.rate_bps, -design.width, design.margin_db))


def is_valid_placement(network: Network, placement: Placement) -> bool:
    """Return whether a stored placement fits this network: its links exist, its lightpaths match their designs."""
    chains = [(placement.path, placement.lightpaths), (placement.backup_path or (), placement.backup_lightpaths)]
    for path, lightpaths in chains:
        if any(link not in network.links for link in link_names(path)):
            return False
        if bool(lightpaths) != (network.grid is not None and len(path) > 3):
            return False
        if any(_differs_from_design(network, lightpath) for lightpath in lightpaths):
            return False
        joints = {lightpath.nodes[0] for lightpath in lightpaths[1:]}
        if network.regenerators is not None and not joints <= network.regenerators:
            return False
    return True


def _differs_from_design(network: Network, lightpath: Lightpath) -> bool:
    design = design_lightpath(network, lightpath.nodes)
    exceeds_spectrum = (
        min(network.links[link].slot_count for link in lightpath.links) < lightpath.first_slot + lightpath.width
    )
    return exceeds_spectrum or (design.width, design.rate_bps) != (lightpath.width, lightpath.rate_bps)


def precompute_fibres(network: Network) -> None:
    """Compute the noise of every fibre between switches in advance, so that no request waits for it."""
    if network.grid is None:
        return
    from controller.optical.transmission_quality import precompute

    switches = {switch.name for switch in network.switches}
    fibres = (_fibre(link) for link in network.spans.values() if {link.source, link.destination} <= switches)
    precompute(fibres, network.band)


def _fibre(link: DirectedLink) -> Fibre:
    from controller.optical.transmission_quality import SpecialFibre

    length_km = max(link.length_km, SHORTEST_KM)
    is_usual = (link.loss_db_per_km, link.fibre_type) == (USUAL_LOSS_DB_PER_KM, "SSMF")
    return length_km if is_usual else SpecialFibre(length_km, link.loss_db_per_km, link.fibre_type)
