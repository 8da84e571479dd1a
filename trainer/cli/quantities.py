"""Rates, sizes, times and ports as written on a command line: 20M, 200kB, 45ms, 49152-65535."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import click

_NUMBER = re.compile(r"([0-9]{1,30}(?:\.[0-9]{1,30})?|\.[0-9]{1,30})\s*((?![0-9.])\S*)")

_DECIMAL = {"": 1, "k": 10**3, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
RATE_UNITS = {
    f"{prefix}{unit}": Fraction(factor)
    for prefix, factor in _DECIMAL.items() for unit in ("", "b/s", "bit/s", "bps")
}
"""To bit/s."""
SIZE_UNITS = {f"{prefix}{unit}": Fraction(factor) for prefix, factor in _DECIMAL.items() for unit in ("", "B")}
SIZE_UNITS |= {f"{prefix}{unit}": Fraction(factor) for prefix, factor in _BINARY.items() for unit in ("", "B")}
"""To bytes."""
TIME_UNITS = {
    "ns": Fraction(1, 1000), "us": Fraction(1), "µs": Fraction(1), "μs": Fraction(1), "ms": Fraction(1000),
    "s": Fraction(10**6), "min": Fraction(60 * 10**6), "h": Fraction(3600 * 10**6),
}  # fmt: skip
"""To microseconds; both signs for micro."""


class _Quantity(click.ParamType[Any]):
    """A number with a unit, positive unless it may be zero."""

    def __init__(self, name: str, units: dict[str, Fraction], examples: str, may_be_zero: bool = False) -> None:
        self.name = name
        self._units = units
        self._examples = examples
        self._may_be_zero = may_be_zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The value in the base unit."""
        if not isinstance(value, str):
            return value
        parts = _NUMBER.fullmatch(value.strip())
        if parts is None:
            self.fail(f"{value!r} is not a {self.name}; write for example {self._examples}.", param, ctx)
        number, unit = parts.groups()
        if unit not in self._units:
            reason = f"{unit!r} is no unit of a {self.name}" if unit else "the unit is missing"
            self.fail(f"{value!r}: {reason}; write for example {self._examples}.", param, ctx)
        amount = Fraction(number) * self._units[unit]
        if amount == 0 and not self._may_be_zero:
            self.fail(f"{value!r} is not a {self.name} above 0.", param, ctx)
        return self._result(amount, value, param, ctx)

    def _result(
        self, amount: Fraction, value: str, param: click.Parameter | None, ctx: click.Context | None  # noqa: ARG002
    ) -> Any:
        return float(amount)


class _Whole(_Quantity):
    """A quantity that is a whole number of its base unit."""

    def _result(
        self, amount: Fraction, value: str, param: click.Parameter | None, ctx: click.Context | None
    ) -> Any:
        if amount.denominator != 1:
            self.fail(f"{value!r} is not a whole number of {self.base}.", param, ctx)
        return int(amount)

    def __init__(self, name: str, units: dict[str, Fraction], examples: str, base: str) -> None:
        super().__init__(name, units, examples)
        self.base = base


class _Seconds(_Quantity):
    """A time in seconds; a plain number is in seconds already."""

    def _result(
        self, amount: Fraction, value: str, param: click.Parameter | None, ctx: click.Context | None  # noqa: ARG002
    ) -> Any:
        return float(amount / 10**6)


class _Ports(click.ParamType[Any]):
    """A port or a range of ports, as the REST API takes it."""

    name = "port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """An integer for one port, the text for a range."""
        if not isinstance(value, str):
            return value
        parts = re.fullmatch(r"(\d{1,5})(?:-(\d{1,5}))?", value)
        if parts is None or not 1 <= int(parts[1]) <= int(parts[2] or parts[1]) <= 65535:
            self.fail(f"{value!r} is not a port of 1 to 65535, or a range such as 49152-65535.", param, ctx)
        return int(value) if parts[2] is None else value


class _Instant(click.ParamType[Any]):
    """A moment: a timestamp with its time zone, or +DURATION from now; as the REST API takes it."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The RFC 3339 timestamp."""
        if not isinstance(value, str):
            return value
        if value.startswith("+"):
            seconds = DURATION_S.convert(value[1:], param, ctx)
            try:
                return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()
            except OverflowError:
                self.fail(f"{value!r} lies beyond all calendars.", param, ctx)
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            moment = None
        if moment is None or moment.tzinfo is None:
            sentence = f"{value!r} is not a time with its zone, such as 2027-01-31T18:00:00Z, or +10min from now."
            self.fail(sentence, param, ctx)
        return moment.isoformat()


RATE = _Whole("rate", RATE_UNITS, "20M, 1.5G or 64kbit/s", "bit/s")
SIZE = _Whole("size", SIZE_UNITS, "200kB, 1.5MB or 45000", "bytes")
TIME_US = _Quantity("time", TIME_UNITS, "45ms, 250us or 1.5s")
OFFSET_US = _Quantity("time", TIME_UNITS, "45ms, 250us or 0s", may_be_zero=True)
DURATION_S = _Seconds("time", {**TIME_UNITS, "": Fraction(10**6)}, "90s, 10min or 90")
PORTS = _Ports()
INSTANT = _Instant()
