"""Requests of CAMARA as reservations: hosts by their addresses, ports, sinks, times. What does not map is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from controller.api.camara.bodies import (
    ApplicationServer,
    Area,
    CreateBooking,
    CreateSession,
    Device,
    PortsSpec,
    QosRequest,
    SinkCredential,
)
from controller.api.camara.errors import CamaraError
from controller.api.camara.profiles import OfferedProfile
from controller.api.schemas.requests import HORIZON_S
from controller.domain.network import Network
from controller.domain.ports import PortRange, Ports
from controller.domain.reservation import Flow
from controller.service.requests import ReservationSpec
from controller.telemetry.sink_delivery import SinkDelivery, sink_of

BOOKING_LEASE_S = 3600.0
"""How long the lease of a booking lasts beyond its end, which ends it."""

_BEARER = re.compile(r"[A-Za-z0-9\-._~+/]+=*")
"""Source: RFC 6750 §2.1."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What the operator offers: the map, the profiles, and the sinks that get events."""

    network: Network
    profiles: Sequence[OfferedProfile]
    delivery: SinkDelivery

    def profile(self, name: str) -> OfferedProfile | None:
        """The profile with that name."""
        return next((profile for profile in self.profiles if profile.name == name), None)


def host_of(network: Network, device: Device | None) -> str:
    """The host that a device is.

    Raises: CamaraError.
    """
    if device is None:
        message = "Name the device: tokens here do not stand for one."
        raise CamaraError(422, "MISSING_IDENTIFIER", message)
    if device.ipv4Address is None:
        message = "A device is found by its ipv4Address; other identifiers are not supported."
        raise CamaraError(422, "UNSUPPORTED_IDENTIFIER", message)
    address = device.ipv4Address.privateAddress or device.ipv4Address.publicAddress
    host = _host_at(network, address)
    if host is None:
        raise CamaraError(404, "IDENTIFIER_NOT_FOUND", f"No host of map {network.name} has the address {address}.")
    return host


def device_json(device: Device) -> dict[str, Any]:
    """The one identifier of a device that is used, as it was given."""
    return device.model_dump(include={"ipv4Address"}, exclude_none=True)


def requested_json(request: QosRequest) -> dict[str, Any]:
    """What is repeated in answers, as it was given."""
    given = request.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"sinkCredential", "device"})
    if request.device is not None:
        given["device"] = device_json(request.device)
    return given


def require_sink(delivery: SinkDelivery, request: QosRequest) -> tuple[str | None, str | None, float | None]:
    """Where the events go, the token for it, and until when that is good.

    Raises: CamaraError.
    """
    credential = request.sinkCredential
    if request.sink is None:
        if credential is not None:
            raise CamaraError(400, "INVALID_CREDENTIAL", "sinkCredential needs a sink.")
        return None, None, None
    sink = sink_of(request.sink)
    if sink is None:
        raise CamaraError(400, "INVALID_SINK", "The sink is not an https URL of a host, without a user name.")
    if sink not in delivery.allowed:
        message = f"The operator does not allow events to {sink[0]}:{sink[1]} (--event-sink)."
        raise CamaraError(400, "INVALID_SINK", message)
    if credential is None:
        return request.sink, None, None
    return request.sink, *_token(credential)


def _token(credential: SinkCredential) -> tuple[str, float]:
    if credential.credentialType != "ACCESSTOKEN":
        message = f"sinkCredential.credentialType is {credential.credentialType}; it must be ACCESSTOKEN."
        raise CamaraError(400, "INVALID_CREDENTIAL", message)
    if (credential.accessTokenType or "").lower() != "bearer":
        raise CamaraError(400, "INVALID_TOKEN", "sinkCredential.accessTokenType must be bearer.")
    if credential.accessToken is None or not _BEARER.fullmatch(credential.accessToken):
        raise CamaraError(400, "INVALID_TOKEN", "sinkCredential.accessToken is not a bearer token (RFC 6750 §2.1).")
    if credential.accessTokenExpiresUtc is None:
        raise CamaraError(400, "INVALID_TOKEN", "sinkCredential.accessTokenExpiresUtc is missing.")
    return credential.accessToken, credential.accessTokenExpiresUtc.timestamp()


def require_profile(offer: Offer, request: QosRequest, prefix: str) -> OfferedProfile:
    """The profile that is asked for, which must allow the duration.

    Raises: CamaraError.
    """
    profile = offer.profile(request.qosProfile)
    if profile is None:
        names = ", ".join(each.name for each in offer.profiles) or "none"
        message = f"There is no QoS profile {request.qosProfile}; there are {names}."
        raise CamaraError(400, "INVALID_ARGUMENT", message)
    if profile.status != "ACTIVE":
        message = f"QoS profile {profile.name} is {profile.status}."
        own_code = f"{prefix}.QOS_PROFILE_NOT_APPLICABLE"  # bookings have it from 0.2 on
        raise CamaraError(422, "SERVICE_NOT_APPLICABLE" if prefix == "QOS_BOOKING" else own_code, message)
    shortest_s, longest_s = profile.duration_range_s
    if not shortest_s <= request.duration <= longest_s:
        allowed = f"QoS profile {profile.name} allows {shortest_s:g} to {longest_s:g} s"
        message = f"The duration is {request.duration} s; {allowed}."
        raise CamaraError(400, f"{prefix}.DURATION_OUT_OF_RANGE", message)
    return profile


