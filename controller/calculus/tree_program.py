"""The linear programme of one tree of servers: variables for instants and cumulative arrivals, rows for what bounds
them.

Dates. A server j at depth d (the sink: 0) has d + 2 dates t[j, 0] >= ... >= t[j, d + 1] at its input. Date u <= d of j
is the FIFO image of date u of its successor: what has arrived at j until then is what has left j until the successor's
date. The last date is the start of the busy period of j in which its successor's date d falls. The sink's departure is
instant 0, the image of its date 0. So the level of a flow at date u is the same at all servers on its path: one
variable z[i, u], which counts from its last date.

Rows. With h the successor of j:

    order       t[j, u + 1] <= t[j, u] <= t[h, u] - least delay and transit,  z[i, u + 1] <= z[i, u]
    arrival     z[i, u] - z[i, v] <= b + r (t[j, u] - t[j, v])             u < v, at the first server j of the flow
    shaping     the same for all flows that arrive over one link together, at the link's end
    service     sum of z[i, d] - z[i, d + 1] >= R (t[h, d] - transit - t[j, d + 1] - T) - packet     all flows of j
    delay       t[h, u] - t[j, u] <= D + transit                              if a bound D of the server is known

The burst of flow i behind the sink: what a source that has saved tokens until instant `lead` can have sent, minus what
has left the sink. docs/guarantees.md has the proof that every trajectory of the network satisfies these rows.

Source: Bouillard, "Trade-off between accuracy and tractability of network calculus in FIFO networks", Performance
Evaluation 153 (2022), §4.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf

from controller.calculus.fifo_network import FifoNetwork, TokenBucket
from controller.calculus.forest import Segment
from controller.calculus.linear_program import NO_BURST, Floats, LinearProgram, Majorant, Rows
from controller.calculus.tree import Tree, TreeSegment, reach


class TreeProgram:
    """The programme of a tree, kept in the solver; answers delays and bursts at its sink."""

    def __init__(
        self,
        network: FifoNetwork,
        tree: Tree,
        bursts: int,
        delays_us: Mapping[str, float],
        unshaped: Segment | None = None,
    ) -> None:
        """`bursts`: how many unknown bursts the analysis has. `delays_us`: known delay bounds of servers. `unshaped`: a
        segment that the shaping rows leave out.

        Raises: NoBound if a server is unstable.
        """
        self.network = network
        self.tree = tree
        self.bursts = bursts
        self._unshaped = unshaped
        self.rows = Rows()
        self.is_time: list[bool] = []
        self._time: dict[tuple[str, int], int] = {}
        self._level: list[int] = []
        self._delay_rows: dict[str, list[int]] = {}
        self._sink_rows: list[int] = []
        self._sent: dict[int, int] = {}
        self._numbers = {segment.segment: number for number, segment in enumerate(tree.segments)}
        self._number_columns()
        self._add_order()
        self._add_arrivals()
        self._add_shaping()
        self._add_service()
        self._add_delays()
        self._add_sent()
        self.program = LinearProgram(self.rows, self.is_time, bursts)
        self._reach = reach(network, tree, bursts)
        self.update_delays(delays_us)

    def update_delays(self, delays_us: Mapping[str, float]) -> None:
        """Use these delay bounds of servers; one that is not given keeps what it has."""
        for name, rows in self._delay_rows.items():
            if name in delays_us:
                for row in rows:
                    transit_us = 0.0 if name == self.tree.sink else self.network.servers[name].max_transit_us
                    self.program.constants[row] = delays_us[name] + transit_us

    def number(self, segment: Segment) -> int:
        """Return the number of a segment in the tree."""
        return self._numbers[segment]

    def delay(self, first: str, bursts: Floats, limit_s: float = inf) -> Majorant:
        """Return a bound on the time from the arrival at `first` to the departure from the sink.

        Raises: Unsolved
        """
        self._set_sink_packet(is_departure=True)
        return self.program.maximum(("delay", first), self.delay_cost(first), bursts, self._reach, limit_s)

    def burst(self, segment: int, bursts: Floats, limit_s: float = inf) -> Majorant:
        """Return a bound on the burst of a segment (by its number in the tree) behind the sink and its link.

        Raises: Unsolved
        """
        self._set_sink_packet(is_departure=False)
        return self.program.maximum(("burst", segment), self.burst_cost(segment), bursts, self._reach, limit_s)

    def delay_cost(self, first: str) -> dict[int, float]:
        """Return the objective of a delay, by column."""
        return {self._time[first, 0]: -1.0}

    def burst_cost(self, segment: int) -> dict[int, float]:
        """Return the objective of a burst, by column."""
        return {self._sent[segment]: 1.0, self._level[segment]: -1.0}

    def _set_sink_packet(self, is_departure: bool) -> None:
        """At a departure the sink has served whole packets."""
        sink = self.network.servers[self.tree.sink]
        if sink.packet:
            for row, curve in zip(self._sink_rows, sink.curves, strict=True):
                packet = 0.0 if is_departure else sink.packet
                self.program.constants[row] = curve.rate * curve.latency_us + packet

    def _z(self, segment: int, date: int) -> int:
        """Return the column of a level; the last one is the constant 0."""
        first = self.tree.segments[segment].servers[0]
        return -1 if date == self.tree.depth[first] + 1 else self._level[segment] + date

    def _number_columns(self) -> None:
        for name, depth in self.tree.depth.items():
            for date in range(depth + 2):
                self._time[name, date] = len(self.is_time)
                self.is_time.append(True)
        for segment in self.tree.segments:
            self._level.append(len(self.is_time))
            self.is_time += [False] * (self.tree.depth[segment.servers[0]] + 1)

    def _out(self, name: str, date: int) -> int:
        """Return the column of the date at which what arrived until `date` has left and arrived at the successor."""
        return -1 if name == self.tree.sink else self._time[self.tree.successors[name], date]

    def _add_order(self) -> None:
        add, time = self.rows.add, self._time
        for name, depth in self.tree.depth.items():
            server = self.network.servers[name]
            least_us = server.min_delay_us + (server.min_transit_us if name != self.tree.sink else 0.0)
            for date in range(depth + 1):
                add([(time[name, date + 1], 1.0), (time[name, date], -1.0)], 0.0)
                if name != self.tree.sink or least_us:
                    add([(time[name, date], 1.0), (self._out(name, date), -1.0)], -least_us)
        for number, segment in enumerate(self.tree.segments):
            for date in range(self.tree.depth[segment.servers[0]]):
                add([(self._z(number, date + 1), 1.0), (self._z(number, date), -1.0)], 0.0)

    def _add_bucket(self, segments: Sequence[int], server: str, bucket: TokenBucket, burst: int) -> None:
        """Limit these segments together, at the input of a server."""
        time = self._time
        last = self.tree.depth[server] + 1
        for early in range(1, last + 1):
            for late in range(early):
                terms = [(self._z(segment, late), 1.0) for segment in segments]
                terms += [(self._z(segment, early), -1.0) for segment in segments]
                terms += [(time[server, late], -bucket.rate), (time[server, early], bucket.rate)]
                self.rows.add(terms, bucket.burst, burst, is_optional=early - late > 1 and early < last)

    def _add_arrivals(self) -> None:
        for number, segment in enumerate(self.tree.segments):
            for bucket in segment.buckets:
                self._add_bucket([number], segment.servers[0], bucket, segment.burst)

    def _add_shaping(self) -> None:
        groups: dict[tuple[str, str], list[int]] = {}
        for number, segment in enumerate(self.tree.segments):
            if segment.segment == self._unshaped:
                continue
            previous = segment.segment.previous
            for name in segment.servers:
                if previous:
                    groups.setdefault((previous, name), []).append(number)
                previous = name
        for (before, name), members in groups.items():
            shaping = self.network.servers[before].shaping
            if shaping is not None and _binds(shaping, [self.tree.segments[number] for number in members]):
                self._add_bucket(members, name, shaping, NO_BURST)

    def _add_service(self) -> None:
        for name, depth in self.tree.depth.items():
            server = self.network.servers[name]
            for curve in server.curves:
                terms = [(self._z(number, depth), -1.0) for number in self.tree.crossing[name]]
                terms += [(self._z(number, depth + 1), 1.0) for number in self.tree.crossing[name]]
                terms += [(self._out(name, depth), curve.rate), (self._time[name, depth + 1], -curve.rate)]
                if name == self.tree.sink:
                    self._sink_rows.append(self.rows.add(terms, curve.rate * curve.latency_us + server.packet))
                else:
                    wait_us = curve.latency_us + server.max_transit_us
                    self.rows.add(terms, curve.rate * wait_us + server.packet)

    def _add_delays(self) -> None:
        for name, depth in self.tree.depth.items():
            self._delay_rows[name] = [
                self.rows.add([(self._out(name, date), 1.0), (self._time[name, date], -1.0)], inf)
                for date in range(depth + 1)
            ]

    def _add_sent(self) -> None:
        """Columns for what the flows that leave the tree at the sink may have sent."""
        for number, segment in enumerate(self.tree.segments):
            if segment.servers[-1] != self.tree.sink:
                continue
            column = self._sent[number] = len(self.is_time)
            self.is_time.append(False)
            first = segment.servers[0]
            lead_us = self._lead_us(segment.servers)
            bucket = segment.bucket
            for date in range(self.tree.depth[first] + 2):
                terms = [(column, 1.0), (self._z(number, date), -1.0), (self._time[first, date], bucket.rate)]
                self.rows.add(terms, bucket.burst + bucket.rate * lead_us, segment.burst)

    def _lead_us(self, servers: Iterable[str]) -> float:
        """Return the latest instant at which a bit that is behind the sink's link by then can have entered these."""
        least_us = sum(
            self.network.servers[name].min_delay_us + self.network.servers[name].min_transit_us for name in servers
        )
        return self.network.servers[self.tree.sink].max_transit_us - least_us


def _binds(shaping: TokenBucket, segments: Sequence[TreeSegment]) -> bool:
    """Return whether a link can limit these segments at all."""
    if any(segment.burst != NO_BURST for segment in segments):
        return True
    rate = sum(max(bucket.rate for bucket in segment.buckets) for segment in segments)
    burst = sum(min(bucket.burst for bucket in segment.buckets) for segment in segments)
    return shaping.rate < rate or shaping.burst < burst
