"""Bodies of Quality on Demand 1.1 and QoS Booking 0.1, with CAMARA's names."""

# ruff: noqa: N815 - the names are those of CAMARA

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from controller.api.camara.profiles import CamaraBody, ProfileName, ProfileStatus
from controller.api.schemas.fields import NUMBER, InvalidFields, Port, Timestamp
from controller.api.schemas.patterns import HTTPS_URL, IPV4, IPV4_BLOCK, PHONE_NUMBER
from controller.api.schemas.reservation_responses import ResponseBody

LONGEST_DURATION_S = 2**31 - 1

Ipv4 = Annotated[str, Field(pattern=IPV4, examples=["10.0.0.1"])]
Seconds = Annotated[
    int, Field(ge=1, le=LONGEST_DURATION_S, description="The duration in seconds.", examples=[3600]), NUMBER
]


class DeviceIpv4Addr(CamaraBody):
    """A device by its IPv4 address; without NAT both addresses are the same."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "anyOf": [{"required": ["publicAddress", "privateAddress"]}, {"required": ["publicAddress", "publicPort"]}]
        },
    )

    publicAddress: Annotated[Ipv4, Field(description="The address as the application server sees it.")]
    privateAddress: Annotated[Ipv4 | None, Field(description="The address of the device itself.")] = None
    publicPort: Annotated[Port | None, Field(description="A port as the application server sees it.")] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.privateAddress is None and self.publicPort is None:
            raise InvalidFields([("", "it needs privateAddress or publicPort beside publicAddress")])
        return self


class Device(CamaraBody):
    """A device; here it is a host of the map, found by its IPv4 address."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"minProperties": 1})

    phoneNumber: Annotated[str | None, Field(pattern=PHONE_NUMBER, description="Not supported.")] = None
    networkAccessIdentifier: Annotated[str | None, Field(max_length=256, description="Not supported.")] = None
    ipv4Address: Annotated[DeviceIpv4Addr | None, Field(description="The address of a host of the map.")] = None
    ipv6Address: Annotated[str | None, Field(max_length=45, description="Not supported.")] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        _require_one(self)
        return self


class ApplicationServer(CamaraBody):
    """The application server; here it is a host of the map, found by its IPv4 address."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"minProperties": 1})

    ipv4Address: Annotated[
        str | None,
        Field(pattern=IPV4_BLOCK, description="The address of a host of the map.", examples=["10.0.0.5"]),
    ] = None
    ipv6Address: Annotated[str | None, Field(max_length=49, description="Not supported.")] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        _require_one(self)
        return self


class PortRange(CamaraBody):
    """A range of ports."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    first: Annotated[Port, Field(alias="from", description="The lowest port.", examples=[5010])]
    last: Annotated[Port, Field(alias="to", description="The highest port.", examples=[5020])]


class PortsSpec(CamaraBody):
    """Ports; here one port or one range."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"minProperties": 1})

    ranges: Annotated[list[PortRange] | None, Field(min_length=1, max_length=64, description="Ranges.")] = None
    ports: Annotated[list[Port] | None, Field(min_length=1, max_length=64, description="Single ports.")] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        _require_one(self)
        return self


class SinkCredential(CamaraBody):
    """What authorises the requests to a sink."""

    credentialType: Annotated[
        Literal["PLAIN", "ACCESSTOKEN", "REFRESHTOKEN", "PRIVATE_KEY_JWT"], Field(description="ACCESSTOKEN.")
    ]
    accessToken: Annotated[str | None, Field(max_length=8192, description="Sent as a bearer token.")] = None
    accessTokenExpiresUtc: Annotated[Timestamp | None, Field(description="No events are sent after it.")] = None
    accessTokenType: Annotated[str | None, Field(max_length=64, description="bearer.")] = None
    identifier: Annotated[str | None, Field(max_length=1024, description="Not supported.")] = None
    secret: Annotated[str | None, Field(max_length=1024, description="Not supported.")] = None
    refreshToken: Annotated[str | None, Field(max_length=8192, description="Not supported.")] = None
    refreshTokenEndpoint: Annotated[str | None, Field(max_length=2048, description="Not supported.")] = None


class QosRequest(CamaraBody):
    """What sessions and bookings have in common."""

    device: Annotated[Device | None, Field(description="The device; required here.")] = None
    applicationServer: Annotated[ApplicationServer | None, Field(description="Its peer.")] = None
    devicePorts: Annotated[PortsSpec | None, Field(description="Ports of the device; left out: all.")] = None
    applicationServerPorts: Annotated[PortsSpec | None, Field(description="Ports of the server; left out: all.")] = None
    qosProfile: ProfileName
    sink: Annotated[
        str | None,
        Field(pattern=HTTPS_URL, max_length=2048, description="Where events go; its host must be allowed.",
              examples=["https://endpoint.example.com/sink"]),
    ] = None
    sinkCredential: Annotated[SinkCredential | None, Field(description="Never repeated in an answer.")] = None
    duration: Seconds


class CreateSession(QosRequest):
    """A request for a session."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{
        "device": {"ipv4Address": {"publicAddress": "10.0.0.1", "privateAddress": "10.0.0.1"}},
        "applicationServer": {"ipv4Address": "10.0.0.3"},
        "applicationServerPorts": {"ports": [5060]},
        "qosProfile": "QOS_M",
        "duration": 3600,
    }]})  # fmt: skip

    applicationServer: Annotated[ApplicationServer, Field(description="Its peer.")]


