"""Bodies of /v1/detnet: flows in terms of RFC 9633 (DetNet), as RFC 7951 has it: 64-bit numbers are strings."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from controller.api.schemas.detnet_document import EXAMPLE
from controller.api.schemas.fields import NUMBER, InvalidFields, Port, StrictBody
from controller.api.schemas.mistakes import mistakes_of
from controller.api.schemas.patterns import UNSIGNED_64
from controller.api.schemas.requests import ReservationRequest
from controller.api.schemas.reservation_responses import ResponseBody
from controller.domain.names import LONGEST_NAME
from controller.domain.network import ETHERNET_HEADER_BYTES, Network
from controller.errors import InvalidRequest
from controller.service.requests import ReservationSpec

Json = dict[str, Any]

PROTOCOLS: dict[int, Literal["tcp", "udp"]] = {6: "tcp", 17: "udp"}
MIN_FRAME_BYTES, NS_PER_S = 60, 1_000_000_000
PLACE = "body.ietf-detnet:detnet.app-flows.app-flow"
NO_PROFILE = "what it names is no traffic-profile"

Uint32 = Annotated[int, Field(ge=0, le=2**32 - 1), NUMBER]
FlowName = Annotated[str, Field(min_length=1, max_length=2 * LONGEST_NAME, description="Its name, unique.")]
Prefix = Annotated[str, Field(max_length=18, description="The address of a host: IPv4, of 32 bits.")]


class TrafficRequirements(StrictBody):
    """What a flow requires (RFC 9016 §5.9); losses and misordering are not promised, so they cannot be required."""

    min_bandwidth: Annotated[
        str | None,
        Field(alias="min-bandwidth", pattern=UNSIGNED_64, description="Octets per second, with Ethernet headers."),
    ] = None
    max_latency: Annotated[Uint32 | None, Field(alias="max-latency", description="In ns, proven.")] = None
    max_latency_variation: Annotated[
        Uint32 | None, Field(alias="max-latency-variation", description="In ns, proven.")
    ] = None


class TrafficSpec(StrictBody):
    """How the source sends (RFC 9016 §5.5)."""

    interval: Annotated[int, Field(ge=1000, le=2**32 - 1, description="In ns."), NUMBER]
    max_packets: Annotated[
        int, Field(alias="max-pkts-per-interval", ge=1, le=65_535, description="Packets of an interval."), NUMBER
    ]
    max_payload: Annotated[
        int, Field(alias="max-payload-size", ge=1, le=9000, description="Bytes of an IP packet at most."), NUMBER
    ]
    min_payload: Annotated[Uint32 | None, Field(alias="min-payload-size", description="Of no effect.")] = None
    min_packets: Annotated[Uint32 | None, Field(alias="min-pkts-per-interval", description="Of no effect.")] = None

    @property
    def frame_bytes(self) -> int:
        """The largest frame on the links."""
        return max(MIN_FRAME_BYTES, self.max_payload + ETHERNET_HEADER_BYTES)


class TrafficProfile(StrictBody):
    """Requirements of flows, and how they send; it needs a bandwidth or a specification."""

    name: FlowName
    requirements: Annotated[
        TrafficRequirements, Field(alias="traffic-requirements", description="What its flows require.")
    ] = TrafficRequirements()
    spec: Annotated[TrafficSpec | None, Field(alias="traffic-spec", description="How its flows send.")] = None
    member_flows: Annotated[tuple[str, ...], Field(alias="member-app-flow", description="State; not read.")] = ()
    members: Annotated[tuple[str, ...], Field(alias="member-svc-sublayer", description="State; not read.")] = ()

    def requirement(self, rank: int, is_seamless: bool) -> Json:
        """As a requirement of a flow (`RequirementBody`)."""
        needs, spec = self.requirements, self.spec
        requirement: Json = {"min_bandwidth_bps": int(needs.min_bandwidth or 0) * 8, "rank": rank}
        if spec is not None:
            burst_bytes = spec.max_packets * spec.frame_bytes
            rate_bps = max(requirement["min_bandwidth_bps"], -(-burst_bytes * 8 * NS_PER_S // spec.interval))
            requirement |= {"min_bandwidth_bps": rate_bps, "burst_bytes": burst_bytes}
            requirement |= {"max_frame_bytes": spec.frame_bytes}
        if needs.max_latency is not None:
            requirement["max_latency_us"] = needs.max_latency / 1000
        if needs.max_latency_variation is not None:
            requirement["max_latency_variation_us"] = needs.max_latency_variation / 1000
        if is_seamless:
            requirement |= {"protection": "link_disjoint", "backup": "seamless"}
        return requirement


class PortsBody(StrictBody):
    """One port, or a range of them (RFC 8519, port-range-or-operator)."""

    operator: Annotated[Literal["eq"], Field(description="Others are not supported.")] = "eq"
    port: Annotated[Port | None, Field(description="The port.")] = None
    lower: Annotated[Port | None, Field(alias="lower-port", description="The first port of a range.")] = None
    upper: Annotated[Port | None, Field(alias="upper-port", description="The last port of a range.")] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        is_range = self.lower is not None and self.upper is not None
        if (self.port is None) is not is_range or (self.lower is None) is not (self.upper is None):
            raise InvalidFields([("", "it needs port, or lower-port and upper-port")])
        if self.lower is not None and self.upper is not None and self.lower > self.upper:
            raise InvalidFields([("", f"from {self.lower} to {self.upper} there is no port")])
        return self

    @property
    def ports(self) -> int | str | None:
        """As a match has them."""
        return self.port if self.lower is None else f"{self.lower}-{self.upper}"


class IpAppFlow(StrictBody):
    """How its packets are recognised; MPLS and TSN flows are not supported."""

    source: Annotated[Prefix, Field(alias="src-ip-prefix")]
    destination: Annotated[Prefix, Field(alias="dest-ip-prefix")]
    protocol: Annotated[
        Literal[6, 17], Field(alias="protocol-next-header", description="17: UDP, 6: TCP."), NUMBER
    ]
    source_port: Annotated[
        PortsBody | None, Field(alias="source-port", description="Left out: any port.")
    ] = None
    destination_port: Annotated[
        PortsBody | None, Field(alias="destination-port", description="Left out: any port.")
    ] = None


class Ingress(StrictBody):
    """Where a flow enters: recognised by its IP header."""

    status: Annotated[str | None, Field(alias="app-flow-status", max_length=40, description="State; not read.")] = None
    flow: Annotated[IpAppFlow, Field(alias="ip-app-flow", description="The IP header of its packets.")]


class AppFlow(StrictBody):
    """A flow of an application."""

    name: FlowName
    is_congruent: Annotated[
        Literal[False], Field(alias="bidir-congruent", description="Congruent paths are not promised.")
    ] = False
    outgoing: Annotated[str | None, Field(alias="outgoing-service", max_length=130, description="State; not read.")] = (
        None
    )
    profile: Annotated[str, Field(alias="traffic-profile", description="The name of its traffic profile.")]
    ingress: Annotated[Ingress, Field(description="Where it enters.")]


class AppFlows(StrictBody):
    """The flows of applications."""

    flows: Annotated[list[AppFlow], Field(alias="app-flow", min_length=1, max_length=64, description="The flows.")]


class FlowNames(StrictBody):
    """References to flows."""

    flow: Annotated[list[str], Field(min_length=1, max_length=64, description="Names of flows.")]


class Incoming(StrictBody):
    """What a service carries: flows of applications."""

    app_flow: Annotated[FlowNames, Field(alias="app-flow", description="Its flows.")]


class ServiceProtection(StrictBody):
    """Whether packets are replicated."""

    protection: Annotated[
        Literal["none", "replication"],
        Field(description="replication: every packet takes two paths without a common link; the receiver eliminates."),
    ] = "none"
    number_length: Annotated[
        Literal["zero-sn"], Field(alias="sequence-number-length", description="Packets are not changed.")
    ] = "zero-sn"


class ServiceSubLayer(StrictBody):
    """Importance and protection of flows; a flow in none has rank 255."""

    name: FlowName
    rank: Annotated[
        int, Field(alias="service-rank", ge=0, le=255, description="0: most important; served first."), NUMBER
    ] = 255
    profile: Annotated[
        str | None, Field(alias="traffic-profile", max_length=130, description="That of its flows; not read.")
    ] = None
    protection: Annotated[
        ServiceProtection, Field(alias="service-protection", description="Whether packets take two paths.")
    ] = ServiceProtection()
    incoming: Annotated[Incoming, Field(description="What it carries.")]


class Service(StrictBody):
    """Services."""

    sub_layers: Annotated[
        tuple[ServiceSubLayer, ...], Field(alias="sub-layer", max_length=64, description="The services.")
    ] = ()


class Detnet(StrictBody):
    """The container of the module, without forwarding sub-layers: paths are chosen here."""

    profiles: Annotated[
        list[TrafficProfile],
        Field(alias="traffic-profile", min_length=1, max_length=64, description="Traffic profiles."),
    ]
    app_flows: Annotated[AppFlows, Field(alias="app-flows", description="Flows of applications.")]
    service: Annotated[Service, Field(description="Importance and protection of the flows.")] = Service()

    @model_validator(mode="after")
    def _check(self) -> Self:
        mistakes, profiles = [], {profile.name: profile for profile in self.profiles}
        for number, profile in enumerate(self.profiles):
            if not int(profile.requirements.min_bandwidth or 0) and profile.spec is None:
                mistakes.append((f"traffic-profile.{number}", "it needs a min-bandwidth above 0, or a traffic-spec"))
        names = {flow.name for flow in self.app_flows.flows}
        for number, flow in enumerate(self.app_flows.flows):
            if flow.profile not in profiles:
                mistakes.append((f"app-flows.app-flow.{number}.traffic-profile", f"{NO_PROFILE}: {flow.profile}"))
        for number, service in enumerate(self.service.sub_layers):
            missing = [name for name in service.incoming.app_flow.flow if name not in names]
            if missing:
                place = f"service.sub-layer.{number}.incoming.app-flow.flow"
                mistakes.append((place, f"there is no app-flow {missing[0]}"))
        if mistakes:
            raise InvalidFields(mistakes)
        return self


class DetnetBody(StrictBody):
    """A request in terms of RFC 9633: all its flows are one reservation, admitted or refused together."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [EXAMPLE]})

    detnet: Annotated[Detnet, Field(alias="ietf-detnet:detnet", description="The container of the module.")]

    def spec(self, network: Network, tenant: str, owner: str, lease_s: float) -> ReservationSpec:
        """Convert to the domain object.

        Raises: InvalidRequest if an address is that of no host, or a flow could not be requested otherwise.
        """
        profiles = {profile.name: profile for profile in self.detnet.profiles}
        services = {
            name: service for service in self.detnet.service.sub_layers for name in service.incoming.app_flow.flow
        }
        mistakes: list[dict[str, str]] = []
        flows = []
        for number, given in enumerate(self.detnet.app_flows.flows):
            place, flow = f"{PLACE}.{number}.ingress.ip-app-flow", given.ingress.flow
            prefixes = {"src-ip-prefix": flow.source, "dest-ip-prefix": flow.destination}
            ends = [_host(network, prefix, f"{place}.{leaf}", mistakes) for leaf, prefix in prefixes.items()]
            service = services.get(given.name)
            rank = 255 if service is None else service.rank
            is_seamless = service is not None and service.protection.protection == "replication"
            ports = [None if end is None else end.ports for end in (flow.source_port, flow.destination_port)]
            match = {"protocol": PROTOCOLS[flow.protocol], "source_port": ports[0], "destination_port": ports[1]}
            requirement = profiles[given.profile].requirement(rank, is_seamless)
            flows.append({"name": given.name.rpartition("/")[2], "source": ends[0], "destination": ends[1],
                          "match": match, "requirement": requirement})  # fmt: skip
        if not mistakes:
            try:
                request = ReservationRequest.model_validate({"owner": owner, "lease_s": lease_s, "flows": flows})
                return request.to_spec(tenant, 0.0)
            except ValidationError as error:
                mistakes = [
                    {**mistake, "place": mistake["place"].replace("flows", PLACE, 1)}
                    for mistake in mistakes_of(error.errors())
                ]
        first = mistakes[0]
        raise InvalidRequest(f"The request is not valid: {first['place']}: {first['message']}.", mistakes=mistakes)


def _host(network: Network, prefix: str, place: str, mistakes: list[dict[str, str]]) -> str:
    try:
        address = ip_network(prefix)
    except ValueError:
        address = None
    for host in network.hosts:
        if address is not None and address.num_addresses == 1 and host.ip == str(address.network_address):
            return host.name
    known = ", ".join(f"{host.ip}/32 ({host.name})" for host in network.hosts[:20])
    mistakes.append({"place": place, "message": f"{prefix} is no host of map {network.name}; its hosts are {known}"})
    return ""


class DetnetDocument(ResponseBody):
    """Flows in terms of RFC 9633, with their state."""

    model_config = ConfigDict(json_schema_extra={"examples": [EXAMPLE]})

    detnet: Annotated[
        dict[str, Any], Field(alias="ietf-detnet:detnet", description="The container of the module (RFC 7951).")
    ]
