"""The reservation of a run: created, modified, renewed and released."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from trainer.errors import NetworkError, ReservationRefusedError
from trainer.reservation.api_types import FlowRequest, Reservation
from trainer.reservation.controller_client import ControllerClient
from trainer.reservation.lease_renewal import LeaseRenewal

log = logging.getLogger(__name__)

LIVE_STATES = ("active", "degraded")

GONE_CODES = ("not_found", "not_live")
"""Codes of refusals after which the reservation no longer exists."""


class ReservationGoneError(NetworkError):
    """The held reservation no longer exists; plan again without it."""

    code = "reservation_gone"


@dataclass
class HeldReservation:
    """Holds at most one reservation of `owner`, the cloud's host.

    `reservation`: None if nothing is held. `notify` receives a sentence on every failure. `lock`: to be held
    between reading the reservation and changing it.
    """

    controller: ControllerClient
    owner: str
    lease_s: float
    notify: Callable[[str], None]
    clock: Callable[[], float] = time.monotonic
    reservation: Reservation | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    _requested_flows: Sequence[FlowRequest] = ()
    _lease_ends_s: float = 0.0
    _renewal: LeaseRenewal | None = None

    @property
    def is_valid(self) -> bool:
        """Whether a reservation is held and its lease has not expired."""
        return self.reservation is not None and self.clock() < self._lease_ends_s

    def adopt(self, reservation: str) -> None:
        """Take over the reservation of an earlier cloud process, if it still exists; its flows block new ones."""
        try:
            found = self.controller.get(reservation)
        except NetworkError as error:
            self.notify(f"Reservation {reservation} of the earlier run cannot be taken over: {error}")
            return
        if found.state in LIVE_STATES:
            self.reservation, self._lease_ends_s = found, self.clock() + self.lease_s

    def reserve(self, flows: Sequence[FlowRequest], retries: int = 1) -> Reservation:
        """Reserve these flows instead of the held ones; a refusal leaves the reservation unchanged.

        Raises: ReservationGoneError if the held reservation no longer exists, ReservationRefusedError,
        ControllerUnreachableError.
        """
        began_s = self.clock()
        reservation = self.reservation = self._create_or_modify(flows, retries)
        self._requested_flows, self._lease_ends_s = flows, began_s + self.lease_s
        return reservation

    def _create_or_modify(self, flows: Sequence[FlowRequest], retries: int) -> Reservation:
        if self.reservation is None:
            return self.controller.create(self.owner, self.lease_s, flows)
        try:
            return self.controller.modify(self.reservation.id, self.lease_s, flows, retries)
        except ReservationRefusedError as refusal:
            if refusal.problem.get("code") not in GONE_CODES:
                raise
            raise ReservationGoneError(f"Reservation {self.reservation.id} no longer exists: {refusal}") from refusal

    def discard(self, error: NetworkError) -> None:
        """Drop a reservation that no longer exists."""
        self.notify(f"{error} Creating a new reservation.")
        self.reservation = None

    def release_edge(self, edge: str) -> None:
        """Release the flows of an edge; the other flows stay. Never raises."""
        if self.reservation is None:
            return
        flows = [flow for flow in self._requested_flows if flow.name not in (f"{edge}-up", f"{edge}-down")]
        try:
            if flows:
                self.reservation = self.controller.modify(self.reservation.id, self.lease_s, flows, retries=0)
                self._requested_flows = flows
            else:
                reservation, self.reservation = self.reservation, None
                self.controller.release(reservation.id)
        except NetworkError as error:
            self.notify(f"The bandwidth of {edge} could not be released: {error} It expires with the lease.")

    def drop_flows(self) -> None:
        """Release the reservation while nothing is sent; the next one may be made at any time. Never raises."""
        reservation, self.reservation, self._requested_flows = self.reservation, None, ()
        if reservation is not None:
            self._release(reservation)

    def start_renewal(self) -> None:
        """Renew the lease periodically from now on, independently of the rounds."""
        if self._renewal is None:
            self._renewal = LeaseRenewal(self.lease_s / 3, self._renew)

    def _renew(self) -> None:
        if not self.lock.acquire(blocking=False):
            return  # a modification in progress renews the lease as well
        try:
            if self.reservation is not None:
                began_s = self.clock()
                self.reservation = self.controller.renew(self.reservation.id, self.lease_s)
                self._lease_ends_s = began_s + self.lease_s
        except NetworkError as error:
            log.info("lease=%s renewed=no reason=%r", self.lease_s, str(error))  # the next round reports it
        finally:
            self.lock.release()

    def release(self) -> None:
        """Release the reservation once; if the controller does not answer, it expires with its lease."""
        if self._renewal is not None:
            self._renewal.stop()
        with self.lock:
            reservation, self.reservation = self.reservation, None
        if reservation is not None:
            self._release(reservation)

    def _release(self, reservation: Reservation) -> None:
        try:
            self.controller.release(reservation.id)
        except NetworkError as error:
            self.notify(f"Reservation {reservation.id} could not be released: {error} It expires with its lease.")
