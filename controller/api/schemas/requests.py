"""Request bodies and the rules between their fields; single values are in `controller.api.schemas.fields`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Discriminator, Field, Tag, model_validator

from controller.api.schemas import examples
from controller.api.schemas.fields import (
    NUMBER,
    Bytes,
    InvalidFields,
    LeaseSeconds,
    Microseconds,
    Milliseconds,
    Name,
    Offset,
    Period,
    Port,
    StrictBody,
    Timestamp,
)
from controller.domain import reservation
from controller.domain.reservation import DEFAULT_RANK, LOWEST_RANK, Backup, Protection
from controller.errors import InvalidRequest
from controller.service.requests import ReservationSpec

HORIZON_S = 366 * 86_400.0
"""The calendar goes so far."""


class MatchBody(StrictBody):
    """The ports and protocol of a flow."""

    protocol: Literal["tcp", "udp"]
    source_port: Port
    destination_port: Port


class AnyRequirement(StrictBody):
    """What both forms have. No burst: one is chosen. No limit: the bound is told but not promised to stay."""

    burst_bytes: Annotated[int, Field(ge=1, le=10**8), NUMBER] | None = None
    max_latency_us: Microseconds | None = None
    max_latency_variation_us: Microseconds | None = None
    rank: Annotated[int, Field(ge=0, le=LOWEST_RANK, description="0 is the most important."), NUMBER] = DEFAULT_RANK
    protection: Annotated[
        Protection,
        Field(
            description="`link_disjoint`: a second path is kept that shares no span with the first; "
            "`duct_disjoint`: nor a duct, so that the flow survives the loss of any one duct of the map."
        ),
    ] = "none"
    backup: Annotated[
        Backup,
        Field(
            description="`shared`: the backup's capacity is for all flows of which no single failure needs two there; "
            "`dedicated`: it is this flow's alone."
        ),
    ] = "shared"

    @model_validator(mode="after")
    def _has_a_backup(self) -> Self:
        if self.backup == "dedicated" and self.protection == "none":
            raise InvalidFields([("backup", "there is none without protection: link_disjoint or duct_disjoint")])
        return self


class RateRequirement(AnyRequirement):
    """A rate, from now on."""

    min_bandwidth_bps: Annotated[int, Field(ge=1000, le=10**12, examples=[15_000_000]), NUMBER]

    def to_requirement(self) -> reservation.Requirement:
        """The fact behind it."""
        return reservation.Requirement(**self.__dict__)


class TransferRequirement(AnyRequirement):
    """So many bytes within a deadline, once or in every period; the rate is chosen such that they are there in time."""

    transfer_bytes: Bytes
    deadline_ms: Milliseconds
    period_ms: Period | None = None
    offset_ms: Offset = 0.0

    @model_validator(mode="after")
    def _window_fits(self) -> Self:
        mistakes = []
        if self.period_ms is None and self.offset_ms:
            mistakes.append(("offset_ms", "an offset needs a period; give period_ms or leave it out"))
        if self.period_ms is not None and self.deadline_ms > self.period_ms:
            mistakes.append(("deadline_ms", f"it must not be longer than the period, {self.period_ms:g} ms"))
        if self.period_ms is not None and self.offset_ms >= self.period_ms:
            mistakes.append(("offset_ms", f"it must be shorter than the period, {self.period_ms:g} ms"))
        if mistakes:
            raise InvalidFields(mistakes)
        return self

    def to_requirement(self) -> reservation.Requirement:
        """The fact behind it."""
        return reservation.Requirement(**self.__dict__)


def _form(value: Any) -> str | None:
    """Which form of requirement this is, None if it is both or neither."""
    given = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    rate, transfer = (given.get(name) is not None for name in ("min_bandwidth_bps", "transfer_bytes"))
    if rate == transfer:
        return None
    return "rate" if rate else "transfer"


RequirementBody = Annotated[
    Annotated[RateRequirement, Tag("rate")] | Annotated[TransferRequirement, Tag("transfer")],
    Discriminator(
        _form,
        custom_error_type="requirement_form",
        custom_error_message="give either min_bandwidth_bps (a rate) or transfer_bytes with deadline_ms (a transfer)",
    ),
]


class FlowBody(StrictBody):
    """One direction of one transfer."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [examples.RATE_FLOW]})

    name: Name
    source: Name
    destination: Name
    match: MatchBody
    requirement: RequirementBody

    @property
    def five_tuple(self) -> tuple[str, str, str, int, int]:
        """See controller.domain.reservation.Flow."""
        match = self.match
        return self.source, self.destination, match.protocol, match.source_port, match.destination_port

    def to_flow(self) -> reservation.Flow:
        """The fact behind it."""
        match = reservation.Match(**self.match.__dict__)
        return reservation.Flow(self.name, self.source, self.destination, match, self.requirement.to_requirement())


