"""The options that describe one flow, and the request body that they make."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

from topologies.option_types import FiniteRange
from trainer.cli.quantities import DURATION_S, INSTANT, OFFSET_US, PORTS, RATE, SIZE, TIME_US
from trainer.errors import UsageError

F = TypeVar("F", bound=Callable[..., Any])
Json = dict[str, Any]

REQUIREMENT_FIELDS = {
    "rate": "min_bandwidth_bps", "transfer": "transfer_bytes", "deadline": "deadline_ms", "period": "period_ms",
    "offset": "offset_ms", "burst": "burst_bytes", "latency": "max_latency_us",
    "variation": "max_latency_variation_us", "rank": "rank", "protection": "protection", "backup": "backup",
    "analysis": "analysis", "bound_slack": "bound_slack", "pinned": "pinned",
}  # fmt: skip
"""Option -> field of the REST API's requirement."""

_MILLISECONDS = frozenset({"deadline", "period", "offset"})

_REQUIREMENT: tuple[tuple[str, Any, str], ...] = (
    ("--rate", RATE, "Rate, such as 20M (bit/s, Ethernet headers included)."),
    ("--transfer", SIZE, "Instead of a rate: this size, such as 200kB, within --deadline."),
    ("--deadline", TIME_US, "Time for the transfer, such as 250ms."),
    ("--period", TIME_US, "Repeat the transfer in every period; it has a window in each."),
    ("--offset", OFFSET_US, "Start of the window after each multiple of the period of Unix time."),
    ("--latency", TIME_US, "Latency limit, such as 45ms, kept against all later reservations."),
    ("--variation", TIME_US, "Limit of the difference between the latencies of two packets."),
    ("--bound-slack", FiniteRange(0, 1000),
     "Keep the told bounds as limits that may grow by at most this share, such as 0.25."),
    ("--burst", SIZE, "Size that may be sent at once, such as 40kB.  [default: chosen]"),
    ("--rank", click.IntRange(0, 255), "Importance if not all can be kept: 0 highest, 255 lowest.  [default: 128]"),
    ("--protection", click.Choice(["none", "link_disjoint", "duct_disjoint"]),
     "Backup path: without a common span, or without a common duct.  [default: none]"),
    ("--backup", click.Choice(["shared", "dedicated", "seamless"]),
     "Whether backups share capacity; seamless: every packet takes both paths.  [default: shared]"),
    ("--analysis", click.Choice(["total_flow", "linear_programme"]),
     "Analysis of a rate's bounds: total_flow is fast, linear_programme gives smaller bounds.  [default: total_flow]"),
    ("--pinned", bool, "On an optical map: never move its lightpaths."),
)  # fmt: skip

_FLOW: tuple[tuple[str, Any, str], ...] = (
    ("--protocol", click.Choice(["tcp", "udp"]), "Protocol.  [default: tcp]"),
    ("--source-port", PORTS, "Source port, or a range such as 49152-65535.  [default: any port]"),
    ("--destination-port", PORTS, "Destination port, or a range.  [default: any port]"),
    ("--name", str, "Name of the flow.  [default: SOURCE-DESTINATION]"),
)

_LIFETIME: tuple[tuple[str, Any, str], ...] = (
    ("--owner", str, "Name that the reservation is listed with.  [default: anonymous]"),
    ("--lease", DURATION_S, "Time until it expires unless renewed.  [default: 60s]"),
    ("--start", INSTANT, "Start: 2027-01-31T18:00:00Z, or +10min from now.  [default: now]"),
    ("--end", INSTANT, "End, likewise.  [default: when the lease expires]"),
)


def requirement_options(command: F) -> F:
    """Add the options of a requirement."""
    return _add(command, _REQUIREMENT)


def flow_options(command: F) -> F:
    """Add the options of a flow and of its reservation."""
    return _add(command, (*_REQUIREMENT, *_FLOW, *_LIFETIME))


def _add(command: F, options: tuple[tuple[str, Any, str], ...]) -> F:
    for flag, kind, text in reversed(options):
        name = flag.removeprefix("--").replace("-", "_")
        is_flag = kind is bool
        command = click.option(flag, name, type=kind, is_flag=is_flag, default=None, help=text)(command)
    return command


def requirement_of(options: Mapping[str, Any]) -> Json:
    """The fields of a requirement that are given."""
    fields: Json = {}
    for option, field in REQUIREMENT_FIELDS.items():
        value = options.get(option)
        if value is not None:
            fields[field] = value / 1000 if option in _MILLISECONDS else value
    return fields


