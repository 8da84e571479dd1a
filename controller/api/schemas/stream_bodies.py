"""Bodies of /v1/streams, with the names of IEEE 802.1Q-2022 clause 46 (802.1Qcc). Times are in ns."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from controller.api.schemas.fields import NUMBER, InvalidFields, LeaseSeconds, StrictBody
from controller.api.schemas.patterns import IPV4, MAC_ADDRESS
from controller.api.schemas.reservation_responses import ResponseBody
from controller.domain.network import Network, Node
from controller.domain.reservation import Match
from controller.errors import InvalidRequest
from controller.tsn.network import NS_PER_S
from controller.tsn.requests import StreamRequest, TimeAware

SELECTIONS = ("strict priority", "credit-based shaper")
"""By their number. Source: IEEE 802.1Q-2022 Table 8-6."""
PROTOCOLS: dict[int, Literal["tcp", "udp"]] = {6: "tcp", 17: "udp"}

Nanoseconds = Annotated[int, Field(ge=0, le=60 * NS_PER_S), NUMBER]
MacAddressText = Annotated[
    str, Field(pattern=MAC_ADDRESS, description="Six bytes in hexadecimal.", examples=["02-00-00-00-00-01"])
]
PortNumber = Annotated[int, Field(ge=1, le=65535, description="UDP or TCP port.", examples=[7800]), NUMBER]
RankNumber = Annotated[
    int, Field(ge=0, le=1, description="0: emergency; it is served first after failures. 1: usual."), NUMBER
]


class StreamIdBody(StrictBody):
    """The identity of a stream (§46.2.3.1)."""

    MacAddress: MacAddressText
    UniqueID: Annotated[
        int, Field(ge=0, le=65535, description="Distinguishes the streams of a talker.", examples=[1]), NUMBER
    ]

    @property
    def text(self) -> str:
        """As the standard writes it: 02-00-00-00-00-01:00-01."""
        return f"{self.MacAddress.upper().replace(':', '-')}:{self.UniqueID >> 8:02X}-{self.UniqueID & 255:02X}"


class InterfaceIdBody(StrictBody):
    """An interface of an end station (§46.2.3.3): one of the two names it."""

    MacAddress: Annotated[str | None, Field(pattern=MAC_ADDRESS, description="The address of a host.")] = None
    InterfaceName: Annotated[
        str | None, Field(max_length=64, description="A host, or its interface.", examples=["edge1-eth1"])
    ] = None


class Ipv4TupleBody(StrictBody):
    """IPv4-tuple (§46.2.3.4.3): what the frames of the stream are recognised by."""

    SourceIpAddress: Annotated[
        str | None, Field(pattern=IPV4, description="The address of the talker; may be left out.")
    ] = None
    DestinationIpAddress: Annotated[
        str | None, Field(pattern=IPV4, description="The address of the listener; may be left out.")
    ] = None
    Protocol: Annotated[Literal[6, 17], Field(description="17: UDP, 6: TCP.", examples=[17]), NUMBER]
    SourcePort: PortNumber
    DestinationPort: PortNumber


class DataFrameSpecificationBody(StrictBody):
    """How the network recognises frames of the stream (§46.2.3.4); switches here match IPv4 alone."""

    IPv4Tuple: Annotated[Ipv4TupleBody, Field(alias="IPv4-tuple", description="Addresses, protocol and ports.")]


class IntervalBody(StrictBody):
    """A rational number of seconds; a whole number of ns."""

    Numerator: Annotated[int, Field(ge=1, le=2**32 - 1, description="Of the fraction of a second."), NUMBER]
    Denominator: Annotated[int, Field(ge=1, le=2**32 - 1, description="Of the fraction of a second."), NUMBER]

    @property
    def ns(self) -> int | None:
        """The interval in ns; None if that is no whole number."""
        whole, rest = divmod(self.Numerator * NS_PER_S, self.Denominator)
        return None if rest else whole


class TimeAwareBody(StrictBody):
    """When a synchronized talker can send (§46.2.3.5.5), after the begin of each interval."""

    EarliestTransmitOffset: Annotated[Nanoseconds, Field(description="The earliest instant for a frame.")]
    LatestTransmitOffset: Annotated[Nanoseconds, Field(description="The latest instant for a frame.")]
    Jitter: Annotated[
        Nanoseconds, Field(description="Most by which a frame leaves earlier or later than the instant it is given.")
    ] = 0


class TrafficSpecificationBody(StrictBody):
    """What the talker sends (§46.2.3.5)."""

    Interval: Annotated[IntervalBody, Field(description="In each interval at most the frames below are sent.")]
    MaxFramesPerInterval: Annotated[int, Field(ge=1, le=64, description="Frames of an interval."), NUMBER]
    MaxFrameSize: Annotated[
        int, Field(ge=1, le=9000, description="Bytes of a frame without Ethernet header, VLAN tag and FCS."), NUMBER
    ]
    TransmissionSelection: Annotated[
        Literal[0, 1] | None,
        Field(description="How the talker's port selects frames: 0, strict priority; 1, credit-based shaper."),
        NUMBER,
    ] = None
    TSpecTimeAware: Annotated[
        TimeAwareBody | None, Field(description="The talker can send at given instants: it gets a schedule.")
    ] = None


class RequirementsBody(StrictBody):
    """What the stream requires (§46.2.3.6)."""

    NumSeamlessTrees: Annotated[
        Literal[1, 2],
        Field(description="2: every packet takes two paths without a common link; the listener drops the second copy."),
        NUMBER,
    ] = 1
    MaxLatency: Annotated[
        Nanoseconds, Field(description="Largest latency of a frame from talker to listener; 0: no limit.")
    ] = 0


class StreamRankBody(StrictBody):
    """Importance of a stream (§46.2.3.2)."""

    Rank: RankNumber = 1


class TalkerBody(StrictBody):
    """The talker and its traffic (§46.2.3)."""

    StreamRank: Annotated[StreamRankBody, Field(description="Importance of the stream.")] = StreamRankBody()
    EndStationInterfaces: Annotated[
        list[InterfaceIdBody], Field(min_length=1, max_length=1, description="The host that sends.")
    ]
    DataFrameSpecification: Annotated[
        DataFrameSpecificationBody, Field(description="How the network recognises frames of the stream.")
    ]
    TrafficSpecification: Annotated[TrafficSpecificationBody, Field(description="What the talker sends.")]
    UserToNetworkRequirements: Annotated[
        RequirementsBody, Field(description="Requirements of the talker.")
    ] = RequirementsBody()


class ListenerBody(StrictBody):
    """A listener (§46.2.4)."""

    EndStationInterfaces: Annotated[
        list[InterfaceIdBody], Field(min_length=1, max_length=1, description="The host that receives.")
    ]
    UserToNetworkRequirements: Annotated[
        RequirementsBody, Field(description="Requirements of the listener; the smaller latency holds.")
    ] = RequirementsBody()


class StreamBody(StrictBody):
    """A request for a stream: reservations here are unicast, so it has one listener."""

    StreamID: Annotated[StreamIdBody, Field(description="The identity of the stream, unique on the map.")]
    Talker: Annotated[TalkerBody, Field(description="The host that sends, and what it sends.")]
    Listeners: Annotated[list[ListenerBody], Field(min_length=1, max_length=1, description="The one listener.")]
    lease_s: Annotated[
        LeaseSeconds,
        Field(description="Not of the standard: how long the reservation lives; PATCH /v1/reservations renews it."),
    ] = 86_400

    @model_validator(mode="after")
    def _check_times(self) -> Self:
        traffic, mistakes = self.Talker.TrafficSpecification, []
        place, ns = "Talker.TrafficSpecification", traffic.Interval.ns
        if ns is None or not 1000 <= ns <= 60 * NS_PER_S:
            mistakes.append((f"{place}.Interval", "it must be a whole number of ns, from 1000 to 60000000000"))
        aware = traffic.TSpecTimeAware
        if ns is not None and aware is not None:
            if not aware.EarliestTransmitOffset <= aware.LatestTransmitOffset < ns:
                sentence = f"LatestTransmitOffset must be from EarliestTransmitOffset to {ns - 1}, within the interval"
                mistakes.append((f"{place}.TSpecTimeAware", sentence))
            if 2 * aware.Jitter >= ns:
                mistakes.append((f"{place}.TSpecTimeAware.Jitter", "it must be less than half of the interval"))
        requirements = self.Talker.UserToNetworkRequirements, self.Listeners[0].UserToNetworkRequirements
        if aware is not None and any(limits.NumSeamlessTrees > 1 for limits in requirements):
            sentence = "a schedule has one path; give 1, or leave TSpecTimeAware out"
            mistakes.append(("Talker.UserToNetworkRequirements.NumSeamlessTrees", sentence))
        if mistakes:
            raise InvalidFields(mistakes)
        return self

    def to_request(self, network: Network) -> StreamRequest:
        """Convert to the domain object.

        Raises: InvalidRequest if an end station is no host of the map, or an address is not its own.
        """
        mistakes: list[dict[str, str]] = []
        talker = _host(network, self.Talker.EndStationInterfaces[0], "Talker", mistakes)
        listener = _host(network, self.Listeners[0].EndStationInterfaces[0], "Listeners.0", mistakes)
        tuple_ = self.Talker.DataFrameSpecification.IPv4Tuple
        for name, address, host in (
            ("SourceIpAddress", tuple_.SourceIpAddress, talker),
            ("DestinationIpAddress", tuple_.DestinationIpAddress, listener),
        ):
            if host is not None and address is not None and address != host.ip:
                place = f"body.Talker.DataFrameSpecification.IPv4-tuple.{name}"
                mistakes.append({"place": place, "message": f"the address of {host.name} is {host.ip}"})
        if talker is not None and talker is listener:
            mistakes.append({"place": "body.Listeners.0", "message": f"talker and listener are both {talker.name}"})
        if talker is not None:
            mistakes += self._shaper_mistakes(network, talker)
        if mistakes or talker is None or listener is None:
            first = mistakes[0]
            raise InvalidRequest(f"The request is not valid: {first['place']}: {first['message']}.", mistakes=mistakes)
        traffic, aware = self.Talker.TrafficSpecification, self.Talker.TrafficSpecification.TSpecTimeAware
        limits_ns = [
            limits.MaxLatency
            for limits in (self.Talker.UserToNetworkRequirements, self.Listeners[0].UserToNetworkRequirements)
            if limits.MaxLatency
        ]
        return StreamRequest(
            self.StreamID.text,
            talker.name,
            listener.name,
            Match(PROTOCOLS[tuple_.Protocol], tuple_.SourcePort, tuple_.DestinationPort),
            traffic.Interval.ns or 0,
            traffic.MaxFramesPerInterval,
            traffic.MaxFrameSize,
            self.Talker.StreamRank.Rank,
            min(limits_ns, default=0),
            None if aware is None else TimeAware(
                aware.EarliestTransmitOffset, aware.LatestTransmitOffset, aware.Jitter
            ),
            max(self.Talker.UserToNetworkRequirements.NumSeamlessTrees,
                self.Listeners[0].UserToNetworkRequirements.NumSeamlessTrees),
        )  # fmt: skip

    def _shaper_mistakes(self, network: Network, talker: Node) -> list[dict[str, str]]:
        """Return what does not fit to the shapers of the map's ports."""
        traffic, place, mistakes = self.Talker.TrafficSpecification, "body.Talker.TrafficSpecification", []
        selection = int(network.links_from(talker.name)[0].idle_slope_bps is not None)
        if traffic.TransmissionSelection not in (None, selection):
            message = f"the port of {talker.name} selects frames by {selection} ({SELECTIONS[selection]})"
            mistakes.append({"place": f"{place}.TransmissionSelection", "message": message})
        if traffic.TSpecTimeAware is not None and network.has_shapers:
            message = "ports of this map have shapers; a schedule needs strict priority alone: leave it out"
            mistakes.append({"place": f"{place}.TSpecTimeAware", "message": message})
        return mistakes