Flows = Annotated[list[FlowBody], Field(min_length=1, max_length=256)]


def _check_flows(flows: Sequence[FlowBody]) -> None:
    mistakes = []
    names = Counter(flow.name for flow in flows)
    tuples = Counter(flow.five_tuple for flow in flows)
    for number, flow in enumerate(flows):
        if names[flow.name] > 1:
            mistakes.append((f"flows.{number}.name", f"each flow needs a name of its own; {flow.name} is repeated"))
        if tuples[flow.five_tuple] > 1:
            sentence = f"another flow than {flow.name} has the same source, destination, protocol and ports"
            mistakes.append((f"flows.{number}.match", sentence))
        if flow.source == flow.destination:
            mistakes.append((f"flows.{number}.destination", f"source and destination are both {flow.source}"))
    if mistakes:
        raise InvalidFields(mistakes)


class ReservationRequest(StrictBody):
    """An atomic set of flows: all are admitted or none."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [examples.RESERVATION_REQUEST]})

    owner: Name = "anonymous"
    lease_s: LeaseSeconds = 60
    hold: Annotated[bool, Field(strict=True, description="Keep the capacity until it is committed.")] = False
    start_at: Annotated[Timestamp | None, Field(description="When it is to begin; null: now.")] = None
    end_at: Annotated[Timestamp | None, Field(description="When it is to end; null: when the lease runs out.")] = None
    flows: Flows

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        _check_flows(self.flows)
        if self.start_at and self.end_at and self.end_at <= self.start_at:
            raise InvalidFields([("end_at", "it must be later than start_at")])
        return self

    def to_spec(self, tenant: str, now_s: float) -> ReservationSpec:
        """The fact behind it. A start that has passed is now.

        Raises: InvalidRequest if a moment is out of the calendar.
        """
        start_s = None if self.start_at is None else self.start_at.timestamp()
        end_s = None if self.end_at is None else self.end_at.timestamp()
        last = datetime.fromtimestamp(now_s + HORIZON_S, UTC)
        mistakes = [
            {"place": f"body.{place}", "message": f"the calendar ends at {last:%Y-%m-%dT%H:%M:%SZ}"}
            for place, at_s in (("start_at", start_s), ("end_at", end_s))
            if at_s is not None and at_s > now_s + HORIZON_S
        ]
        if end_s is not None and end_s <= now_s:
            mistakes.append({"place": "body.end_at", "message": "it has passed; give one in the future"})
        if mistakes:
            first = mistakes[0]
            sentence = f"The request is not valid: {first['place']}: {first['message']}."
            raise InvalidRequest(sentence, mistakes=mistakes)
        begins_s = start_s if start_s is not None and start_s > now_s else None
        flows = tuple(flow.to_flow() for flow in self.flows)
        return ReservationSpec(self.owner, tenant, self.lease_s, flows, self.hold, begins_s, end_s)


class ReservationChange(StrictBody):
    """A renewal (`{}` or `lease_s`), and with `flows` a new full list of flows."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"lease_s": 60}]})

    lease_s: LeaseSeconds | None = None
    flows: Flows | None = None

    @model_validator(mode="after")
    def _flows_differ(self) -> Self:
        _check_flows(self.flows or [])
        return self


class TransferBody(StrictBody):
    """A volume between two hosts."""

    name: Name
    source: Name
    destination: Name
    transfer_bytes: Bytes


class TransfersQuestion(StrictBody):
    """How long do these volumes take if all begin and end together?

    `instead_of`: the id of a reservation of one's own; what it takes counts as free, as if it were changed.
    """

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [examples.TRANSFERS_QUESTION]})

    transfers: Annotated[list[TransferBody], Field(min_length=1, max_length=64)]
    instead_of: Name | None = None

    @model_validator(mode="after")
    def _make_sense(self) -> Self:
        mistakes = []
        names = Counter(transfer.name for transfer in self.transfers)
        for number, transfer in enumerate(self.transfers):
            place = f"transfers.{number}"
            if names[transfer.name] > 1:
                mistakes.append((f"{place}.name", f"each needs a name of its own; {transfer.name} is repeated"))
            if transfer.source == transfer.destination:
                mistakes.append((f"{place}.destination", f"source and destination are both {transfer.source}"))
        if mistakes:
            raise InvalidFields(mistakes)
        return self


def _question(value: Any) -> str:
    given = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return "transfers" if "transfers" in given else "reservation"


QuoteRequest = Annotated[
    Annotated[ReservationRequest, Tag("reservation")] | Annotated[TransfersQuestion, Tag("transfers")],
    Discriminator(_question),
]

TAGS = frozenset({"rate", "transfer", "reservation", "transfers"})
"""Names of forms that pydantic puts into the place of a mistake and nobody has written."""
