"""Lengths and speeds of spans under the names that people use."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from topologies.maps import LEAST_LOSS_DB_PER_KM, MOST_LOSS_DB_PER_KM, FibreType

KM = frozenset({"lengthkm", "distancekm", "distkm", "km", "fibrekm", "fiberkm", "fibrelengthkm", "fiberlengthkm"})
METRES = frozenset({"lengthm", "distancem", "distm"})
PLAIN_LENGTH = frozenset({"length", "distance", "fibrelength", "fiberlength"})
GREAT_CIRCLE = "dist"
GBPS_PER_UNIT = {"bps": 1e-9, "kbps": 1e-6, "mbps": 1e-3, "gbps": 1.0, "tbps": 1e3}
SPEED_WORDS = ("linkspeed", "capacity", "bandwidth", "speed", "rate", "bitrate", "datarate")
SPEEDS = {f"{word}{unit}": factor for word in SPEED_WORDS for unit, factor in GBPS_PER_UNIT.items()}
ZOO_UNITS = {"": 1e-9, "K": 1e-6, "M": 1e-3, "G": 1.0, "T": 1e3}
MOST_GBPS = 480_000.0
"""48 channels of 10 Tb/s."""
BITS_FROM = 1e6
"""A plain `capacity` of at least this is in bit/s, a smaller one in Gb/s."""


@dataclass(frozen=True, slots=True)
class Stated:
    """A value that an attribute states. `note`: how it was read, if the name does not say its unit."""

    value: float
    attribute: str
    note: str = ""


def stated_length_km(attributes: Mapping[str, object]) -> Stated | None:
    """The length of a fibre, in km; None if no attribute states one.

    Raises: ValueError if it is no finite number above 0.
    """
    named = _by_plain_name(attributes)
    for names, factor in ((KM, 1.0), (METRES, 0.001), (PLAIN_LENGTH, None)):
        for plain, (attribute, value) in named.items():
            if plain in names:
                unit = str(named.get("lengthunits", named.get("units", ("", "")))[1])
                note = "" if factor or unit else f"`{attribute}` is taken as km"
                km_per_unit = factor or (0.001 if unit == "m" else 1.0)
                return Stated(_positive(attribute, value) * km_per_unit, attribute, note)
    return None


def length_from(attributes: Mapping[str, object], attribute: str) -> Stated | None:
    """The length of a fibre by the attribute that the user names, in km.

    Raises: ValueError if it is no finite number above 0.
    """
    value = attributes.get(attribute)
    return None if value in (None, "") else Stated(_positive(attribute, value), attribute)


def stated_distance_km(attributes: Mapping[str, object]) -> float | None:
    """The great-circle distance `dist`.

    Raises: ValueError if it is no finite number above 0.
    """
    value = attributes.get(GREAT_CIRCLE)
    return None if value in (None, "") else _positive(GREAT_CIRCLE, value, or_zero=True)


def stated_rate_gbps(attributes: Mapping[str, object]) -> Stated | None:
    """The speed of a span, in Gb/s; None if no attribute states one.

    Raises: ValueError if it is no finite number above 0, or impossible.
    """
    stated = _rate_gbps(attributes)
    if stated is not None and not 0 < stated.value <= MOST_GBPS:
        raise ValueError(f"`{stated.attribute}` is {stated.value:g} Gb/s; it is above 0 and at most {MOST_GBPS:g}")
    return stated


def _rate_gbps(attributes: Mapping[str, object]) -> Stated | None:
    named = _by_plain_name(attributes)
    if "linkspeedraw" in named:
        attribute, value = named["linkspeedraw"]
        return Stated(_positive(attribute, value) * 1e-9, attribute)
    if "linkspeed" in named and "linkspeedunits" in named:
        unit = str(named["linkspeedunits"][1]).strip().upper()[:1]
        try:
            return Stated(float(str(named["linkspeed"][1])) * ZOO_UNITS[unit], "LinkSpeed")
        except (ValueError, KeyError):
            return None  # the Zoo has speeds such as "45/155"; LinkSpeedRaw is the one that counts
    for plain, (attribute, value) in named.items():
        if plain in SPEEDS:
            return Stated(_positive(attribute, value) * SPEEDS[plain], attribute)
        if plain in SPEED_WORDS:
            rate, is_bits = _positive(attribute, value), _positive(attribute, value) >= BITS_FROM
            unit = "bit/s" if is_bits else "Gb/s"
            note = f"`{attribute}` is taken as {unit}; `{attribute}_gbps`, `_mbps` or `_bps` say the unit"
            return Stated(rate * (1e-9 if is_bits else 1.0), attribute, note)
    return None


def stated_loss(attributes: Mapping[str, object]) -> float | None:
    """The loss of a fibre, `loss_db_per_km`.

    Raises: ValueError if it is no possible one.
    """
    value = attributes.get("loss_db_per_km")
    if value in (None, ""):
        return None
    loss = _positive("loss_db_per_km", value)
    if not LEAST_LOSS_DB_PER_KM <= loss <= MOST_LOSS_DB_PER_KM:
        limits = f"{LEAST_LOSS_DB_PER_KM:g} to {MOST_LOSS_DB_PER_KM:g}"
        raise ValueError(f"`loss_db_per_km` is {value!r}; it is {limits} dB/km")
    return loss


def stated_fibre_type(attributes: Mapping[str, object]) -> FibreType | None:
    """The type of a fibre, `fibre_type`.

    Raises: ValueError if it is unknown.
    """
    value = attributes.get("fibre_type")
    found = next((known for known in get_args(FibreType) if known == value), None)
    if found is None and value not in (None, ""):
        raise ValueError(f"`fibre_type` is {value!r}; it is one of {', '.join(get_args(FibreType))}")
    return found


def _by_plain_name(attributes: Mapping[str, object]) -> dict[str, tuple[str, object]]:
    return {
        re.sub(r"[^a-z0-9]", "", str(name).lower()): (str(name), value)
        for name, value in attributes.items()
        if value not in (None, "")
    }


def _positive(attribute: str, value: object, or_zero: bool = False) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(str(value))
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number < 0 or (number == 0 and not or_zero):
        raise ValueError(f"`{attribute}` is {value!r}; it is a number above 0")
    return number
