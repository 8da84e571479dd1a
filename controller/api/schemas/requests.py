"""Request bodies and rules that concern several fields; field types are in `controller.api.schemas.fields`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from controller.api.schemas import examples
from controller.api.schemas.fields import (
    Bytes,
    InvalidFields,
    LeaseSeconds,
    Name,
    PortMatch,
    StrictBody,
    Timestamp,
)
from controller.api.schemas.requirements import RequirementBody
from controller.domain import reservation
from controller.domain.ports import Ports, masked_ports, ports_from_text, ports_overlap
from controller.errors import InvalidRequest
from controller.service.requests import ReservationSpec

MAX_PORT_ENTRIES = 32
"""The most classifier entries that a flow's ranges of ports may take; one range takes at most 30."""

HORIZON_S = 366 * 86_400.0
"""End of the calendar, from now."""


class MatchBody(StrictBody):
    """Ports and protocol of a flow. A port that is left out is any port: clients' ports are often chosen by the system.
    """

    protocol: Literal["tcp", "udp"]
    source_port: PortMatch = None
    destination_port: PortMatch = None

    @property
    def is_exact(self) -> bool:
        """Whether it has one source and one destination port."""
        return type(self.source_port) is int and type(self.destination_port) is int

    @property
    def ports(self) -> tuple[Ports, Ports]:
        """The source and the destination ports."""
        return _ports(self.source_port), _ports(self.destination_port)

    @property
    def entry_count(self) -> int:
        """The number of flow entries that match these ports at a switch."""
        source, destination = self.ports
        return len(masked_ports(source)) * len(masked_ports(destination))

    def to_match(self) -> reservation.Match:
        """Convert to the domain object."""
        return reservation.Match(self.protocol, *self.ports)


def _ports(given: int | str | None) -> Ports:
    return ports_from_text(given) if isinstance(given, str) else given


class FlowBody(StrictBody):
    """A unidirectional flow."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [examples.RATE_FLOW]})

    name: Name
    source: Name
    destination: Name
    match: MatchBody
    requirement: RequirementBody

    @property
    def five_tuple(self) -> tuple[str, str, str, int | str | None, int | str | None]:
        """See controller.domain.reservation.Flow; ranges of ports as they were written."""
        match = self.match
        return self.source, self.destination, match.protocol, match.source_port, match.destination_port

    def to_flow(self) -> reservation.Flow:
        """Convert to the domain object."""
        match, requirement = self.match.to_match(), self.requirement.to_requirement()
        return reservation.Flow(self.name, self.source, self.destination, match, requirement)


Flows = Annotated[list[FlowBody], Field(min_length=1, max_length=256)]


def _check_flows(flows: Sequence[FlowBody]) -> None:
    mistakes = []
    names = Counter([flow.name for flow in flows])
    tuples = Counter([flow.five_tuple for flow in flows])
    with_ranges = [flow for flow in flows if not flow.match.is_exact]
    for number, flow in enumerate(flows):
        if names[flow.name] > 1:
            mistakes.append((f"flows.{number}.name", f"names of flows must be unique; {flow.name} is repeated"))
        if tuples[flow.five_tuple] > 1:
            sentence = f"another flow than {flow.name} has the same source, destination, protocol and ports"
            mistakes.append((f"flows.{number}.match", sentence))
        elif with_ranges and (other := _overlapping(flow, with_ranges if flow.match.is_exact else flows)) is not None:
            sentence = f"flow {other.name} has packets of the same source, destination, protocol and ports in part"
            mistakes.append((f"flows.{number}.match", sentence))
        if flow.source == flow.destination:
            mistakes.append((f"flows.{number}.destination", f"source and destination are both {flow.source}"))
        if with_ranges and (entries := flow.match.entry_count) > MAX_PORT_ENTRIES:
            sentence = (f"its two ranges of ports take {entries} flow entries of a switch; a flow may take "
                        f"{MAX_PORT_ENTRIES}. A range of a power of two, such as 49152-65535, takes one")
            mistakes.append((f"flows.{number}.match", sentence))
    if mistakes:
        raise InvalidFields(mistakes)


def _overlapping(flow: FlowBody, others: Sequence[FlowBody]) -> FlowBody | None:
    """Another flow that shares packets with this one; only flows with a range of ports or any port can."""
    ends = flow.source, flow.destination, flow.match.protocol
    return next(
        (
            other for other in others
            if other is not flow and ends == (other.source, other.destination, other.match.protocol)
            and all(map(ports_overlap, flow.match.ports, other.match.ports))
        ),
        None,
    )  # fmt: skip


class ReservationRequest(StrictBody):
    """An atomic set of flows: all are admitted or none."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [examples.RESERVATION_REQUEST]})

    owner: Name = "anonymous"
    lease_s: LeaseSeconds = 60
    hold: Annotated[bool, Field(strict=True, description="Hold the capacity until it is committed.")] = (
        False
    )
    start_at: Annotated[Timestamp | None, Field(description="Start; null: now.")] = None
    end_at: Annotated[Timestamp | None, Field(description="End; null: when the lease expires.")] = None
    flows: Flows

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        _check_flows(self.flows)
        if self.start_at and self.end_at and self.end_at <= self.start_at:
            raise InvalidFields([("end_at", "it must be later than start_at")])
        return self

    def to_spec(self, tenant: str, now_s: float) -> ReservationSpec:
        """Convert to the domain object; a start in the past means now.

        Raises: InvalidRequest if a time is outside the calendar.
        """
        start_s = None if self.start_at is None else self.start_at.timestamp()
        end_s = None if self.end_at is None else self.end_at.timestamp()
        mistakes = [
            {"place": f"body.{place}", "message": f"it is {at.isoformat()}; the calendar ends at "
             f"{datetime.fromtimestamp(now_s + HORIZON_S, UTC):%Y-%m-%dT%H:%M:%SZ}"}
            for place, at in (("start_at", self.start_at), ("end_at", self.end_at))
            if at is not None and at.timestamp() > now_s + HORIZON_S
        ]
        if self.end_at is not None and self.end_at.timestamp() <= now_s:
            mistakes.append({"place": "body.end_at", "message": f"it is {self.end_at.isoformat()}; it has passed; "
                             "give a time in the future"})
        if mistakes:
            first = mistakes[0]
            sentence = f"The request is not valid: {first['place']}: {first['message']}."
            raise InvalidRequest(sentence, mistakes=mistakes)
        future_start_s = start_s if start_s is not None and start_s > now_s else None
        flows = tuple(flow.to_flow() for flow in self.flows)
        return ReservationSpec(self.owner, tenant, self.lease_s, flows, self.hold, future_start_s, end_s)


