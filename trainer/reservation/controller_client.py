"""HTTP client of the controller's REST API (docs/rest-api.md) with limited retries."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, quote, urlsplit

from trainer.errors import ControllerUnreachableError, NetworkError, ReservationRefusedError, UsageError
from trainer.reservation.http_transport import STANDBY_STATUS, HttpTransport, Response, TransportErrors, reason_of

if TYPE_CHECKING:  # pydantic is imported only to parse responses, which `paceline network` does not do
    from trainer.reservation.api_types import ApiResponse, FlowRequest, Quote, Reservation, TransferVolume
    from trainer.reservation.event_stream import Event
    from trainer.reservation.failover_transport import FailoverTransport

TIMEOUT_S = 10.0
INITIAL_PAUSE_S = 0.25
MAX_PAUSE_S = 4.0

A = TypeVar("A", bound="ApiResponse")


@dataclass(frozen=True, slots=True)
class ApiCredentials:
    """Bearer token and certificate authority for the controller; None: no token, the system's authorities.

    They come from the environment because other users of the machine can read command lines.
    """

    token: str | None = None
    authority: str | None = None

    @classmethod
    def from_environment(cls) -> ApiCredentials:
        """Read PACELINE_TOKEN and PACELINE_CA, a file with the authority's certificate."""
        return cls(os.environ.get("PACELINE_TOKEN") or None, os.environ.get("PACELINE_CA") or None)

    def ssl_context(self) -> ssl.SSLContext:
        """Return the TLS context that verifies the controller.

        Raises: NetworkError if the authority's file cannot be read.
        """
        try:
            return ssl.create_default_context(cafile=self.authority)
        except OSError as error:
            raise NetworkError(f"PACELINE_CA={self.authority} is not a readable certificate file: {error}") from error

    def headers(self) -> dict[str, str]:
        """Return the authorization header, if there is a token.

        Raises: UsageError if the token has a character that no token has.
        """
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and " " not in self.token):
            raise UsageError("PACELINE_TOKEN is not a token: it has a space, a line break or another character that "
                             "no token has.")
        return {} if self.token is None else {"Authorization": f"Bearer {self.token}"}


