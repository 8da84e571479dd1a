"""QoS profiles: what a session or booking gets, as the operator defines it. Source: qos-profiles.yaml of CAMARA."""

# ruff: noqa: N815 - the names are those of CAMARA

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from controller.api.schemas.fields import NUMBER, InvalidFields, StrictBody
from controller.api.schemas.mistakes import mistakes_of
from controller.api.schemas.patterns import QOS_PROFILE
from controller.domain.ports import Ports
from controller.domain.reservation import DEFAULT_RANK, LOWEST_RANK, Flow, Match, Requirement
from controller.domain.reservation import Protocol as IpProtocol
from controller.errors import StartError

ProfileName = Annotated[
    str,
    Field(min_length=3, max_length=256, pattern=QOS_PROFILE, description="Names a QoS profile.", examples=["QOS_M"]),
]
ProfileStatus = Literal["ACTIVE", "INACTIVE", "DEPRECATED"]

_BPS = {"bps": 1, "kbps": 10**3, "Mbps": 10**6, "Gbps": 10**9, "Tbps": 10**12}
_SECONDS = {
    "Days": 86_400.0, "Hours": 3600.0, "Minutes": 60.0, "Seconds": 1.0, "Milliseconds": 1e-3, "Microseconds": 1e-6,
    "Nanoseconds": 1e-9,
}  # fmt: skip


class CamaraBody(StrictBody):
    """A body of CAMARA: what is not given is left out, never null."""

    @model_validator(mode="before")
    @classmethod
    def _check_nulls(cls, given: object) -> object:
        nulls = [name for name, value in given.items() if value is None] if isinstance(given, dict) else []
        if nulls:
            raise InvalidFields([(str(name), "it is null; leave it out") for name in nulls])
        return given


class Rate(CamaraBody):
    """A rate."""

    value: Annotated[int, Field(ge=1, le=1024, description="How many of the unit.", examples=[10]), NUMBER]
    unit: Annotated[Literal["bps", "kbps", "Mbps", "Gbps", "Tbps"], Field(description="The unit of the rate.")]

    @property
    def bps(self) -> int:
        """In bits per second."""
        return self.value * _BPS[self.unit]


class Duration(CamaraBody):
    """A length of time."""

    value: Annotated[int, Field(ge=1, le=2**31 - 1, description="How many of the unit.", examples=[12]), NUMBER]
    unit: Annotated[
        Literal["Days", "Hours", "Minutes", "Seconds", "Milliseconds", "Microseconds", "Nanoseconds"],
        Field(description="The unit of time."),
    ]

    @property
    def seconds(self) -> float:
        """In seconds."""
        return self.value * _SECONDS[self.unit]


class QosProfile(CamaraBody):
    """A QoS profile with what Paceline promises of it; attributes that it does not promise are not offered."""

    name: ProfileName
    description: Annotated[str | None, Field(max_length=1000, description="What it is for.")] = None
    status: Annotated[ProfileStatus, Field(description="Only an ACTIVE profile can be requested.")] = "ACTIVE"
    targetMinUpstreamRate: Annotated[
        Rate | None, Field(description="Reserved from the device to the application server, in L2 bits.")
    ] = None
    targetMinDownstreamRate: Annotated[
        Rate | None, Field(description="Reserved from the application server to the device, in L2 bits.")
    ] = None
    minDuration: Annotated[Duration | None, Field(description="The shortest duration.")] = None
    maxDuration: Annotated[Duration | None, Field(description="The longest duration, with all extensions.")] = None
    priority: Annotated[
        int | None, Field(ge=1, le=100, description="The lower, the earlier it is served after failures."), NUMBER
    ] = None
    packetDelayBudget: Annotated[
        Duration | None, Field(description="Limit of the proven one-way latency between the two hosts.")
    ] = None
    jitter: Annotated[
        Duration | None, Field(description="Limit of the proven variation of the round-trip delay.")
    ] = None


