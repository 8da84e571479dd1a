"""Response bodies about what a switch can do, with an example."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from controller.api.schemas import examples
from controller.api.schemas.reservation_responses import ResponseBody
from controller.dataplane.switch_capabilities import SwitchCapabilities
from controller.dataplane.switch_check import Check


class SwitchDescriptionBody(ResponseBody):
    """Who made a switch, in its own words."""

    manufacturer: Annotated[str, Field(description="Who made it.")]
    hardware: Annotated[str, Field(description="What it is.")]
    software: Annotated[str, Field(description="Its version.")]
    serial_number: Annotated[str, Field(description="Its serial number.")]
    datapath: Annotated[str, Field(description="A name that its operator gave it.")]


class TableBody(ResponseBody):
    """What entries of a flow table may have, of what Paceline uses."""

    table: Annotated[int, Field(description="Its number.")]
    max_entries: Annotated[int, Field(description="So many entries it may have.")]
    matches: Annotated[list[str], Field(description="Fields that an entry may match.")]
    masks: Annotated[list[str], Field(description="Fields of which an entry may match a part.")]
    sets: Annotated[list[str], Field(description="Fields that an entry may set.")]
    actions: Annotated[list[str], Field(description="Actions that an entry may apply.")]
    instructions: Annotated[list[str], Field(description="Instructions that an entry may have.")]


class MeterFeaturesBody(ResponseBody):
    """What meters a switch has."""

    max_meters: Annotated[int, Field(description="So many meters.")]
    max_bands: Annotated[int, Field(description="So many bands in a meter.")]
    drop: Annotated[bool, Field(description="Whether a band may drop.")]
    kbps: Annotated[bool, Field(description="Whether rates are in kb/s.")]
    burst: Annotated[bool, Field(description="Whether a meter may have a burst.")]
    statistics: Annotated[bool, Field(description="Whether it counts what passes and what is dropped.")]


class GroupFeaturesBody(ResponseBody):
    """What fast-failover groups a switch has."""

    fast_failover: Annotated[bool, Field(description="Whether it has them.")]
    max_groups: Annotated[int, Field(description="So many of them.")]
    actions: Annotated[list[str], Field(description="Actions in their buckets, of what Paceline uses.")]


class PortBody(ResponseBody):
    """A port as the switch describes it."""

    port: Annotated[int, Field(description="Its number.")]
    name: Annotated[str, Field(description="Its name at the switch.")]
    up: Annotated[bool, Field(description="Whether it is up.")]
    rate_bps: Annotated[int | None, Field(description="Its present speed; null: the switch does not say.")]


class CheckBody(ResponseBody):
    """A need, and what the switch says about it."""

    subject: Annotated[str, Field(description="What it is about.")]
    needed: Annotated[str, Field(description="What is needed.")]
    stated: Annotated[str, Field(description="What the switch says.")]
    verdict: Annotated[Literal["holds", "fails", "not_stated"], Field(
        description="`fails`: it would not hold. `not_stated`: the switch, or OpenFlow 1.3, does not say.")]
    reason: Annotated[str, Field(description="What follows from it, or why it is not known; may be empty.")]


class SwitchBody(ResponseBody):
    """What a switch says it can do, and what of that would not hold. Null: it gave no answer."""

    model_config = ConfigDict(json_schema_extra={"examples": [examples.SWITCH]})

    switch: Annotated[str | None, Field(description="Its name on the map; null: it is on none.")]
    datapath_id: Annotated[str, Field(description="Its datapath id, 16 hexadecimal digits.")]
    holds: Annotated[bool, Field(description="Whether no check fails.")]
    checks: Annotated[list[CheckBody], Field(description="Every need.")]
    description: Annotated[SwitchDescriptionBody | None, Field(description="Who made it.")]
    table_count: Annotated[int | None, Field(description="So many flow tables.")]
    tables: Annotated[list[TableBody] | None, Field(description="The tables that Paceline may use.")]
    meters: Annotated[MeterFeaturesBody | None, Field(description="Its meters.")]
    groups: Annotated[GroupFeaturesBody | None, Field(description="Its groups.")]
    ports: Annotated[list[PortBody] | None, Field(description="Its ports.")]


def switch_body(name: str | None, said: SwitchCapabilities, checks: Sequence[Check]) -> SwitchBody:
    """The body about a switch. `name`: None if it is on no map."""
    description, meters, groups = said.description, said.meters, said.groups
    return SwitchBody(
        switch=name,
        datapath_id=f"{said.datapath_id:016x}",
        holds=all(check.verdict != "fails" for check in checks),
        checks=[
            CheckBody(subject=check.subject, needed=check.needed, stated=check.stated, verdict=check.verdict,
                      reason=check.reason)
            for check in checks
        ],
        description=None if description is None else SwitchDescriptionBody(
            manufacturer=description.manufacturer, hardware=description.hardware, software=description.software,
            serial_number=description.serial_number, datapath=description.datapath,
        ),
        table_count=said.table_count,
        tables=None if said.tables is None else [
            TableBody(
                table=table.table, max_entries=table.max_entries, matches=sorted(table.matches),
                masks=sorted(table.masks), sets=sorted(table.set_fields), actions=sorted(table.actions),
                instructions=sorted(table.instructions),
            )
            for table in said.tables.values()
        ],
        meters=None if meters is None else MeterFeaturesBody(
            max_meters=meters.max_meters, max_bands=meters.max_bands, drop=meters.has_drop, kbps=meters.has_kbps,
            burst=meters.has_burst, statistics=meters.has_statistics,
        ),
        groups=None if groups is None else GroupFeaturesBody(
            fast_failover=groups.has_fast_failover, max_groups=groups.max_fast_failover,
            actions=sorted(groups.actions),
        ),
        ports=None if said.ports is None else [
            PortBody(port=port.number, name=port.name, up=port.is_up, rate_bps=port.rate_bps)
            for port in said.ports.values()
        ],
    )  # fmt: skip