class ReservationChange(StrictBody):
    """A renewal (`{}` or `lease_s`), and with `flows` a new full list of flows."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"lease_s": 60}]})

    lease_s: LeaseSeconds | None = None
    flows: Flows | None = None

    @model_validator(mode="after")
    def _check_flows_differ(self) -> Self:
        _check_flows(self.flows or [])
        return self


class TransferBody(StrictBody):
    """A volume to transfer between two hosts."""

    name: Name
    source: Name
    destination: Name
    transfer_bytes: Bytes


class TransfersQuestion(StrictBody):
    """Request for the shortest time of these transfers if all start and end together.

    `instead_of`: id of a reservation of the tenant; its bandwidth counts as free, as in a modification of it.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [examples.TRANSFERS_QUESTION]})

    transfers: Annotated[list[TransferBody], Field(min_length=1, max_length=64)]
    instead_of: Name | None = None

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        mistakes = []
        names = Counter(transfer.name for transfer in self.transfers)
        for number, transfer in enumerate(self.transfers):
            place = f"transfers.{number}"
            if names[transfer.name] > 1:
                mistakes.append((f"{place}.name", f"names of transfers must be unique; {transfer.name} is repeated"))
            if transfer.source == transfer.destination:
                mistakes.append((f"{place}.destination", f"source and destination are both {transfer.source}"))
        if mistakes:
            raise InvalidFields(mistakes)
        return self


def _quote_kind(value: Any) -> str:
    given = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return "transfers" if "transfers" in given else "reservation"


QuoteRequest = Annotated[
    Annotated[ReservationRequest, Tag("reservation")] | Annotated[TransfersQuestion, Tag("transfers")],
    Discriminator(_quote_kind),
]

TAGS = frozenset({"rate", "transfer", "reservation", "transfers"})
"""Names of union members that pydantic adds to the place of a mistake; they are not in the request."""
