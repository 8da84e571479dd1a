"""Follows a controller: its events as they come, and the figures that events do not carry."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from trainer.errors import ReservationRefusedError, TrainerError
from trainer.reservation.controller_client import ApiCredentials, ControllerClient
from trainer.reservation.event_stream import Event
from trainer.web.network_state import LIVE, NetworkState

REFRESH_S = 5.0
"""Interval of readings without events: what a calendar reserves changes with time alone."""

LEAST_PAUSE_S, MOST_PAUSE_S = 0.15, 1.0
"""Between readings is a pause as long as the last one took, within these limits."""

RETRY_S = 1.0
SINGLE_READS = 50
"""More changed reservations than these are read with all others."""

NOT_AVAILABLE = 501

_CHANGES_LINKS = frozenset({"link", "alarm", "switch", "reservation", "missed"})


class ControllerFeed:
    """Keeps a `NetworkState` up to date from two threads; `on_change` is called from them after each change."""

    def __init__(self, url: str, credentials: ApiCredentials, on_change: Callable[[], None]) -> None:
        """Raises: UsageError if the URL is not valid, NetworkError if the certificate file cannot be read."""
        self.url = url
        self.state = NetworkState()
        self._credentials = credentials
        self._on_change = on_change
        self._lock = threading.Lock()
        self._client = self.client()
        self._wake, self._stop = threading.Event(), threading.Event()
        self._changed: set[str] = set()
        self._reload = True
        self._threads = [
            threading.Thread(target=self._follow, name="events", daemon=True),
            threading.Thread(target=self._read, name="readings", daemon=True),
        ]

    def client(self) -> ControllerClient:
        """Return a new client of the controller, to be closed by the caller."""
        return ControllerClient(self.url, 0, lambda _sentence: None, credentials=self._credentials)

    def start(self) -> None:
        """Start to follow."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Stop to follow; the threads end with the process."""
        self._stop.set()
        self._wake.set()

    def ask_for(self, reservation: str) -> None:
        """Read a reservation that is not known yet."""
        with self._lock:
            self._changed.add(reservation)
        self._wake.set()

    def _follow(self) -> None:
        last: str | None = "0-0"  # from the beginning of the controller's buffer: history and alarms
        replay_until_s = time.time() + 1.0
        while not self._stop.is_set():
            client = self.client()
            try:
                for event in client.events(last, follow=True):
                    last = event.id or last
                    self._apply(event, None if time.time() < replay_until_s else time.time())
            except ReservationRefusedError as error:
                self._trouble(error)
                if error.problem.get("status") == NOT_AVAILABLE:
                    return  # a controller inside ryu-manager: readings follow each other every REFRESH_S
            except TrainerError as error:
                self._trouble(error)
            finally:
                client.close()
            self._stop.wait(RETRY_S)

    def _apply(self, event: Event, at_s: float | None) -> None:
        with self._lock:
            if event.kind == "missed":
                self._reload = True
            else:
                self.state.apply(event, at_s)
            if event.kind in ("reservation", "bounds"):
                self._changed.add(event.data["id"])
        self._on_change()
        if event.kind in _CHANGES_LINKS or event.kind == "bounds":
            self._wake.set()

    def _read(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            began = time.monotonic()
            try:
                self._read_once()
            except TrainerError as error:
                self._trouble(error)
            self._on_change()
            self._stop.wait(min(MOST_PAUSE_S, max(LEAST_PAUSE_S, time.monotonic() - began)))
            self._wake.wait(REFRESH_S)

    def _read_once(self) -> None:
        with self._lock:
            changed, reload = self._changed, self._reload or len(self._changed) > SINGLE_READS
            self._changed, self._reload = set(), False
        try:
            found = self._all_live() if reload else self._some(changed)
            network = self._client.network_json()
            health = self._client.send("GET", "/v1/healthz")
            lightpaths = self._client.send("GET", "/v1/lightpaths")["lightpaths"]
        except TrainerError:
            with self._lock:
                self._reload = True
            raise
        with self._lock:
            if reload:
                ended = {id_: each for id_, each in self.state.reservations.items() if each["state"] not in LIVE}
                self.state.replace(reservations={**ended, **found})
            else:
                self.state.put_reservations(found)
            self.state.replace(network=network, health=health, lightpaths=lightpaths, trouble=None)

    def _all_live(self) -> dict[str, dict[str, object]]:
        return {each["id"]: each for state in LIVE for each in self._client.list_json(state)["reservations"]}

    def _some(self, ids: set[str]) -> dict[str, dict[str, object]]:
        found = {}
        for id_ in ids:
            try:
                found[id_] = self._client.send("GET", f"/v1/reservations/{id_}", query={"counters": "false"})
            except ReservationRefusedError as error:
                if error.problem.get("status") != 404:  # a reservation of another tenant, or dropped
                    raise
        return found

    def _trouble(self, error: TrainerError) -> None:
        with self._lock:
            self.state.replace(trouble=str(error))
        self._on_change()
