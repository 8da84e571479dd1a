"""What a switch says of itself, as far as OpenFlow 1.3 lets it: tables, meters, groups, ports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SwitchDescription:
    """Who made it. Source: OpenFlow 1.3.5, §7.3.5.1."""

    manufacturer: str
    hardware: str
    software: str
    serial_number: str
    datapath: str


@dataclass(frozen=True, slots=True)
class TableCapabilities:
    """What entries of a flow table may have. Source: OpenFlow 1.3.5, §7.3.5.5.

    `matches`: fields; `masks`: those of them that take a mask. Names of fields and actions are those of FlowEntry; a
    field or action that Paceline never uses is left out.
    """

    table: int
    max_entries: int
    matches: frozenset[str] = frozenset()
    masks: frozenset[str] = frozenset()
    set_fields: frozenset[str] = frozenset()
    actions: frozenset[str] = frozenset()
    instructions: frozenset[str] = frozenset()
    next_tables: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class MeterCapabilities:
    """Source: OpenFlow 1.3.5, §7.3.5.15."""

    max_meters: int
    max_bands: int
    has_drop: bool
    has_kbps: bool
    has_burst: bool
    has_statistics: bool


@dataclass(frozen=True, slots=True)
class GroupCapabilities:
    """Of fast-failover groups. Source: OpenFlow 1.3.5, §7.3.5.11."""

    has_fast_failover: bool
    max_fast_failover: int
    actions: frozenset[str]


@dataclass(frozen=True, slots=True)
class PortDescription:
    """`rate_bps`: the present speed; None where the switch does not say. Source: OpenFlow 1.3.5, §7.2.1."""

    number: int
    name: str
    is_up: bool
    rate_bps: int | None


@dataclass(frozen=True, slots=True)
class SwitchCapabilities:
    """The answers of one switch; None: not answered. `refused`: the error by question."""

    datapath_id: int
    description: SwitchDescription | None = None
    table_count: int | None = None
    tables: Mapping[int, TableCapabilities] | None = None
    meters: MeterCapabilities | None = None
    groups: GroupCapabilities | None = None
    ports: Mapping[int, PortDescription] | None = None
    refused: Mapping[str, str] = field(default_factory=dict)
