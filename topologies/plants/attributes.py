"""Lengths, speeds and losses of spans under the names that people use.

What is stated twice, or not used, is a remark: a sentence, after a colon at whose end the names of spans follow.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import get_args

from topologies.maps import LEAST_LOSS_DB_PER_KM, MOST_LOSS_DB_PER_KM, FibreType
from topologies.readers.source import number_of
from topologies.text_encoding import is_control

KM_PER_UNIT = {
    **dict.fromkeys(("km", "kilometre", "kilometres", "kilometer", "kilometers"), 1.0),
    **dict.fromkeys(("m", "metre", "metres", "meter", "meters"), 0.001),
    **dict.fromkeys(("mi", "mile", "miles"), 1.609344),
}
UNIT_WORDS = ("lengthunits", "lengthunit", "units", "unit")
LENGTH_WORDS = ("length", "distance", "fibrelength", "fiberlength")
LENGTHS = {
    **dict.fromkeys(("lengthkm", "distancekm", "distkm", "km", "fibrekm", "fiberkm", "fibrelengthkm",
                     "fiberlengthkm"), 1.0),
    **dict.fromkeys(("lengthm", "distancem", "distm"), 0.001),
    **dict.fromkeys(("lengthmi", "lengthmiles", "distancemi", "distancemiles", "miles"), 1.609344),
    **dict.fromkeys(LENGTH_WORDS, None),
}  # fmt: skip
"""By the name of an attribute: km per unit, None: the unit is an attribute of its own. The first that is stated counts.
"""
GREAT_CIRCLE = "dist"
MAX_LENGTH_KM, MIN_LENGTH_KM = 20_000.0, 0.001
GBPS_PER_UNIT = {"bps": 1e-9, "kbps": 1e-6, "mbps": 1e-3, "gbps": 1.0, "tbps": 1e3}
SPEED_WORDS = ("linkspeed", "capacity", "bandwidth", "speed", "rate", "bitrate", "datarate")
SPEEDS = {f"{word}{unit}": factor for word in SPEED_WORDS for unit, factor in GBPS_PER_UNIT.items()}
ZOO_UNITS = {"": 1e-9, "K": 1e-6, "M": 1e-3, "G": 1.0, "T": 1e3}
MOST_GBPS = 480_000.0
"""48 channels of 10 Tb/s."""
BITS_FROM = 1e6
"""A plain `capacity` of at least this is in bit/s, a smaller one in Gb/s."""
LOSSES = ("lossdbperkm", "losscoef", "losscoefdbperkm", "attenuationdbperkm")
FIBRE_TYPES = ("fibretype", "fibertype", "typevariety")
UNUSED = frozenset({"weight", "cost", "loss", "attenuation", "srlg", "riskgroup", "sharedriskgroup", "channels",
                    "wavelengths", "len", "delay", "latency"})  # fmt: skip
"""Attributes that could mean something here, and are not used, as all others that are numbers."""
IDENTIFIERS = frozenset({"key", "id", "index", "number", "edgeid", "linkid", "uid", "sourcenode", "destnode",
                         "sourcetp", "desttp", "sourceport", "destport", "targetport"})  # fmt: skip
"""Attributes that may be numbers and are none."""
USED = frozenset({*LENGTHS, *UNIT_WORDS, *SPEEDS, *SPEED_WORDS, "linkspeedraw", "linkspeedunits", *LOSSES, *FIBRE_TYPES,
                  "duct"})  # fmt: skip
SAME_SHARE = 0.01
"""Two statements that differ by less are the same."""
MAX_DUCT_LETTERS = 64

Remark = Callable[[str], None]
Named = Mapping[str, tuple[str, object]]
"""Attributes with a value, by their names in lower-case letters and digits alone."""


@dataclass(frozen=True, slots=True)
class Stated:
    """A value that an attribute states."""

    value: float
    attribute: str


def stated_length_km(attributes: Mapping[str, object], remark: Remark) -> Stated | None:
    """The length of a fibre, in km; None if no attribute states one.

    Raises: ValueError if it is no possible one.
    """
    found = list(_lengths(_by_plain_name(attributes), remark))
    return _possible_length(_first_of(found, remark)) if found else None


def _lengths(named: Named, remark: Remark) -> Iterator[Stated]:
    for plain, km_per_unit in LENGTHS.items():
        if plain in named:
            attribute, value = named[plain]
            yield Stated(_positive(attribute, value) * (km_per_unit or _unit_km(named, attribute, remark)), attribute)


def _unit_km(named: Named, attribute: str, remark: Remark) -> float:
    """The unit of a length without one in its name, in km."""
    word, unit = next((named[each] for each in UNIT_WORDS if each in named), ("", ""))
    if not word:
        remark(f"`{attribute}` is taken as km")
    elif str(unit).strip().lower() not in KM_PER_UNIT:
        raise ValueError(f"`{word}` is {unit!r}; a length is in km, m or miles")
    return KM_PER_UNIT[str(unit).strip().lower()] if word else 1.0


def length_from(attributes: Mapping[str, object], attribute: str) -> Stated | None:
    """The length of a fibre by the attribute that the user names, in km.

    Raises: ValueError if it is no possible one.
    """
    value = attributes.get(attribute)
    return None if value in (None, "") else _possible_length(Stated(_positive(attribute, value), attribute))


def _possible_length(length: Stated) -> Stated:
    if length.value > MAX_LENGTH_KM:
        raise ValueError(f"`{length.attribute}` is {length.value:g} km; a fibre has at most {MAX_LENGTH_KM:g} km")
    if length.value < MIN_LENGTH_KM:
        raise ValueError(f"`{length.attribute}` is {length.value:g} km; a fibre has at least {MIN_LENGTH_KM:g} km")
    return length


def stated_distance_km(attributes: Mapping[str, object]) -> float | None:
    """The great-circle distance `dist`.

    Raises: ValueError if it is no finite number above 0.
    """
    value = attributes.get(GREAT_CIRCLE)
    return None if value in (None, "") else _positive(GREAT_CIRCLE, value, or_zero=True)


def stated_rate_gbps(attributes: Mapping[str, object], remark: Remark) -> Stated | None:
    """The speed of a span, in Gb/s; None if no attribute states one.

    Raises: ValueError if it is no finite number above 0, or impossible.
    """
    found = list(_rates(_by_plain_name(attributes), remark))
    stated = _first_of(found, remark) if found else None
    if stated is not None and not 0 < stated.value <= MOST_GBPS:
        raise ValueError(f"`{stated.attribute}` is {stated.value:g} Gb/s; it is above 0 and at most {MOST_GBPS:g}")
    return stated


def _rates(named: Named, remark: Remark) -> Iterator[Stated]:
    if "linkspeedraw" in named:
        attribute, value = named["linkspeedraw"]
        yield Stated(_positive(attribute, value) * 1e-9, attribute)
    in_zoo_units = "linkspeed" in named and "linkspeedunits" in named
    if in_zoo_units:
        (attribute, value), unit = named["linkspeed"], str(named["linkspeedunits"][1]).strip().upper()[:1]
        number = number_of(value)
        if number is not None and unit in ZOO_UNITS:
            yield Stated(number * ZOO_UNITS[unit], attribute)
        elif "linkspeedraw" not in named:  # the Zoo has speeds such as "45/155"; LinkSpeedRaw is the one that counts
            remark(f"`{attribute}` {value} with the unit {named['linkspeedunits'][1]} is not used:")
    for plain, (attribute, value) in named.items():
        if plain in SPEEDS:
            yield Stated(_positive(attribute, value) * SPEEDS[plain], attribute)
        elif plain in SPEED_WORDS and not (plain == "linkspeed" and in_zoo_units):
            rate = _positive(attribute, value)
            is_bits = rate >= BITS_FROM
            unit = "bit/s" if is_bits else "Gb/s"
            remark(f"`{attribute}` is taken as {unit}; `{attribute}_gbps`, `_mbps` or `_bps` say the unit")
            yield Stated(rate * (1e-9 if is_bits else 1.0), attribute)


def _first_of(found: list[Stated], remark: Remark) -> Stated:
    """The first statement; those that say otherwise are told."""
    first = found[0]
    for other in found[1:]:
        if abs(other.value - first.value) > SAME_SHARE * first.value:
            remark(f"`{first.attribute}` counts, `{other.attribute}` says otherwise:")
    return first


def stated_loss(attributes: Mapping[str, object]) -> float | None:
    """The loss of a fibre, `loss_db_per_km`.

    Raises: ValueError if it is no possible one.
    """
    named = _by_plain_name(attributes)
    attribute, value = next((named[each] for each in LOSSES if each in named), ("", None))
    if not attribute:
        return None
    loss = _positive(attribute, value)
    if not LEAST_LOSS_DB_PER_KM <= loss <= MOST_LOSS_DB_PER_KM:
        limits = f"{LEAST_LOSS_DB_PER_KM:g} to {MOST_LOSS_DB_PER_KM:g}"
        raise ValueError(f"`{attribute}` is {value!r}; it is {limits} dB/km")
    return loss


def stated_fibre_type(attributes: Mapping[str, object]) -> FibreType | None:
    """The type of a fibre, `fibre_type`.

    Raises: ValueError if it is unknown.
    """
    named = _by_plain_name(attributes)
    attribute, value = next((named[each] for each in FIBRE_TYPES if each in named), ("", None))
    found = next((known for known in get_args(FibreType) if known == value), None)
    if found is None and attribute:
        raise ValueError(f"`{attribute}` is {value!r}; it is one of {', '.join(get_args(FibreType))}")
    return found


def stated_duct(attributes: Mapping[str, object]) -> str | None:
    """The duct of a span.

    Raises: ValueError if it is no text or number.
    """
    attribute, value = _by_plain_name(attributes).get("duct", ("", None))
    if not attribute:
        return None
    text = str(value).strip() if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    has_controls = any(map(is_control, text))
    if not text or len(text) > MAX_DUCT_LETTERS or has_controls:
        advice = f"it is a name of at most {MAX_DUCT_LETTERS} letters in one line"
        raise ValueError(f"`{attribute}` is {value!r:.80}; {advice}")
    return text


def remark_unused(attributes: Mapping[str, object], used: Collection[str | None], remark: Remark) -> None:
    """Remark on attributes that could mean something here and are not used. `used`: further ones that are."""
    for plain, (attribute, value) in _by_plain_name(attributes).items():
        is_number = number_of(value) is not None and plain not in IDENTIFIERS
        if (plain in UNUSED or is_number) and plain not in USED and attribute not in used:
            remark(f"`{attribute}` is not used")


def _by_plain_name(attributes: Mapping[str, object]) -> Named:
    """The attributes with a value.

    Raises: ValueError if names that are alike, such as `length` and `Length`, have different values.
    """
    named: dict[str, tuple[str, object]] = {}
    for name, value in attributes.items():
        if value is not None and value != "":
            plain = re.sub(r"[^a-z0-9]", "", str(name).lower())
            first, other = named.setdefault(plain, (str(name), value))
            if other is not value and other != value and plain in USED:
                raise ValueError(f"`{first}` is {other!r:.60} and `{str(name).strip()}` {value!r:.60}; state one")
    return named


def _positive(attribute: str, value: object, or_zero: bool = False) -> float:
    number = number_of(value)
    if number is None or not math.isfinite(number) or number < 0 or (number == 0 and not or_zero):
        raise ValueError(f"`{attribute}` is {value!r:.80}; it is a number above 0")
    return number
