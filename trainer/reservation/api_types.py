"""Requests and responses of the controller's REST API that the trainer uses (docs/rest-api.md)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from pydantic import BaseModel, ConfigDict

from trainer.config.settings import Protection


@dataclass(frozen=True, slots=True)
class FlowRequest:
    """One direction of a connection: endpoints, L2 rate, protection of its path, slack of its promised bounds."""

    name: str
    source: str
    destination: str
    source_port: int
    destination_port: int
    min_bandwidth_bps: int
    burst_bytes: int
    protection: Protection = "none"
    bound_slack: float | None = None

    def to_json(self) -> dict[str, object]:
        """Return the request body. Its only latency limits are the granted bounds, with `bound_slack`."""
        return {
            "name": self.name,
            "source": self.source,
            "destination": self.destination,
            "match": {"protocol": "tcp", "source_port": self.source_port, "destination_port": self.destination_port},
            "requirement": {
                "min_bandwidth_bps": self.min_bandwidth_bps,
                "burst_bytes": self.burst_bytes,
                "max_latency_us": None,
                "max_latency_variation_us": None,
                "bound_slack": self.bound_slack,
                "protection": self.protection,
            },
        }


class ApiResponse(BaseModel):
    """Base of all response bodies; unknown fields are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class FlowGrant(ApiResponse):
    """What is reserved and guaranteed for one flow."""

    name: str
    path: tuple[str, ...]
    reserved_bps: int
    accumulated_latency_us: float
    latency_variation_us: float
    latency_limit_us: float | None = None

    @property
    def guaranteed_latency_us(self) -> float:
        """What the latency bound is at most until the controller tells another: the present bound and its slack."""
        return max(self.accumulated_latency_us, self.latency_limit_us or 0.0)


class Reservation(ApiResponse):
    """A reservation as the controller reports it."""

    id: str
    version: int
    state: str
    reason: str | None = None
    flows: tuple[FlowGrant, ...]

    def flow(self, name: str) -> FlowGrant:
        """Return a flow by its name.

        Raises: KeyError if the reservation has no such flow.
        """
        return {flow.name: flow for flow in self.flows}[name]


class FreeLink(ApiResponse):
    """A directed link and its free rate."""

    link: str
    free_bps: float


@dataclass(frozen=True, slots=True)
class TransferVolume:
    """Bytes (L2) to transfer from one host to another."""

    name: str
    source: str
    destination: str
    transfer_bytes: int


def path_links(path: tuple[str, ...]) -> tuple[str, ...]:
    """The directed links of a path; between two nodes may be the name of their span, as in a, a-b.2, b."""
    nodes = [number for number, name in enumerate(path) if "." not in name]
    numbers = ["".join(path[a + 1 : b]).partition(".")[2] for a, b in pairwise(nodes)]
    return tuple(
        f"{path[a]}->{path[b]}" + (f".{number}" if number else "")
        for (a, b), number in zip(pairwise(nodes), numbers, strict=True)
    )


class QuotedFlow(ApiResponse):
    """Path and rate of one of the quoted volumes if all are transferred in the shortest common time."""

    name: str
    path: tuple[str, ...]
    rate_bps: int

    @property
    def links(self) -> tuple[str, ...]:
        """The directed links of the path."""
        return path_links(self.path)


class Quote(ApiResponse):
    """The shortest common transfer time, the bottleneck link, and the free rates of the links on all paths."""

    transfer_ms: float
    flows: tuple[QuotedFlow, ...]
    links: tuple[FreeLink, ...]
    bottleneck: str
