"""How much this machine forwards without loss, and at which scale a map asks for no more.

All switches are one process, and what a switch needs for a frame is more per frame than per byte. So capacity is in
Mb/s x switches for frames of a size. It is what `mininet/start.py --measure-capacity` has measured here, else DEFAULT.
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
"""Beside the run directory, which goes with every emulation."""

SHARE = 0.6
"""Of what is forwarded of one-way datagrams: TCP acknowledges every second frame, which makes three of two, and a tenth
is for the controller's messages and for frames that come in heaps."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """What one switch needs for a frame; `source`: where these numbers are from."""

    ns_per_frame: float
    ns_per_byte: float
    source: str

    def mbps_hops(self, mtu_bytes: int) -> float:
        """The largest total of rate x switches, in Mb/s, that a map with this MTU may ask for."""
        frame_bytes = mtu_bytes + 14
        return SHARE * 8000 * frame_bytes / (self.ns_per_frame + self.ns_per_byte * frame_bytes)


DEFAULT = Capacity(3800, 0.58, "not measured here: what a busy two-core virtual machine forwards")
"""That one forwarded, beside 15 busy processes, 56,898 frames of 1014 bytes a second through four switches, and 27,650
of 9014 bytes, which was all that links of 1000 Mb/s carried in both directions."""


def of_points(large: tuple[int, float], small: tuple[int, float], source: str) -> Capacity:
    """From frames of two sizes: (bytes, frames x switches forwarded in a second)."""
    (large_bytes, large_hops), (small_bytes, small_hops) = large, small
    per_byte = max(0.0, (1e9 / large_hops - 1e9 / small_hops) / (large_bytes - small_bytes))
    return Capacity(1e9 / large_hops - per_byte * large_bytes, per_byte, source)


def of_this_machine() -> Capacity:
    """What was measured here last, or the default.

    Raises: EmulationError if what was written down cannot be read.
    """
    if not FILE.exists():
        return DEFAULT
    try:
        capacity = Capacity(**json.loads(FILE.read_text()))
        if capacity.ns_per_frame + capacity.ns_per_byte <= 0:
            raise ValueError("it says that a frame needs no time")
    except (OSError, TypeError, ValueError) as error:
        raise EmulationError(f"{FILE}: not a measured capacity ({error}); remove it or measure anew") from error
    return capacity


def keep(capacity: Capacity) -> None:
    """From now on this is what starts go by."""
    FILE.write_text(json.dumps(asdict(capacity)) + "\n")


def fitting_scale(plan: Map, capacity: Capacity) -> float:
    """The map's scale if the machine can carry the worst case at it, else the largest that it can, rounded down."""
    worst, room = worst_mbps_hops(plan), capacity.mbps_hops(plan.mtu_bytes)
    if worst <= room:
        return plan.scale_mbps_per_gbps
    fitting = plan.scale_mbps_per_gbps * room / worst
    digit = 10.0 ** (floor(log10(fitting)) - 1)
    return float(f"{floor(fitting / digit + 1e-9) * digit:.2g}")


def check(plan: Map, capacity: Capacity) -> None:
    """Check that nothing its hosts can do is more than the machine forwards.

    Raises: EmulationError with the scale that would fit.
    """
    fitting = fitting_scale(plan, capacity)
    if fitting < plan.scale_mbps_per_gbps:
        raise EmulationError(
            f"map {plan.name} at {plan.scale_mbps_per_gbps:g} Mb/s per Gb/s: its hosts can send "
            f"{worst_mbps_hops(plan):.0f} Mb/s x switches, and this machine forwards "
            f"{capacity.mbps_hops(plan.mtu_bytes):.0f} without loss ({capacity.source}): use --scale {fitting:g} or "
            "less, or measure with --measure-capacity while nothing else runs"
        )
