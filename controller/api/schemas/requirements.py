"""The requirement of a flow in a request body: a rate, or a volume to transfer within a deadline."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Discriminator, Field, Tag, model_validator

from controller.api.schemas.fields import (
    NUMBER,
    Bytes,
    InvalidFields,
    Microseconds,
    Milliseconds,
    Offset,
    Period,
    Slack,
    StrictBody,
)
from controller.domain import reservation
from controller.domain.reservation import DEFAULT_RANK, LOWEST_RANK, Backup, BoundAnalysis, Protection


class AnyRequirement(StrictBody):
    """Fields of both forms. Without a burst one is chosen; without a limit the bound may change later."""

    burst_bytes: Annotated[int, Field(ge=1, le=10**8), NUMBER] | None = None
    max_frame_bytes: Annotated[
        int,
        Field(
            ge=60,
            le=65_535,
            description="The largest frame of the flow, Ethernet header included (RFC 9016 MaxPayloadSize, as L2 "
            "bytes): its burst may be as small as that. A transfer that fits in one is sent at once. Null: the largest "
            "of the map.",
        ),
        NUMBER,
    ] | None = None
    max_latency_us: Microseconds | None = None
    max_latency_variation_us: Microseconds | None = None
    bound_slack: Annotated[
        Slack | None,
        Field(
            description="The bounds told in the response become limits: later requests of others may raise them by "
            "this share at most, 0.1 for 10 %. Null: they may rise without limit."
        ),
    ] = None
    rank: Annotated[int, Field(ge=0, le=LOWEST_RANK, description="0 is the most important."), NUMBER] = DEFAULT_RANK
    protection: Annotated[
        Protection,
        Field(
            description="`link_disjoint`: a backup path that shares no span with the working path; `duct_disjoint`: "
            "also no duct, so that the flow survives the failure of any one duct of the map."
        ),
    ] = "none"
    backup: Annotated[
        Backup,
        Field(
            description="`shared`: backup capacity is shared with flows that no single failure affects together; "
            "`dedicated`: it belongs to this flow alone; `seamless`: every packet takes both paths at the same time, "
            "so that a failure loses none, and the receiver gets it twice (IEEE 802.1CB)."
        ),
    ] = "shared"
    pinned: Annotated[
        bool, Field(description="True: its lightpaths keep their channels; the controller never moves them.")
    ] = False

    @model_validator(mode="after")
    def _check_backup(self) -> Self:
        if self.backup != "shared" and self.protection == "none":
            raise InvalidFields([("backup", "a backup needs protection: link_disjoint or duct_disjoint")])
        return self


class RateRequirement(AnyRequirement):
    """A rate."""

    min_bandwidth_bps: Annotated[int, Field(ge=1000, le=10**12, examples=[15_000_000]), NUMBER]
    analysis: Annotated[
        BoundAnalysis,
        Field(
            description="`total_flow`: the bounds of total-flow analysis, in microseconds of work; `linear_programme`: "
            "smaller ones where linear programmes yield them, in tenths of a second."
        ),
    ] = "total_flow"

    def to_requirement(self) -> reservation.Requirement:
        """Convert to the domain object."""
        return reservation.Requirement(**self.__dict__)


class TransferRequirement(AnyRequirement):
    """A volume to transfer within a deadline, once or in each period; the rate is chosen to meet the deadline."""

    transfer_bytes: Bytes
    deadline_ms: Milliseconds
    period_ms: Period | None = None
    offset_ms: Offset = 0.0

    @model_validator(mode="after")
    def _check_window(self) -> Self:
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
        """Convert to the domain object."""
        return reservation.Requirement(**self.__dict__)


def _form(value: Any) -> str | None:
    """The form of a requirement; None if it is both or neither."""
    given = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    rate, transfer = given.get("min_bandwidth_bps") is not None, given.get("transfer_bytes") is not None
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