class ControllerClient:
    """The controller's REST API. `notify` receives a sentence before every retry."""

    def __init__(
        self,
        url: str,
        retries: int,
        notify: Callable[[str], None],
        pause_s: float = INITIAL_PAUSE_S,
        credentials: ApiCredentials | None = None,
        advice: str = "Start it, set --controller URL, or train without reservations: --best-effort.",
    ) -> None:
        """`url`: of the controller, or of several that share a ledger, separated by commas.

        `credentials` default to those of the environment. `advice`: what a user may do if it does not answer.

        Raises: UsageError if the URL is not valid, NetworkError if the certificate file cannot be read.
        """
        self.url = url
        self.retries = retries
        self._notify = notify
        self._pause_s = pause_s
        self._advice = advice
        used = credentials or ApiCredentials.from_environment()
        self._http = _transport(url, used)

    def close(self) -> None:
        """Close the connection; reservations stay."""
        self._http.close()

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        query: Mapping[str, str] | None = None,
        key: str | None = None,
    ) -> dict[str, Any]:
        """Send any request of the REST API and return its response. `key`: idempotency key.

        Raises: ReservationRefusedError, ControllerUnreachableError.
        """
        return self._request(method, path, body, query, key=key)

    def metrics(self) -> str:
        """Return the metrics in the text format of Prometheus.

        Raises: ReservationRefusedError, ControllerUnreachableError.
        """
        try:
            response = self._http.request("GET", "/metrics")
        except TransportErrors as error:
            raise self._unreachable(error, 1) from error
        if not response.is_success:
            self._json_object(response)
        return response.body

    def events(self, after: str | None, follow: bool) -> Iterator[Event]:
        """Yield the events after that id (None: from now on); without `follow` only those that have happened.

        Raises: ReservationRefusedError, ControllerUnreachableError, also if the stream ends.
        """
        from trainer.reservation.event_stream import IDLE_S, SILENT_S, events_of

        headers = {"Accept": "text/event-stream"} | ({} if after is None else {"Last-Event-ID": after})
        last, is_open = after, False
        try:
            with self._http.stream("/v1/events", headers, SILENT_S if follow else IDLE_S) as (response, lines):
                is_open = True
                if response is not None:
                    self._json_object(response)
                for event in events_of(lines):
                    last = event.id or last
                    yield event
        except TransportErrors as error:
            if is_open and not follow and isinstance(error, TimeoutError):
                return
            raise self._unreachable(error, 1) from error
        if follow:
            resume = f"; --after {last} resumes" if last else ""
            raise ControllerUnreachableError(f"The controller at {self.url} has ended the stream of events{resume}.")

    def network_json(self) -> dict[str, Any]:
        """Return the network: switches, hosts and links."""
        return self._request("GET", "/v1/network")

    def quote(self, volumes: Sequence[TransferVolume], instead_of: str | None, retries: int | None = None) -> Quote:
        """Return the shortest common transfer time over the free capacity; nothing is reserved.

        The bandwidth of the own reservation `instead_of` counts as free.

        Raises: ReservationRefusedError, ControllerUnreachableError.
        """
        from trainer.reservation.api_types import Quote

        body = {"transfers": [asdict(volume) for volume in volumes], "instead_of": instead_of}
        return self._parse(Quote, self._request("POST", "/v1/quotes", body, retries=retries))

    def create(self, owner: str, lease_s: float, flows: Sequence[FlowRequest]) -> Reservation:
        """Reserve all flows or none; an idempotency key prevents double reservation on retries.

        Raises: ReservationRefusedError, ControllerUnreachableError.
        """
        import uuid

        from trainer.reservation.api_types import Reservation

        body = {"owner": owner, "lease_s": lease_s, "flows": [flow.to_json() for flow in flows]}
        return self._parse(Reservation, self._request("POST", "/v1/reservations", body, key=str(uuid.uuid4())))

    def modify(
        self, reservation: str, lease_s: float, flows: Sequence[FlowRequest], retries: int | None = None
    ) -> Reservation:
        """Replace the flows and renew the lease; a refusal leaves the reservation unchanged.

        Raises: ReservationRefusedError, ControllerUnreachableError.
        """
        from trainer.reservation.api_types import Reservation

        body = {"lease_s": lease_s, "flows": [flow.to_json() for flow in flows]}
        return self._parse(
            Reservation, self._request("PATCH", _path(reservation), body, retries=retries)
        )

    def renew(self, reservation: str, lease_s: float) -> Reservation:
        """Renew the lease, without retries; return the reservation as it is now.

        Raises: ReservationRefusedError, ControllerUnreachableError.
        """
        from trainer.reservation.api_types import Reservation

        return self._parse(
            Reservation, self._request("PATCH", _path(reservation), {"lease_s": lease_s}, retries=0)
        )

    def release(self, reservation: str) -> dict[str, Any]:
        """Release a reservation.

        Raises: ReservationRefusedError, ControllerUnreachableError.
        """
        return self._request("DELETE", _path(reservation))

    def get(self, reservation: str) -> Reservation:
        """Return a reservation in any state.

        Raises: ReservationRefusedError if it does not exist, ControllerUnreachableError.
        """
        from trainer.reservation.api_types import Reservation

        return self._parse(Reservation, self.get_json(reservation))

    def get_json(self, reservation: str) -> dict[str, Any]:
        """Return a reservation with the counters of its meters and entries."""
        return self._request("GET", _path(reservation))

    def list_json(self, state: str | None = None) -> dict[str, Any]:
        """Return all reservations, or those in one state, from all pages."""
        listed = content = self._request("GET", "/v1/reservations", query={"state": state} if state else None)
        while isinstance(page := content.get("next"), str):
            content = self._request("GET", "/v1/reservations", query=dict(parse_qsl(urlsplit(page).query)))
            listed["reservations"] += content["reservations"]
        listed.pop("next", None)
        return listed

    def _request(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        query: Mapping[str, str] | None = None,
        retries: int | None = None,
        key: str | None = None,
    ) -> dict[str, Any]:
        headers = {} if key is None else {"Idempotency-Key": key}
        attempts = 1 + (self.retries if retries is None else retries)
        pause_s = self._pause_s
        for attempt in range(1, attempts + 1):
            try:
                response = self._http.request(method, path, body, query, headers)
                if attempt == attempts or not _is_transient(response):
                    break
                trouble = f"is busy ({response.status})"
            except TransportErrors as error:
                if attempt == attempts:
                    raise self._unreachable(error, attempts) from error
                trouble = f"does not answer ({reason_of(error)})"
            self._notify(
                f"The controller at {self.url} {trouble}; attempt {attempt + 1} of {attempts} in {pause_s:g} s."
            )
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)
        return self._json_object(response)

    def _unreachable(self, error: Exception, attempts: int) -> ControllerUnreachableError:
        tries = f" after {attempts} attempts" if attempts > 1 else ""
        return ControllerUnreachableError(
            f"The controller at {self.url} does not answer ({reason_of(error)}){tries}. {self._advice}"
        )

    def _json_object(self, response: Response) -> dict[str, Any]:
        content = response.json_object()
        if response.status == STANDBY_STATUS:
            active = str(response.headers.get("Location", "")).partition("/v1/")[0]
            raise NetworkError(f"{self.url} is a standby of {active}; set --controller {self.url},{active}.")
        if content is None:
            raise NetworkError(
                f"{self.url} answered {response.status} without a JSON object; is it a Paceline controller?"
            )
        if response.is_success:
            return content
        detail = content.get("detail")
        sentence = detail if isinstance(detail, str) else f"The controller answered {response.status}: {detail}."
        raise ReservationRefusedError(sentence, {"code": "unknown", "status": response.status, **content})

    def _parse(self, kind: type[A], content: dict[str, Any]) -> A:
        from pydantic import ValidationError

        try:
            return kind.model_validate(content)
        except ValidationError as error:
            raise NetworkError(f"{self.url} sent a response that does not match the REST API: {error}.") from error


def _transport(url: str, credentials: ApiCredentials) -> HttpTransport | FailoverTransport:
    def context_of(url: str) -> ssl.SSLContext | None:
        return credentials.ssl_context() if url.startswith("https") else None

    if "," not in url:
        return HttpTransport(url, credentials.headers(), TIMEOUT_S, context_of(url))
    from trainer.reservation.failover_transport import FailoverTransport

    return FailoverTransport([each.strip() for each in url.split(",")], credentials.headers(), context_of)


def _path(reservation: str) -> str:
    return f"/v1/reservations/{quote(reservation, safe='')}"


def _is_transient(response: Response) -> bool:
    """Whether a retry may succeed: the controller is overloaded or still processes the same request."""
    return "Retry-After" in response.headers or (response.status == 409 and "request_in_progress" in response.body)