class OfferedProfile(QosProfile):
    """A profile as in the operator's file; `protocol`: that of its flows, which CAMARA has no field for."""

    protocol: Annotated[Literal["udp", "tcp"], Field(description="The protocol of the flows.")] = "udp"

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.targetMinUpstreamRate is None and self.targetMinDownstreamRate is None:
            raise InvalidFields([("", "it needs targetMinUpstreamRate or targetMinDownstreamRate")])
        shortest_s, longest_s = self.duration_range_s
        if shortest_s > longest_s:
            raise InvalidFields([("minDuration", "it must not be longer than maxDuration")])
        return self

    @property
    def public(self) -> QosProfile:
        """Without what is not CAMARA's."""
        return QosProfile.model_validate(self.model_dump(exclude={"protocol"}, exclude_none=True))

    @property
    def duration_range_s(self) -> tuple[float, float]:
        """The shortest and the longest duration."""
        shortest, longest = self.minDuration, self.maxDuration
        return 0.0 if shortest is None else shortest.seconds, float("inf") if longest is None else longest.seconds

    def flows(self, device: str, server: str, device_ports: Ports, server_ports: Ports) -> tuple[Flow, ...]:
        """The flows of a session; the limit of the jitter is for both directions together, so each has half of it."""
        directions = (
            ("upstream", self.targetMinUpstreamRate, device, server, device_ports, server_ports),
            ("downstream", self.targetMinDownstreamRate, server, device, server_ports, device_ports),
        )
        used = [direction for direction in directions if direction[1] is not None]
        protocol: IpProtocol = self.protocol
        return tuple(
            Flow(name, source, destination, Match(protocol, source_port, destination_port),
                 self._requirement(rate.bps, len(used)))
            for name, rate, source, destination, source_port, destination_port in used
            if rate is not None
        )

    def _requirement(self, rate_bps: int, directions: int) -> Requirement:
        rank = DEFAULT_RANK if self.priority is None else round((self.priority - 1) * LOWEST_RANK / 99)
        budget, jitter = self.packetDelayBudget, self.jitter
        return Requirement(
            min_bandwidth_bps=rate_bps,
            max_latency_us=None if budget is None else budget.seconds * 1e6,
            max_latency_variation_us=None if jitter is None else jitter.seconds * 1e6 / directions,
            rank=rank,
        )


def _rated(name: str, description: str, value: int, unit: str, **others: Any) -> OfferedProfile:
    rate = {"value": value, "unit": unit}
    body = {"name": name, "description": description, "targetMinUpstreamRate": rate, "targetMinDownstreamRate": rate}
    return OfferedProfile.model_validate({**body, "maxDuration": {"value": 1, "unit": "Days"}, **others})


DEFAULT_PROFILES: Sequence[OfferedProfile] = (
    _rated("QOS_E", "Stable latency: 1 Mb/s of UDP in each direction, within 100 ms.", 1, "Mbps",
           packetDelayBudget={"value": 100, "unit": "Milliseconds"}, priority=20),
    _rated("QOS_S", "100 kb/s of UDP in each direction.", 100, "kbps"),
    _rated("QOS_M", "1 Mb/s of UDP in each direction.", 1, "Mbps"),
    _rated("QOS_L", "10 Mb/s of UDP in each direction.", 10, "Mbps"),
)  # fmt: skip
"""The profiles without a file of the operator, with CAMARA's predefined names."""

_FILE = TypeAdapter(list[OfferedProfile])


def load_profiles(path: Path) -> tuple[OfferedProfile, ...]:
    """Read profiles from YAML: a list with CAMARA's names, and `protocol`.

    Raises: StartError with every mistake in the file.
    """
    try:
        given = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise StartError(f"The QoS profiles {path} cannot be read: {error}", exit_code=2) from error
    try:
        profiles = _FILE.validate_python(given)
    except ValidationError as error:
        found: Sequence[Mapping[str, Any]] = error.errors()
        mistakes = [f"{mistake['place'] or 'the file'}: {mistake['message']}" for mistake in mistakes_of(found)]
        raise StartError(f"The QoS profiles {path}: {'; '.join(mistakes[:20])}.", exit_code=2) from error
    names = Counter(profile.name for profile in profiles)
    repeated = [name for name, times in names.items() if times > 1]
    if repeated:
        raise StartError(f"The QoS profiles {path}: {', '.join(repeated)} is there more than once.", exit_code=2)
    return tuple(profiles)
