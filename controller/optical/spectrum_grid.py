"""The grid of a fibre's spectrum, and modulation formats with their reach.

Source: ITU-T G.694.1 (2020) §6, §7 (the grids).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import Final

ANCHOR_THZ: Final = 193.1
"""The reference frequency of both grids. Source: ITU-T G.694.1 §6."""


@dataclass(frozen=True, slots=True)
class SpectrumGrid:
    """A fibre's spectrum: `slots` slots of `slot_ghz` from `lowest_thz` up; `guard_slots` per lightpath remain unused.
    """

    name: str
    slot_ghz: float
    slots: int
    guard_slots: int
    lowest_thz: float

    @property
    def all_free(self) -> int:
        """The set of all slots."""
        return (1 << self.slots) - 1

    def central_thz(self, first: int, width: int) -> float:
        """Return the central frequency of the block that starts at slot `first`."""
        return self.lowest_thz + (first + width / 2) * self.slot_ghz / 1000

    def slots_for(self, rate_gbps: float, bits_per_symbol: int) -> int:
        """Return the number of slots for a rate, with guard band; each slot carries slot_ghz x bits per symbol."""
        return ceil(rate_gbps / (self.slot_ghz * bits_per_symbol)) + self.guard_slots


FLEXIBLE: Final = SpectrumGrid("flexible", 12.5, 100, 1, ANCHOR_THZ)
"""Slots of 12.5 GHz; a lightpath occupies any number of adjacent ones. Source: ITU-T G.694.1 §7."""
FIXED: Final = SpectrumGrid("fixed", 50.0, 96, 0, ANCHOR_THZ - 35.5 * 0.05)
"""The C band's 96 channels of 50 GHz, 191.35 to 196.10 THz, one per lightpath. Source: ITU-T G.694.1 §6."""


L_BAND_LOWEST_THZ: Final = 186.575
L_BAND_HIGHEST_THZ: Final = 190.025
"""The edges of the L band, as of GNPy's multi-band amplifiers."""


@dataclass(frozen=True, slots=True)
class Modulation:
    """A modulation format and its reach."""

    name: str
    bits_per_symbol: int
    reach_km: float


DISTANCE_ADAPTIVE: Final = (
    Modulation("16QAM", 4, 625.0),
    Modulation("8QAM", 3, 1250.0),
    Modulation("QPSK", 2, 2500.0),
    Modulation("BPSK", 1, inf),
)
"""Source: the thresholds of Chen et al., "DeepRMSA", Journal of Lightwave Technology 37 (2019)."""


def modulation_for(length_km: float, table: Sequence[Modulation] = DISTANCE_ADAPTIVE) -> Modulation | None:
    """Return the format with the most bits per symbol that has this reach, or None."""
    reaching = [modulation for modulation in table if length_km <= modulation.reach_km]
    return max(reaching, key=lambda modulation: modulation.bits_per_symbol, default=None)
