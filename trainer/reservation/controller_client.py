"""Client of the controller's REST API (docs/architecture.md), with limits on how long it tries."""

from __future__ import annotations

import os
import ssl
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import httpx
from pydantic import ValidationError

from trainer.errors import ControllerUnreachableError, NetworkError, ReservationRefusedError
from trainer.reservation.api_types import Answer, FlowRequest, Quote, Reservation, Volume

TIMEOUT_S = 10.0
FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 4.0


A = TypeVar("A", bound=Answer)


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

    def quote(self, volumes: Sequence[Volume], instead_of: str | None, retries: int | None = None) -> Quote:
        """How fast these can go together with what is free now; nothing is reserved.

        `instead_of`: a reservation of ours; what it takes counts as free.

        Raises: ReservationRefusedError, ControllerUnreachableError.
        """
        body = {"transfers": [asdict(volume) for volume in volumes], "instead_of": instead_of}
        return self._parse(Quote, self._ask("POST", "/v1/quotes", body, retries=retries))

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
                if attempt == tries or not _passes(response):
                    break
                trouble = f"has no time now ({response.status_code})"
            except httpx.TransportError as error:
                reason = str(error) or type(error).__name__
                if attempt == tries:
                    raise ControllerUnreachableError(
                        f"The controller at {self.url} does not answer ({reason}), tried {tries} times. Is it "
                        "running? Start it, give --controller URL, or train without reservations: --best-effort."
                    ) from error
                trouble = f"does not answer ({reason})"
            self._say(f"The controller at {self.url} {trouble}; try {attempt + 1} of {tries} in {pause_s:g} s.")
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


def _passes(response: httpx.Response) -> bool:
    """Whether the answer may be another soon: too much to do, or it is still busy with this very request."""
    return "Retry-After" in response.headers or (response.status_code == 409 and "request_in_progress" in response.text)
