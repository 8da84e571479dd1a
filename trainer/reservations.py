"""Client of the controller's REST API (docs/architecture.md), with limits on how long it tries."""

from __future__ import annotations

import os
import ssl
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeVar

import httpx
from pydantic import BaseModel, ConfigDict, ValidationError

from trainer.errors import ControllerUnreachableError, NetworkError, ReservationRefusedError

TIMEOUT_S = 10.0
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 4.0


@dataclass(frozen=True, slots=True)
class FlowRequest:
    """One direction of one connection, and the L2 rate it needs."""

    name: str
    source: str
    destination: str
    source_port: int
    destination_port: int
    min_bandwidth_bps: int
    burst_bytes: int

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
            },
        }


class _Answer(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class FlowGrant(_Answer):
    """What the controller promises for one flow."""

    name: str
    path: tuple[str, ...]
    reserved_bps: int
    accumulated_latency_us: float
    latency_variation_us: float

    @property
    def links(self) -> tuple[str, ...]:
        """The directed links of the path."""
        return tuple(f"{a}->{b}" for a, b in pairwise(self.path))


class Reservation(_Answer):
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


class PathLink(_Answer):
    """A directed link of a path and what is free on it."""

    link: str
    free_bps: float


class Path(_Answer):
    """One way from a source to a destination."""

    nodes: tuple[str, ...]
    free_bps: float
    links: tuple[PathLink, ...]


class _Paths(_Answer):
    paths: tuple[Path, ...]


A = TypeVar("A", bound=_Answer)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What we show the controller, and whom we believe that it is the controller; None: nothing, and the usual ones.

    Not on the command line: everybody on the machine can read that.
    """

    token: str | None = None
    authority: str | None = None

    @classmethod
    def from_environment(cls) -> Credentials:
        """PACELINE_TOKEN, and PACELINE_CA: a file with the authority's certificate."""
        return cls(os.environ.get("PACELINE_TOKEN") or None, os.environ.get("PACELINE_CA") or None)

    def trust(self) -> ssl.SSLContext:
        """The TLS to speak.

        Raises: NetworkError if the authority's file cannot be read.
        """
        try:
            return ssl.create_default_context(cafile=self.authority)
        except OSError as error:
            raise NetworkError(f"PACELINE_CA={self.authority} holds no certificate: {error}") from error

    def headers(self) -> dict[str, str]:
        """The header that every request bears."""
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}


class Controller:
    """The controller's REST API. `say` hears about every retry."""

    def __init__(
        self,
        url: str,
        retries: int,
        say: Callable[[str], None],
        transport: httpx.BaseTransport | None = None,
        pause_s: float = FIRST_PAUSE_S,
        credentials: Credentials | None = None,
    ) -> None:
        """`credentials`: those of the environment if none are given."""
        self.url = url
        self.retries = retries
        self._say = say
        self._pause_s = pause_s
        shown = credentials or Credentials.from_environment()
        trust = shown.trust() if url.startswith("https") else False
        self._http = httpx.Client(
            base_url=url,
            headers=shown.headers(),
            verify=trust,
            timeout=TIMEOUT_S,
            transport=transport,
            trust_env=False,
        )

    def close(self) -> None:
        """Hang up; reservations stay."""
        self._http.close()

    def network(self) -> dict[str, Any]:
        """The network as the controller sees it."""
        return self._ask("GET", "/v1/network")

    def paths(self, source: str, destination: str, retries: int | None = None) -> list[Path]:
        """Candidate paths, best first."""
        query = {"source": source, "destination": destination}
        answer = self._ask("GET", "/v1/paths", query=query, retries=retries)
        return list(self._parse(_Paths, answer).paths)

    def create(self, owner: str, lease_s: float, flows: Sequence[FlowRequest]) -> Reservation:
        """Reserve all flows or none; tried again after an answer that was lost, they are still reserved once.

        Raises: ReservationRefusedError, ControllerUnreachableError.
        """
        body = {"owner": owner, "lease_s": lease_s, "flows": [flow.to_json() for flow in flows]}
        return self._parse(Reservation, self._ask("POST", "/v1/reservations", body, key=str(uuid.uuid4())))

    def modify(
        self, reservation: str, lease_s: float, flows: Sequence[FlowRequest], retries: int | None = None
    ) -> Reservation:
        """Replace the flows and renew the lease; refused, everything stays as it was.

        Raises: ReservationRefusedError, ControllerUnreachableError.
        """
        body = {"lease_s": lease_s, "flows": [flow.to_json() for flow in flows]}
        return self._parse(Reservation, self._ask("PATCH", f"/v1/reservations/{reservation}", body, retries=retries))

    def renew(self, reservation: str, lease_s: float) -> None:
        """Renew the lease, without trying again.

        Raises: ReservationRefusedError, ControllerUnreachableError.
        """
        self._ask("PATCH", f"/v1/reservations/{reservation}", {"lease_s": lease_s}, retries=0)

    def release(self, reservation: str) -> dict[str, Any]:
        """Give it back.

        Raises: ReservationRefusedError, ControllerUnreachableError.
        """
        return self._ask("DELETE", f"/v1/reservations/{reservation}")

    def find(self, reservation: str) -> Reservation:
        """One reservation, whatever its state.

        Raises: ReservationRefusedError if there is none, ControllerUnreachableError.
        """
        return self._parse(Reservation, self.show(reservation))

    def show(self, reservation: str) -> dict[str, Any]:
        """One reservation with the counters of its meters and entries."""
        return self._ask("GET", f"/v1/reservations/{reservation}")

    def list(self, state: str | None = None) -> dict[str, Any]:
        """All reservations, or those in one state."""
        return self._ask("GET", "/v1/reservations", query={"state": state} if state else None)

    def _ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        query: Mapping[str, str] | None = None,
        retries: int | None = None,
        key: str | None = None,
    ) -> dict[str, Any]:
        headers = {} if key is None else {"Idempotency-Key": key}
        tries = 1 + (self.retries if retries is None else retries)
        pause_s = self._pause_s
        for attempt in range(1, tries + 1):
            try:
                response = self._http.request(method, path, json=body, params=query, headers=headers)
                break
            except httpx.TransportError as error:
                reason = str(error) or type(error).__name__
                if attempt == tries:
                    raise ControllerUnreachableError(
                        f"The controller at {self.url} does not answer ({reason}), tried {tries} times. Is it "
                        "running? Start it, give --controller URL, or train without reservations: --best-effort."
                    ) from error
                self._say(f"The controller at {self.url} does not answer ({reason}); try {attempt + 1} of {tries} "
                          f"in {pause_s:g} s.")
                time.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        return self._read(response)

    def _read(self, response: httpx.Response) -> dict[str, Any]:
        try:
            content = response.json()
        except ValueError:
            content = None
        if not isinstance(content, dict):
            raise NetworkError(
                f"{self.url} answered {response.status_code} with no JSON object: is it a Paceline controller?"
            )
        if response.is_success:
            return content
        detail = content.get("detail")
        sentence = detail if isinstance(detail, str) else f"The controller answered {response.status_code}: {detail}."
        raise ReservationRefusedError(sentence, {"code": "unknown", "status": response.status_code, **content})

    def _parse(self, kind: type[A], content: dict[str, Any]) -> A:
        try:
            return kind.model_validate(content)
        except ValidationError as error:
            raise NetworkError(f"{self.url} answered what the contract does not allow: {error}.") from error