def _host(
    network: Network, interface: InterfaceIdBody, place: str, mistakes: list[dict[str, str]]
) -> Node | None:
    """Return the host with this interface."""
    address = (interface.MacAddress or "").lower().replace("-", ":")
    name = interface.InterfaceName or ""
    for host in network.hosts:
        has_name = name in (host.name, f"{host.name}-eth1")
        if (has_name or not name) and (address == host.mac or not address) and (name or address):
            return host
    hosts = ", ".join(f"{host.name} ({host.mac})" for host in network.hosts[:20])
    mistakes.append(
        {"place": f"body.{place}.EndStationInterfaces.0", "message": f"it must be an interface of a host: {hosts}"}
    )
    return None


STATUS: dict[str, Any] = {
    "StreamID": "02-00-00-00-00-01:00-01",
    "StatusInfo": {"TalkerStatus": "Ready", "ListenerStatus": "Ready", "FailureCode": 0},
    "AccumulatedLatency": 2_074_100,
    "InterfaceConfiguration": [
        {
            "InterfaceID": {"MacAddress": "00:00:00:00:00:01", "InterfaceName": "edge1-eth1"},
            "TimeAwareOffset": 0,
            "TimeAwareOffsets": [0],
        }
    ],
    "FailedInterfaces": [],
    "FallbackLatency": 4_462_600,
    "scheduled": True,
    "reservation": "r-4f1c09ab",
    "expires_at": "2026-01-02T00:00:00Z",
}
GATES: dict[str, Any] = {
    "streams": [
        {
            "stream": "02-00-00-00-00-01:00-01",
            "talker": "edge1",
            "listeners": ["cloud"],
            "frame_bytes": 242,
            "interval_ns": 20_000_000,
            "max_latency_ns": 20_000_000,
            "jitter_ns": 0,
            "latency_ns": {"cloud": 2_074_100},
            "frames": [{"time_aware_offset_ns": 0, "queues": {"edge1->s1": 7, "s1->s2": 7, "s2->cloud": 7}}],
        }
    ],
    "nodes": {"s1": {"ietf-interfaces:interfaces": {"interface": []}}},
    "taprio": ["tc qdisc replace dev s1-eth2 parent root handle 100 taprio num_tc 8 map 0 1 2 3 4 5 6 7 …"],
}