class Point(CamaraBody):
    """A place on the earth."""

    latitude: Annotated[float, Field(ge=-90, le=90, description="In degrees."), NUMBER]
    longitude: Annotated[float, Field(ge=-180, le=180, description="In degrees."), NUMBER]


class Area(CamaraBody):
    """Where a booking holds; here the whole map, by its name."""

    areaType: Annotated[Literal["CIRCLE", "POLYGON", "AREANAME"], Field(description="AREANAME.")]
    areaName: Annotated[str | None, Field(max_length=256, description="The name of the map.")] = None
    center: Annotated[Point | None, Field(description="Not supported.")] = None
    radius: Annotated[float | None, Field(ge=1, le=1e9, description="Not supported."), NUMBER] = None
    boundary: Annotated[list[Point] | None, Field(min_length=3, max_length=15, description="Not supported.")] = None


class CreateBooking(QosRequest):
    """A request for a booking."""

    startTime: Annotated[Timestamp, Field(description="When it becomes active.")]
    serviceArea: Annotated[Area, Field(description="Where it holds.")]


class ExtendSessionDuration(CamaraBody):
    """A request for a longer session."""

    requestedAdditionalDuration: Seconds


class RetrieveByDevice(CamaraBody):
    """A question about a device."""

    device: Annotated[Device | None, Field(description="The device; required here.")] = None


class RetrieveProfiles(RetrieveByDevice):
    """A question about profiles; all are offered to every device."""

    name: Annotated[ProfileName | None, Field(description="Only the one with this name.")] = None
    status: Annotated[ProfileStatus | None, Field(description="Only those with this status.")] = None


class SessionInfo(ResponseBody):
    """A session; what is null is left out."""

    sessionId: Annotated[str, Field(description="The id of the session (a UUID).")]
    device: Annotated[dict[str, Any] | None, Field(description="The device, as given.")] = None
    applicationServer: Annotated[dict[str, Any], Field(description="The server, as given.")]
    devicePorts: Annotated[dict[str, Any] | None, Field(description="As given.")] = None
    applicationServerPorts: Annotated[dict[str, Any] | None, Field(description="As given.")] = None
    qosProfile: ProfileName
    sink: Annotated[str | None, Field(description="Where events go.")] = None
    duration: Annotated[int, Field(description="In seconds; of a session that has ended, how long it lasted.")]
    startedAt: Annotated[datetime | None, Field(description="When it became available.")] = None
    expiresAt: Annotated[datetime | None, Field(description="When it ends or has ended.")] = None
    qosStatus: Annotated[Literal["REQUESTED", "AVAILABLE", "UNAVAILABLE"], Field(description="Its status.")]
    statusInfo: Annotated[
        Literal["DURATION_EXPIRED", "NETWORK_TERMINATED", "DELETE_REQUESTED"] | None,
        Field(description="Why it is unavailable."),
    ] = None


class BookingInfo(ResponseBody):
    """A booking; what is null is left out."""

    bookingId: Annotated[str, Field(description="The id of the booking (a UUID).")]
    device: Annotated[dict[str, Any] | None, Field(description="The device, as given.")] = None
    applicationServer: Annotated[dict[str, Any] | None, Field(description="The server, as given.")] = None
    devicePorts: Annotated[dict[str, Any] | None, Field(description="As given.")] = None
    applicationServerPorts: Annotated[dict[str, Any] | None, Field(description="As given.")] = None
    qosProfile: ProfileName
    sink: Annotated[str | None, Field(description="Where events go.")] = None
    startTime: Annotated[datetime, Field(description="When it becomes active.")]
    duration: Annotated[int, Field(description="In seconds.")]
    serviceArea: Annotated[dict[str, Any], Field(description="As given.")]
    startedAt: Annotated[datetime | None, Field(description="When it became active.")] = None
    status: Annotated[
        Literal["REQUESTED", "SCHEDULED", "AVAILABLE", "UNAVAILABLE"], Field(description="Its status.")
    ]
    statusInfo: Annotated[
        Literal["DURATION_EXPIRED", "NETWORK_TERMINATED", "DELETE_REQUESTED"] | None,
        Field(description="Why it is unavailable; left out where it was declined."),
    ] = None


def _require_one(body: CamaraBody) -> None:
    if not body.model_fields_set:
        raise InvalidFields([("", f"it needs one of {', '.join(type(body).model_fields)}")])
