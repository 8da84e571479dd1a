"""The bursts of reserved flows' meters: what a source may send at once, and what the port of its host may add to it.

Datagrams that wait at their host's port behind the bursts of the host's other flows arrive at the meter closer together
than they were sent. So a meter holds b + r A, where its *allowance* A covers the variation of the delay up to it. The
delay of a port grows with every flow that a host gets. A meter is therefore given *room*: the delay of the port up to
which it suffices. When a change makes a port slower than that, the meter grows with the same decision. The room of a
flow never becomes less while its reservation has it, so that no sequence of changes adds tokens.

docs/guarantees.md, "The port of the sender", has the proof.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import field, replace
from math import ceil, inf

from immutables import Map

from controller.booking.peak_load import ALWAYS
from controller.calculus.busy_period import CrossFlow, Unstable, considers_activities, server_delay
from controller.calculus.curves import Server
from controller.calculus.failure_bounds import CarriedFlow, FlowKey
from controller.calculus.ports import Calibration, ports_of
from controller.domain.frozen import frozen
from controller.domain.network import Network
from controller.domain.path import link_names

HEADROOM_SHARE, MAX_HEADROOM_SHARE, FEW_FLOWS = 1 / 16, 1 / 4, 64
"""Room beyond the delay of the port, so that meters grow seldom: of what bursts contribute to the delay, this share
times the capacity over the reserved rates. Where all flows get theirs at one time, it costs that share behind the port,
because what meters let through at once grows with the rates: light flows may have much room. The share grows in
proportion to the flows where these are more than a few, up to the greatest: growing is work for each of them."""

MAX_INSTALLED_ROOM = 4
"""The most room of a meter that is taken over as it is installed, in relation to what a meter of its port gets now."""

GROWTH_MARGIN_US = 4000.0
"""Further room of a meter that grows in use: at least the tokens that its change may lose (`meter_tokens`)."""


@frozen
class SourcePort:
    """The port of a host: the flows that it sends, with their meters, and the room of each meter.

    Flows that have ended or were reduced have no room: they send nothing, and their meters do not grow.
    `least_room_us`: at most the least room.
    """

    flows: Map[FlowKey, CarriedFlow] = Map()
    room_us: Map[FlowKey, float] = Map()
    least_room_us: float = inf
    burst_bytes: int = 0
    rate_bps: int = 0
    intermittent: int = 0

    def with_flow(self, key: FlowKey, flow: CarriedFlow, sign: int = 1) -> SourcePort:
        """Return the port with a flow, or with sign -1 without it."""
        return SourcePort(
            self.flows.set(key, flow) if sign > 0 else self.flows.delete(key),
            self.room_us if sign > 0 or key not in self.room_us else self.room_us.delete(key),
            self.least_room_us,
            self.burst_bytes + sign * flow.burst_bytes,
            self.rate_bps + sign * flow.rate_bps,
            self.intermittent + sign * (flow.activity != ALWAYS),
        )

    def delay_us(self, server: Server, clock_us: float) -> float:
        """Return the delay bound of the port."""
        if considers_activities(self.intermittent, self.rate_bps, server):
            flows = [
                CrossFlow(flow.activity, "", None, flow.burst_bytes * 8.0, flow.rate_bps, 0.0)
                for flow in self.flows.values()
            ]
            try:
                return server_delay(server, flows, clock_us).delay_us
            except Unstable:
                pass  # at some moment, so that no finite bound will be proven
        return server.latency_us + self.burst_bytes * 8 / server.rate_bps * 1e6

    def target_room_us(self, server: Server, delay_us: float, frame_bytes: int) -> float:
        """Return the room that a meter gets at this delay of the port.

        A flow alone gets no larger a meter than its burst and the whole variation of the port's delay.
        """
        waiting_us = delay_us - server.latency_us
        share = min(MAX_HEADROOM_SHARE, HEADROOM_SHARE * max(1.0, len(self.flows) / FEW_FLOWS))
        headroom_us = waiting_us * share * server.rate_bps / max(1, self.rate_bps)
        if len(self.flows) == 1:
            headroom_us = min(headroom_us, max(0, self.burst_bytes - frame_bytes) * 8 / server.rate_bps * 1e6)
        return delay_us + headroom_us


@frozen
class Former:
    """Where a flow came from before the change in progress, and the room of its meter."""

    link: str
    room_us: float


_Question = tuple[Mapping[FlowKey, CarriedFlow], Mapping[FlowKey, Former]]


@frozen
class SourcePorts:
    """The ports of all hosts. Immutable: changed copies share what is unchanged."""

    network: Network
    calibration: Calibration
    ports: Map[str, SourcePort] = Map()
    """By the host's link."""
    _links: Map[FlowKey, str] = Map()
    _answers: list[tuple[_Question, tuple[SourcePorts, dict[FlowKey, CarriedFlow]]]] = field(
        default_factory=list, compare=False
    )
    """The last answer of `with_flows`, until it is asked again: what a decision has examined is then added."""

    def meter_burst_bytes(self, key: FlowKey) -> int | None:
        """Return the burst of a flow's meter; None if no meter is known."""
        link = self._links.get(key)
        return None if link is None else self.ports[link].flows[key].meter_burst_bytes

    def former(self, keys: Iterable[FlowKey]) -> dict[FlowKey, Former]:
        """Return these flows, where they have a meter with room."""
        known = {}
        for key in keys:
            link = self._links.get(key)
            if link is not None and (room_us := self.ports[link].room_us.get(key)) is not None:
                known[key] = Former(link, room_us)
        return known

    def without(self, keys: Iterable[FlowKey]) -> SourcePorts:
        """Return the ports without these flows."""
        ports, links = self.ports, self._links
        for key in keys:
            link = links.get(key)
            if link is not None:
                port, links = ports[link], links.delete(key)
                port = port.with_flow(key, port.flows[key], -1)
                ports = ports.set(link, port) if port.flows else ports.delete(link)
        return SourcePorts(self.network, self.calibration, ports, links)

    def with_ended(self, flows: Mapping[FlowKey, CarriedFlow]) -> tuple[SourcePorts, dict[FlowKey, CarriedFlow]]:
        """Return the ports with flows that send no more, but whose packets may wait there; and what has changed."""
        return self._with(flows, {}, has_ended=True)

    def with_flows(
        self, flows: Mapping[FlowKey, CarriedFlow], former: Mapping[FlowKey, Former]
    ) -> tuple[SourcePorts, dict[FlowKey, CarriedFlow]]:
        """Return the ports with these flows; and these flows, and all whose meters have grown, with their meters."""
        last = self._answers[:1]  # other threads may ask at the same time
        self._answers.clear()
        for question, known in last:
            if question == (flows, former):
                return known
        answer = self._with(flows, former)
        self._answers.append(((flows, former), answer))
        return answer

    def has_more_room_than(self, earlier: SourcePorts) -> bool:
        """Whether meters of a port have grown since."""
        ports = ((port, earlier.ports.get(link)) for link, port in self.ports.items())
        return any(before is not None and port.least_room_us > before.least_room_us for port, before in ports)

    def afresh(self) -> tuple[SourcePorts, dict[FlowKey, CarriedFlow]]:
        """Return the ports and flows with the least meters that suffice, without room: installed ones may have more."""
        flows = {key: self.ports[link].flows[key] for key, link in self._links.items() if self._has_room(key, link)}
        return self.without(flows)._with(flows, {}, has_room=False)

    def with_installed(self, bursts: Mapping[FlowKey, int]) -> tuple[SourcePorts, dict[FlowKey, CarriedFlow]]:
        """Return the ports with bursts of meters as another controller has installed them; and the flows that differ.

        Only of meters that suffice, and have no more room than that controller may have given.
        """
        differing: dict[str, dict[FlowKey, int]] = {}
        for key, burst_bytes in bursts.items():
            link = self._links.get(key)
            if link is None or not self._has_room(key, link):
                continue
            if self.ports[link].flows[key].meter_burst_bytes != burst_bytes:
                differing.setdefault(link, {})[key] = burst_bytes
        ports, metered = self.ports, dict[FlowKey, CarriedFlow]()
        for link, found in differing.items():
            port, server = ports[link], ports_of(self.network, self.calibration)[link]
            delay_us = port.delay_us(server, self.calibration.clock_us)
            target_us = port.target_room_us(server, delay_us, self.network.max_frame_bytes)
            limits_us = delay_us, MAX_INSTALLED_ROOM * target_us + GROWTH_MARGIN_US
            changed = {}
            for key, burst_bytes in found.items():
                least, most = (self._meter_bytes(port.flows[key], server, each) for each in limits_us)
                if least <= burst_bytes <= most:
                    changed[key] = replace(port.flows[key], meter_burst_bytes=burst_bytes)
            rooms = {key: self._room_us(flow, server, found[key]) for key, flow in changed.items()}
            ports = ports.set(link, _with_rooms(port, rooms, changed, delay_us))
            metered |= changed
        return SourcePorts(self.network, self.calibration, ports, self._links), metered

    def _room_us(self, flow: CarriedFlow, server: Server, meter_bytes: int) -> float:
        """Return the room of a flow's meter with that burst."""
        beyond_frame_bytes = max(0, flow.burst_bytes - self.network.max_frame_bytes)
        allowance_us = (meter_bytes - flow.burst_bytes) * 8 / flow.rate_bps * 1e6
        variation_us = allowance_us - self.calibration.switch_variation_us
        return variation_us + beyond_frame_bytes * 8 / server.rate_bps * 1e6 + server.min_delay_us

    def _has_room(self, key: FlowKey, link: str) -> bool:
        return key in self.ports[link].room_us

    def _with(
        self,
        flows: Mapping[FlowKey, CarriedFlow],
        former: Mapping[FlowKey, Former],
        *,
        has_ended: bool = False,
        has_room: bool = True,
    ) -> tuple[SourcePorts, dict[FlowKey, CarriedFlow]]:
        known_keys = [key for key in flows if key in self._links]
        rest = self.without(known_keys) if known_keys else self
        by_link: dict[str, dict[FlowKey, CarriedFlow]] = {}
        for key, flow in flows.items():
            by_link.setdefault(_link(flow), {})[key] = flow
        ports, links, metered = rest.ports, rest._links, dict(flows)
        for link, added in by_link.items():
            port = ports.get(link) or SourcePort()
            for key, flow in added.items():
                port, links = port.with_flow(key, flow), links.set(key, link)
            server = ports_of(self.network, self.calibration)[link]
            delay_us = port.delay_us(server, self.calibration.clock_us)
            target_us = port.target_room_us(server, delay_us, self.network.max_frame_bytes)
            rooms, new_us = {}, target_us if has_room else delay_us
            if delay_us > port.least_room_us:  # all grow together, and then none for a while
                grown_us = target_us + GROWTH_MARGIN_US
                rooms = {key: grown_us for key, room_us in port.room_us.items() if room_us < grown_us}
            elif port.room_us:
                new_us = min(port.least_room_us, target_us)
            for key in () if has_ended else added:
                known = former.get(key)
                is_kept = known is not None and known.link == link and known.room_us >= delay_us
                rooms[key] = known.room_us if known is not None and is_kept else new_us
            changed = {key: self._metered(port.flows[key], server, room_us) for key, room_us in rooms.items()}
            ports = ports.set(link, _with_rooms(port, rooms, changed, delay_us))
            metered |= changed
        return SourcePorts(self.network, self.calibration, ports, links), metered

    def _metered(self, flow: CarriedFlow, server: Server, room_us: float) -> CarriedFlow:
        """Return the flow with a meter of that room."""
        facts = flow.route, flow.rate_bps, flow.burst_bytes, flow.activity, flow.has_limit, flow.by_programmes
        return CarriedFlow(*facts, self._meter_bytes(flow, server, room_us))

    def _meter_bytes(self, flow: CarriedFlow, server: Server, room_us: float) -> int:
        """Return the burst of a flow's meter with that room."""
        calibration, frame_bytes = self.calibration, self.network.max_frame_bytes
        beyond_frame_bytes = max(0, flow.burst_bytes - frame_bytes)  # its own packets delay it only as they came
        variation_us = room_us - beyond_frame_bytes * 8 / server.rate_bps * 1e6 - server.min_delay_us
        allowance_us = max(0.0, variation_us) + calibration.switch_variation_us
        bits = flow.burst_bytes * 8 + flow.rate_bps * allowance_us / 1e6
        tick_bits = flow.rate_bps * calibration.meter_tick_us / 1e6
        if tick_bits and flow.burst_bytes < frame_bytes + 2 * tick_bits / 8:
            bits = tick_bits * ceil(bits / tick_bits)
        return ceil(bits / 1000) * 125 if tick_bits else ceil(bits / 8)


def _with_rooms(
    port: SourcePort, rooms: Mapping[FlowKey, float], changed: Mapping[FlowKey, CarriedFlow], delay_us: float
) -> SourcePort:
    room_us = port.room_us.update(rooms)
    is_known = delay_us <= port.least_room_us
    least_us = min((port.least_room_us, *rooms.values())) if is_known else min(room_us.values(), default=inf)
    totals = port.burst_bytes, port.rate_bps, port.intermittent
    return SourcePort(port.flows.update(changed), room_us, least_us, *totals)


def _link(flow: CarriedFlow) -> str:
    """The link of the flow's host."""
    return link_names(flow.route.path)[0]
