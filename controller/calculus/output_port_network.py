"""Saihu's output-port networks: JSON in and out.

Servers with rate-latency curves (their maximum is guaranteed) and the capacity of the line behind them, flows with
token buckets (all hold) and paths of servers. A number has a unit or the default unit of its flow or server, of the
network, or s, b and bps.

Source: Tsai, Tabatabaee, Plassart and Le Boudec, "Saihu: A Common Interface of Worst-Case Delay Analysis Tools for
Time-Sensitive Networks", arXiv 2303.14565 (2023), and the README of its repository.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite, nan
from typing import Any

MULTIPLIERS = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}
BITS = {"b": 1.0, "B": 8.0}
SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}
UNITS = {
    "time": re.compile(r"(?P<multiplier>[num]?)(?P<time>s)|(?P<long>[mh])"),
    "data": re.compile(r"(?P<multiplier>[kMGT]?)(?P<data>[bB])"),
    "rate": re.compile(r"(?P<multiplier>[kMGT]?)(?P<data>[bB])p(?P<time>[smh])"),
}
EXAMPLES = {"time": "10us", "data": "1500B", "rate": "100Mbps"}
BASE_UNITS = {"time": "s", "data": "b", "rate": "bps"}
QUANTITY = re.compile(r"\s*([+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)\s*([A-Za-z]*)\s*")


class NetworkFileError(Exception):
    """The file is no output-port network; each of `mistakes` names the place, the value and what would be right."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


@dataclass(frozen=True, slots=True)
class OutputPort:
    """A server. `curves`: (rate in bit/s, latency in us), latencies ascending. `capacity_bps`: of its line; None if
    the line limits nothing.
    """

    name: str
    curves: tuple[tuple[float, float], ...]
    capacity_bps: float | None


@dataclass(frozen=True, slots=True)
class PortFlow:
    """A flow. `buckets`: (burst in bit, rate in bit/s), bursts ascending."""

    name: str
    path: tuple[str, ...]
    buckets: tuple[tuple[float, float], ...]
    max_packet_bits: float | None = None


@dataclass(frozen=True, slots=True)
class OutputPortNetwork:
    """A network file. `packetizer`: whole packets leave the servers; otherwise flows are fluid."""

    name: str
    packetizer: bool
    servers: Mapping[str, OutputPort]
    flows: tuple[PortFlow, ...]


def network_from_json(document: object) -> OutputPortNetwork:
    """Return the network of a parsed JSON document.

    Raises: NetworkFileError with all mistakes.
    """
    return _Reader(document).read()


def network_to_json(network: OutputPortNetwork) -> dict[str, Any]:
    """Return the network as a document that `network_from_json` and Saihu read, every number with its unit."""
    return {
        "network": {
            "name": network.name,
            "packetizer": network.packetizer,
            "multiplexing": "FIFO",
            "analysis_option": ["IS"] if any(port.capacity_bps for port in network.servers.values()) else [],
        },
        "servers": [
            {
                "name": port.name,
                "service_curve": {
                    "latencies": [f"{latency_us!r}us" for _, latency_us in port.curves],
                    "rates": [f"{rate_bps!r}bps" for rate_bps, _ in port.curves],
                },
                **({} if port.capacity_bps is None else {"capacity": f"{port.capacity_bps!r}bps"}),
            }
            for port in network.servers.values()
        ],
        "flows": [
            {
                "name": flow.name,
                "path": list(flow.path),
                "arrival_curve": {
                    "bursts": [f"{burst_bits!r}b" for burst_bits, _ in flow.buckets],
                    "rates": [f"{rate_bps!r}bps" for _, rate_bps in flow.buckets],
                },
                **({} if flow.max_packet_bits is None else {"max_packet_length": f"{flow.max_packet_bits!r}b"}),
            }
            for flow in network.flows
        ],
    }


