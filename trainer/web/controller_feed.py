"""Follows a controller: its events as they come, and the figures that events do not carry."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from typing import Any

from trainer.errors import ReservationRefusedError, TrainerError
from trainer.reservation.controller_client import ApiCredentials, ControllerClient
from trainer.reservation.event_stream import Event
from trainer.web.network_state import LIVE, NetworkState

Json = dict[str, Any]

REFRESH_S = 5.0
"""Interval of readings without events: what a calendar reserves changes with time alone."""

LEAST_PAUSE_S, MOST_PAUSE_S = 0.15, 1.0
"""Between readings is a pause as long as the last one took, within these limits."""

RETRY_S = 1.0
TOGETHER = 20
"""So many changed reservations are read before what has changed meanwhile is looked at; the newest come first."""

NOT_AVAILABLE = 501

_CHANGES_LINKS = frozenset({"link", "alarm", "switch", "reservation", "missed"})


class ControllerFeed:
    """Keeps a `NetworkState` up to date from three threads; `on_change` is called from them after each change.

    Reservations are read apart from the network, so that a new one is not behind a long reading.
    """

    def __init__(self, url: str, credentials: ApiCredentials, on_change: Callable[[], None]) -> None:
        """Raises: UsageError if the URL is not valid, NetworkError if the certificate file cannot be read."""
        self.url = url
        self.state = NetworkState()
        self._credentials = credentials
        self._on_change = on_change
        self._lock = threading.Lock()
        self.client().close()  # the certificate file can be read
        self._wake, self._wake_reservations, self._stop = threading.Event(), threading.Event(), threading.Event()
        self._changed: dict[str, None] = {}
        """Ids of reservations to read, the newest change last."""
        self._reload = self._has_events = True
        self._threads = [
            threading.Thread(target=work, name=name, daemon=True)
            for name, work in {
                "events": self._follow, "network": self._read_network, "reservations": self._read_reservations,
            }.items()
        ]  # fmt: skip

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
        self._wake_reservations.set()

    def ask_for(self, reservation: str) -> None:
        """Read a reservation that is not known yet."""
        with self._lock:
            self._note_changed(reservation)

    def _note_changed(self, reservation: str) -> None:
        self._changed.pop(reservation, None)
        self._changed[reservation] = None
        self._wake_reservations.set()

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
                    self._has_events = False  # a controller inside ryu-manager: all is read every REFRESH_S
                    self._reload = True
                    return
            except TrainerError as error:
                self._trouble(error)
            finally:
                client.close()
            self._stop.wait(RETRY_S)

    def _apply(self, event: Event, at_s: float | None) -> None:
        with self._lock:
            if event.kind == "missed":
                self._reload = True
                self._wake_reservations.set()
            else:
                self.state.apply(event, at_s)
            if event.kind == "reservation" or (event.kind == "bounds" and not self.state.has_version(event.data)):
                self._note_changed(event.data["id"])
        self._on_change()
        if event.kind in _CHANGES_LINKS:
            self._wake.set()

    def _read_network(self) -> None:
        """Read network, health and lightpaths when something may have changed them, and every REFRESH_S."""
        with closing(self.client()) as client:
            while not self._stop.is_set():
                self._wake.clear()
                began = time.monotonic()
                try:
                    network = client.network_json()
                    health = client.send("GET", "/v1/healthz")
                    lightpaths = client.send("GET", "/v1/lightpaths")["lightpaths"]
                    with self._lock:
                        self.state.replace(network=network, health=health, lightpaths=lightpaths, trouble=None)
                except TrainerError as error:
                    self._trouble(error)
                self._on_change()
                self._stop.wait(min(MOST_PAUSE_S, max(LEAST_PAUSE_S, time.monotonic() - began)))
                self._wake.wait(REFRESH_S)

    def _read_reservations(self) -> None:
        """Read reservations that have changed; all of them at the begin and after events were missed."""
        with closing(self.client()) as client:
            while not self._stop.is_set():
                self._wake_reservations.clear()
                with self._lock:
                    reload, self._reload = self._reload, not self._has_events
                    ids = list(self._changed)[-TOGETHER:]
                    for id_ in ids:
                        del self._changed[id_]
                try:
                    self._take_reservations(_all_live(client) if reload else None, _some(client, ids))
                except TrainerError as error:
                    with self._lock:
                        self._reload = self._reload or reload
                        self._changed = {**dict.fromkeys(ids), **self._changed}
                    self._trouble(error)
                    self._stop.wait(RETRY_S)
                    continue
                if reload or ids:
                    self._on_change()
                if not self._changed:
                    self._wake_reservations.wait(REFRESH_S)

    def _take_reservations(self, all_live: dict[str, Json] | None, found: dict[str, Json]) -> None:
        """Take over what was read; all that are live replace those known to be live."""
        with self._lock:
            if all_live is not None:
                ended = {id_: each for id_, each in self.state.reservations.items() if each["state"] not in LIVE}
                self.state.replace(reservations={**ended, **all_live})
            self.state.put_reservations(found)

    def _trouble(self, error: TrainerError) -> None:
        with self._lock:
            self.state.replace(trouble=str(error))
        self._on_change()


def _all_live(client: ControllerClient) -> dict[str, Json]:
    return {each["id"]: each for state in LIVE for each in client.list_json(state)["reservations"]}


def _some(client: ControllerClient, ids: list[str]) -> dict[str, Json]:
    found = {}
    for id_ in reversed(ids):
        try:
            found[id_] = client.send("GET", f"/v1/reservations/{id_}", query={"counters": "false"})
        except ReservationRefusedError as error:
            if error.problem.get("status") != 404:  # a reservation of another tenant, or dropped
                raise
    return found