def session_spec(offer: Offer, profile: OfferedProfile, request: CreateSession, tenant: str) -> ReservationSpec:
    """A session as a reservation: its lease is its duration.

    Raises: CamaraError.
    """
    flows = _flows(offer.network, profile, request)
    return ReservationSpec("camara-session", tenant, float(request.duration), flows)


def booking_spec(
    offer: Offer, profile: OfferedProfile, request: CreateBooking, tenant: str, now_s: float
) -> ReservationSpec:
    """A booking as a reservation with a start and an end.

    Raises: CamaraError.
    """
    require_area(offer.network, request.serviceArea)
    flows = _flows(offer.network, profile, request)
    start_s = request.startTime.timestamp()
    end_s = start_s + request.duration
    if start_s <= now_s:
        raise CamaraError(400, "OUT_OF_RANGE", f"startTime is {request.startTime.isoformat()}, which has passed.")
    if end_s > now_s + HORIZON_S:
        message = f"The booking ends after the calendar does, {HORIZON_S / 86_400:.0f} days from now."
        raise CamaraError(400, "OUT_OF_RANGE", message)
    lease_s = end_s - now_s + BOOKING_LEASE_S
    return ReservationSpec("camara-booking", tenant, lease_s, flows, start_at_s=start_s, end_at_s=end_s)


def require_area(network: Network, area: Area) -> None:
    """Check that an area is the map.

    Raises: CamaraError.
    """
    if area.areaType != "AREANAME":
        message = f"Areas are named here: areaType AREANAME with areaName {network.name}."
        raise CamaraError(422, "QOS_BOOKING.NOT_MANAGED_AREA_TYPE", message)
    if area.areaName is None:
        raise CamaraError(400, "INVALID_ARGUMENT", "serviceArea.areaName is missing.")
    if area.areaName != network.name:
        raise CamaraError(422, "QOS_BOOKING.AREA_NOT_COVERED", f"The area here is {network.name}.")


def is_of(network: Network, host: str, request: Mapping[str, Any]) -> bool:
    """Whether a session or booking that was requested so is one of this host."""
    return host_of(network, Device.model_validate(request["device"])) == host


def _flows(network: Network, profile: OfferedProfile, request: QosRequest) -> tuple[Flow, ...]:
    device = host_of(network, request.device)
    server = _server_of(network, request.applicationServer)
    if device == server:
        raise CamaraError(422, "SERVICE_NOT_APPLICABLE", f"Device and application server are both {device}.")
    ports = _ports("devicePorts", request.devicePorts), _ports("applicationServerPorts", request.applicationServerPorts)
    return profile.flows(device, server, *ports)


def _server_of(network: Network, server: ApplicationServer | None) -> str:
    if server is None:
        message = "Name the application server: a reservation has two ends."
        raise CamaraError(422, "SERVICE_NOT_APPLICABLE", message)
    if server.ipv4Address is None:
        message = "An application server is found by its ipv4Address; IPv6 is not supported."
        raise CamaraError(422, "SERVICE_NOT_APPLICABLE", message)
    address, _, width = server.ipv4Address.partition("/")
    if width not in ("", "32"):
        message = f"The application server is {server.ipv4Address}; only one address is supported, not a subnet."
        raise CamaraError(422, "SERVICE_NOT_APPLICABLE", message)
    host = _host_at(network, address)
    if host is None:
        message = f"No host of map {network.name} has the address {address} of the application server."
        raise CamaraError(422, "SERVICE_NOT_APPLICABLE", message)
    return host


def _host_at(network: Network, address: str) -> str | None:
    try:
        ip = str(ip_address(address))
    except ValueError as error:
        raise CamaraError(400, "INVALID_ARGUMENT", f"There is no IPv4 address {address}.") from error
    return next((host.name for host in network.hosts if host.ip == ip), None)


def _ports(field: str, given: PortsSpec | None) -> Ports:
    if given is None:
        return None
    ranges = [(port, port) for port in given.ports or []] + [(each.first, each.last) for each in given.ranges or []]
    if len(ranges) > 1:
        message = f"{field} has {len(ranges)} ports and ranges; one port or one range is supported."
        raise CamaraError(400, "INVALID_ARGUMENT", message)
    ((first, last),) = ranges
    if first > last:
        raise CamaraError(400, "INVALID_ARGUMENT", f"{field}: the range from {first} to {last} has no port.")
    return first if first == last else PortRange(first, last)