@dataclass(slots=True)
class _Reader:
    """Reads a document and collects its mistakes."""

    document: object
    mistakes: list[str] = field(default_factory=list)
    network: dict[str, Any] = field(default_factory=dict)

    def read(self) -> OutputPortNetwork:
        """Raises: NetworkFileError"""
        parts = [self._part("network", dict), self._part("servers", list), self._part("flows", list)]
        if self.mistakes:
            raise NetworkFileError(self.mistakes)
        self.network = parts[0]
        multiplexing = self.network.get("multiplexing", "FIFO")
        if multiplexing != "FIFO":
            self._note("network.multiplexing", multiplexing, 'must be "FIFO": the bounds assume servers in this order')
        options = self.network.get("analysis_option", ["IS"])
        if not isinstance(options, list):
            self._note("network.analysis_option", options, 'must be an array such as ["IS"]')
        packetizer = self.network.get("packetizer", False)
        if not isinstance(packetizer, bool):
            self._note("network.packetizer", packetizer, "must be true or false")
        servers: dict[str, OutputPort] = {}
        for number, entry in enumerate(parts[1]):
            port = self._server(f"servers[{number}]", entry)
            if port.name in servers:
                self._note(f"servers[{number}].name", port.name, "is the name of an earlier server too")
            servers[port.name] = port
        flows = [flow for number, entry in enumerate(parts[2]) for flow in self._flows(number, entry, servers)]
        if packetizer is True:
            for flow in flows:
                if flow.max_packet_bits is None:
                    self._note(flow.name, None, "needs a max_packet_length, because network.packetizer is true")
        if self.mistakes:
            raise NetworkFileError(self.mistakes)
        return OutputPortNetwork(str(self.network.get("name", "network")), packetizer, servers, tuple(flows))

    def _note(self, place: str, value: object, right: str) -> None:
        self.mistakes.append(f"{place}: {right}" + ("" if value is None else f", not {value!r}"))

    def _part(self, key: str, kind: type) -> Any:
        if not isinstance(self.document, dict):
            self.mistakes = ["the document must be an object with network, servers and flows"]
            return kind()
        part = self.document.get(key)
        if not isinstance(part, kind):
            what = "an object" if kind is dict else "an array"
            self.mistakes.append(f"{key}: must be {what}" + ("; there is none" if part is None else ""))
            return kind()
        return part

    def _server(self, place: str, entry: object) -> OutputPort:
        name, facts = self._named(place, entry)
        curve = facts.get("service_curve", self.network.get("service_curve"))
        pairs = self._pairs(f"{place}.service_curve", curve, ("latencies", "time"), facts)
        curves = tuple(sorted(((rate, latency * 1e6) for latency, rate in pairs), key=lambda curve: curve[1]))
        for rate, _ in curves:
            if rate <= 0:
                self._note(f"{place}.service_curve.rates", rate, "must be above 0")
        capacity_bps: float | None = None
        options = self.network.get("analysis_option", ["IS"])
        if isinstance(options, list) and "IS" in options:
            value = facts.get("capacity", self.network.get("capacity"))
            fastest = max((rate for rate, _ in curves), default=1.0)
            capacity_bps = fastest if value is None else self._quantity(f"{place}.capacity", value, "rate", facts)
            if capacity_bps < fastest:
                self._note(f"{place}.capacity", value, f"must be at least the service rate, {fastest:g} bit/s")
        return OutputPort(name, curves, capacity_bps)

    def _flows(self, number: int, entry: object, servers: Mapping[str, OutputPort]) -> list[PortFlow]:
        """Return a flow, once for each of its paths."""
        place = f"flows[{number}]"
        name, facts = self._named(place, entry)
        curve = facts.get("arrival_curve", self.network.get("arrival_curve"))
        buckets = tuple(sorted(self._pairs(f"{place}.arrival_curve", curve, ("bursts", "data"), facts)))
        longest = facts.get("max_packet_length", self.network.get("max_packet_length"))
        packet_bits = None if longest is None else self._quantity(f"{place}.max_packet_length", longest, "data", facts)
        flows = [PortFlow(name, self._path(f"{place}.path", facts.get("path"), servers), buckets, packet_bits)]
        branches = facts.get("multicast", [])
        if not isinstance(branches, list):
            self._note(f"{place}.multicast", branches, "must be an array of paths")
            branches = []
        for branch, other in enumerate(branches):
            where = f"{place}.multicast[{branch}]"
            label, branch_facts = self._named(where, other)
            path = self._path(f"{where}.path", branch_facts.get("path"), servers)
            flows.append(PortFlow(f"{name}/{label}", path, buckets, packet_bits))
        return flows

    def _path(self, place: str, path: object, servers: Mapping[str, OutputPort]) -> tuple[str, ...]:
        if not isinstance(path, list) or not path:
            self._note(place, path, "must be an array of at least one server's name")
            return ()
        for name in path:
            if not isinstance(name, str) or name not in servers:
                self._note(place, name, "must be the name of a server")
        if len(set(map(str, path))) < len(path):
            self._note(place, path, "must cross every server at most once")
        return tuple(map(str, path))

    def _named(self, place: str, entry: object) -> tuple[str, dict[str, Any]]:
        facts = self._object(place, entry)
        name = facts.get("name")
        if not isinstance(name, str) or not name:
            self._note(f"{place}.name", name, "must be a name")
        return str(name), facts

    def _object(self, place: str, entry: object) -> dict[str, Any]:
        if isinstance(entry, dict):
            return entry
        self._note(place, entry, "must be an object")
        return {}

    def _pairs(
        self, place: str, curve: object, first: tuple[str, str], facts: dict[str, Any]
    ) -> list[tuple[float, float]]:
        """Return (latency or burst, rate) of every segment of a curve."""
        if not isinstance(curve, dict):
            self._note(place, curve, f"must be an object with {first[0]} and rates")
            return []
        columns = []
        for key, kind in (first, ("rates", "rate")):
            values = curve.get(key)
            if not isinstance(values, list) or not values:
                self._note(f"{place}.{key}", values, "must be an array of at least one quantity")
                return []
            columns.append([self._quantity(f"{place}.{key}", value, kind, facts) for value in values])
        if len(columns[0]) != len(columns[1]):
            self._note(place, [len(columns[0]), len(columns[1])], f"must have as many {first[0]} as rates")
        return list(zip(*columns, strict=False))

    def _quantity(self, place: str, value: object, kind: str, facts: Mapping[str, Any]) -> float:
        """Return a quantity in s, bit or bit/s; not a number after a mistake."""
        default = facts.get(f"{kind}_unit", self.network.get(f"{kind}_unit", BASE_UNITS[kind]))
        found = QUANTITY.fullmatch(str(value)) if isinstance(value, str | int | float) else None
        unit = UNITS[kind].fullmatch((found[2] or str(default)) if found else "")
        if found is None or unit is None or isinstance(value, bool):
            self._note(place, value, f'must be a number, or a number with a unit such as "{EXAMPLES[kind]}"')
            return nan
        parts = unit.groupdict()
        factor = MULTIPLIERS[parts.get("multiplier") or ""] * BITS.get(parts.get("data") or "", 1.0)
        seconds = SECONDS[parts.get("time") or parts.get("long") or "s"]
        amount = float(found[1]) * (factor / seconds if kind == "rate" else factor * seconds)
        if not isfinite(amount) or amount < 0:
            self._note(place, value, "must be finite and not negative")
            return nan
        return amount
