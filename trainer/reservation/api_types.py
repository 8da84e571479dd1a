"""What cloud and controller say to each other over REST (docs/architecture.md): what is asked, what is answered."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from pydantic import BaseModel, ConfigDict

from trainer.config.settings import Protection


@dataclass(frozen=True, slots=True)
class FlowRequest:
    """One direction of one connection, the L2 rate it needs, and what its spare path must keep away from."""

    name: str
    source: str
    destination: str
    source_port: int
    destination_port: int
    min_bandwidth_bps: int
    burst_bytes: int
    protection: Protection = "none"

    def to_json(self) -> dict[str, object]:
        """The form the contract gives it; the trainer asks for no latency limit, it wants the bound told."""
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
                "protection": self.protection,
            },
        }


class Answer(BaseModel):
    """What the controller answers; what we do not know is passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class FlowGrant(Answer):
    """What the controller promises for one flow."""

    name: str
    path: tuple[str, ...]
    reserved_bps: int
    accumulated_latency_us: float
    latency_variation_us: float


class Reservation(Answer):
    """A reservation as the controller tells it."""

    id: str
    version: int
    state: str
    reason: str | None = None
    flows: tuple[FlowGrant, ...]

    def flow(self, name: str) -> FlowGrant:
        """The flow of that name.

        Raises: KeyError if there is none.
        """
        return {flow.name: flow for flow in self.flows}[name]


class FreeLink(Answer):
    """A directed link and what is free on it."""

    link: str
    free_bps: float


@dataclass(frozen=True, slots=True)
class Volume:
    """So many bytes (L2) from one host to another."""

    name: str
    source: str
    destination: str
    transfer_bytes: int


class QuotedFlow(Answer):
    """How one of the volumes would travel if all go together as fast as they can."""

    name: str
    path: tuple[str, ...]
    rate_bps: int

    @property
    def links(self) -> tuple[str, ...]:
        """The directed links of the path."""
        return tuple(f"{a}->{b}" for a, b in pairwise(self.path))


class Quote(Answer):
    """The shortest common transfer time, the link that sets it, and what is free on the links of all paths."""

    transfer_ms: float
    flows: tuple[QuotedFlow, ...]
    links: tuple[FreeLink, ...]
    bottleneck: str