def as_options(requirement: Mapping[str, Any]) -> str:
    """The fields of a requirement as options that give it."""
    options = {field: f"--{option.replace('_', '-')}" for option, field in REQUIREMENT_FIELDS.items()}
    given = ((options.get(field, field), field, value) for field, value in requirement.items() if value is not False)
    return " ".join(option if value is True else f"{option} {_written(field, value)}" for option, field, value in given)


def _written(field: str, value: Any) -> str:
    """A value with its unit; not rounded, so that the option is accepted as the offer is."""
    for suffix, scale, unit in (("_bps", 1e6, "M"), ("_bytes", 1e3, "kB"), ("_us", 1e3, "ms"), ("_ms", 1, "ms")):
        if field.endswith(suffix):
            return f"{value / scale:.12g}{unit}"
    return str(value)


_OTHER_FIELDS = {
    "protocol": "--protocol", "source_port": "--source-port", "destination_port": "--destination-port",
    "name": "--name", "owner": "--owner", "lease_s": "--lease", "start_at": "--start", "end_at": "--end",
    "source": "SOURCE", "destination": "DESTINATION", "instead_of": "--instead-of", "transfers": "--volume",
    "idempotency-key": "--idempotency-key", "last-event-id": "--after", "match": "--source-port, --destination-port",
    "after": "--after", "limit": "--limit", "state": "--state", "flows": "--flow",
    "requirement": "--rate, --transfer",
}  # fmt: skip
_UNITS = {"bps": "bit/s", "bytes": "bytes", "us": "microseconds", "ms": "milliseconds", "s": "seconds"}


def option_of(place: str) -> str:
    """Return the option of a field of a request, such as body.flows.0.requirement.min_bandwidth_bps, and its unit."""
    steps = place.split(".")
    field = next((step for step in reversed(steps) if not step.isdigit()), place)
    if "transfers" in steps:
        return "--volume"
    by_field = {name: f"--{option.replace('_', '-')}" for option, name in REQUIREMENT_FIELDS.items()} | _OTHER_FIELDS
    if field not in by_field:
        return place
    unit = _UNITS.get(field.rpartition("_")[2]) if "_" in field else None
    return f"{by_field[field]}, in {unit}" if unit else by_field[field]


_IN_OPTIONS = {
    "an offset needs a period; give period_ms or leave it out": "an offset needs --period",
    "it must be later than start_at": "it must be later than --start",
    "there is no field of this name": "it does not apply to this kind of requirement",
}
"""Sentences of the REST API that name its fields -> the same with options."""


def mistake_of(place: str, message: str) -> str:
    """A mistake in a request as a sentence about its option."""
    option = option_of(place)
    for sentence, in_options in _IN_OPTIONS.items():
        message = message.replace(sentence, in_options)
    return f"{option}: {message}."


def request_of(source: str, destination: str, options: Mapping[str, Any]) -> Json:
    """The request for a reservation of one flow.

    Raises: UsageError if it has neither a rate nor a transfer with a deadline, or both.
    """
    rate, transfer, deadline = (options.get(name) is not None for name in ("rate", "transfer", "deadline"))
    if rate == transfer or (transfer and not deadline):
        raise UsageError("Give either --rate, such as --rate 20M, or --transfer with --deadline, such as "
                         "--transfer 1MB --deadline 250ms.")
    if rate and deadline:
        raise UsageError("--deadline needs --transfer; with --rate a limit is --latency.")
    if transfer and options.get("analysis") is not None:
        raise UsageError("--analysis belongs to --rate; the bounds of a transfer are always those of total_flow.")
    if rate and (timed := [name for name in ("period", "offset") if options.get(name) is not None]):
        raise UsageError(f"--{timed[0]} belongs to --transfer; a rate is there all the time.")
    match = {"protocol": options.get("protocol") or "tcp"}
    match |= {name: options[name] for name in ("source_port", "destination_port") if options.get(name) is not None}
    flow = {"name": options.get("name") or f"{source}-{destination}"[:64], "source": source,
            "destination": destination, "match": match, "requirement": requirement_of(options)}
    names = {"owner": "owner", "lease": "lease_s", "start": "start_at", "end": "end_at"}
    given = {field: options[name] for name, field in names.items() if options.get(name) is not None}
    return {**given, "flows": [flow]}
