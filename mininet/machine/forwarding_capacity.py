"""The load that this machine forwards without loss, and the scale at which a map stays below it.

All switches run in one process, and the cost of forwarding is mostly per frame, less per byte. Capacity is therefore in
Mb/s x switches for frames of a given size. `mininet/start.py --measure-capacity` measures it; until then it is DEFAULT.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from math import floor, log10

from machine.errors import EmulationError
from topologies import running_emulation
from topologies.demand import worst_mbps_hops
from topologies.maps import Map

FILE = running_emulation.DIRECTORY.with_name(f"{running_emulation.DIRECTORY.name}-capacity.json")
"""Beside the run directory, which is deleted at the end of every emulation."""

SHARE = 0.6
"""Usable share of the capacity for one-way datagrams: TCP acknowledges every second frame, so two frames become three,
and a tenth is kept for controller messages and for bursts."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """Forwarding cost of one switch; `source`: how the figures were obtained."""

    ns_per_frame: float
    ns_per_byte: float
    source: str

    def mbps_hops(self, mtu_bytes: int) -> float:
        """The largest total of rate x switches, in Mb/s, that a map with this MTU may offer."""
        frame_bytes = mtu_bytes + 14
        return SHARE * 8000 * frame_bytes / (self.ns_per_frame + self.ns_per_byte * frame_bytes)


DEFAULT = Capacity(3800, 0.58, "not measured on this machine; assumed: a busy two-core virtual machine")
"""Measured on such a machine beside 15 busy processes: 56,898 frames/s of 1014 bytes through four switches, and
27,650 of 9014 bytes, the limit of 1000 Mb/s links in both directions."""


def fit_capacity(large: tuple[int, float], small: tuple[int, float], source: str) -> Capacity:
    """Compute the costs per frame and per byte from two sizes: (bytes, frames x switches forwarded per second)."""
    (large_bytes, large_hops), (small_bytes, small_hops) = large, small
    per_byte = max(0.0, (1e9 / large_hops - 1e9 / small_hops) / (large_bytes - small_bytes))
    return Capacity(1e9 / large_hops - per_byte * large_bytes, per_byte, source)


def load_capacity() -> Capacity:
    """The capacity measured last on this machine, or the default.

    Raises: EmulationError if the file with the measurement is invalid.
    """
    if not FILE.exists():
        return DEFAULT
    try:
        capacity = Capacity(**json.loads(FILE.read_text()))
        if capacity.ns_per_frame + capacity.ns_per_byte <= 0:
            raise ValueError("the forwarding cost must be positive")
    except (OSError, TypeError, ValueError) as error:
        raise EmulationError(f"{FILE}: not a measured capacity ({error}); remove it or measure again") from error
    return capacity


def save_capacity(capacity: Capacity) -> None:
    """Store the capacity for all later starts on this machine."""
    FILE.write_text(json.dumps(asdict(capacity)) + "\n")


def fitting_scale(topology: Map, capacity: Capacity) -> float:
    """The map's own scale if the machine carries its worst case, else the largest scale that fits, rounded down."""
    worst, available = worst_mbps_hops(topology), capacity.mbps_hops(topology.mtu_bytes)
    if worst <= available:
        return topology.scale_mbps_per_gbps
    fitting = topology.scale_mbps_per_gbps * available / worst
    digit = 10.0 ** (floor(log10(fitting)) - 1)
    return float(f"{floor(fitting / digit + 1e-9) * digit:.2g}")


def check_map_fits(topology: Map, capacity: Capacity) -> None:
    """Check that the machine forwards the largest load that the map's hosts can offer.

    Raises: EmulationError with the scale that would fit.
    """
    fitting = fitting_scale(topology, capacity)
    if fitting < topology.scale_mbps_per_gbps:
        available = capacity.mbps_hops(topology.mtu_bytes)
        raise EmulationError(
            f"map {topology.name} at {topology.scale_mbps_per_gbps:g} Mb/s per Gb/s: its hosts can send "
            f"{worst_mbps_hops(topology):.0f} Mb/s x switches, and this machine forwards {available:.0f} without loss "
            f"({capacity.source}): use --scale {fitting:g} or less, or run --measure-capacity while nothing else runs"
        )