class StatusInfoBody(ResponseBody):
    """The state of a stream (§46.2.5.1)."""

    TalkerStatus: Annotated[Literal["None", "Ready", "Failed"], Field(description="Whether the talker can send.")]
    ListenerStatus: Annotated[
        Literal["None", "Ready", "PartialFailed", "Failed"], Field(description="Whether the listener can receive.")
    ]
    FailureCode: Annotated[int, Field(description="IEEE 802.1Q-2022 Table 46-15; 0: no failure.")]


class InterfaceIdAnswer(ResponseBody):
    """An interface."""

    MacAddress: Annotated[str | None, Field(description="Of a host; null: of a switch.")]
    InterfaceName: Annotated[str, Field(description="Its name.")]


class InterfaceConfigurationBody(ResponseBody):
    """How the talker has to send (§46.2.5.3)."""

    InterfaceID: Annotated[InterfaceIdAnswer, Field(description="The interface of the talker.")]
    TimeAwareOffset: Annotated[
        int | None,
        Field(description="When to send the first frame, in ns after the begin of an interval; null: any time."),
    ]
    TimeAwareOffsets: Annotated[
        list[int], Field(description="Not of the standard: the same for every frame of an interval, in their order.")
    ]


class StreamStatus(ResponseBody):
    """A stream as the network keeps it."""

    model_config = ConfigDict(json_schema_extra={"examples": [STATUS]})

    StreamID: Annotated[str, Field(description="As the standard writes it.", examples=["02-00-00-00-00-01:00-01"])]
    StatusInfo: Annotated[StatusInfoBody, Field(description="Whether it is ready, or why not.")]
    AccumulatedLatency: Annotated[
        int, Field(description="The worst latency in ns: of the schedule if there is one, else of the reservation.")
    ]
    InterfaceConfiguration: Annotated[
        list[InterfaceConfigurationBody], Field(description="How the talker has to send.")
    ]
    FailedInterfaces: Annotated[list[InterfaceIdAnswer], Field(description="Ports that fail the stream.")]
    FallbackLatency: Annotated[
        int,
        Field(description="Not of the standard: the proven worst latency in ns without the schedule, metered and with "
              "strict priority."),
    ]  # fmt: skip
    scheduled: Annotated[bool, Field(description="Not of the standard: its frames have windows in the gate lists.")]
    reservation: Annotated[str, Field(description="Not of the standard: the reservation that carries it.")]
    expires_at: Annotated[datetime, Field(description="Not of the standard: when the lease of the reservation ends.")]


class StreamList(ResponseBody):
    """Streams in the order of their ids."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"streams": [STATUS]}]})

    streams: Annotated[list[StreamStatus], Field(description="Those of the tenant; operators see all.")]


class GateSchedule(ResponseBody):
    """The gate control lists of all time-aware streams: computed and exported, not run by the switches here."""

    model_config = ConfigDict(json_schema_extra={"examples": [GATES]})

    streams: Annotated[list[dict[str, Any]], Field(description="Streams with the instants and queues of their frames.")]
    nodes: Annotated[
        dict[str, Any], Field(description="By node, its interfaces with the names of ieee802-dot1q-sched (RFC 7951).")
    ]
    taprio: Annotated[list[str], Field(description="A tc command for every port.")]
