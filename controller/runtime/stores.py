"""Ledger, tokens and audit log, opened together in one database."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass

from controller.runtime.environment import default_ledger
from controller.security.audit import DAY_S, RETENTION_DAYS, AuditLog
from controller.security.tokens import TokenStore
from controller.service.retention import RETENTION_INTERVAL_S
from controller.storage.ledger import Ledger
from controller.storage.writer_lock import WriterLock, acquire_writer_lock

log = logging.getLogger(__name__)

RESERVATION_DAYS = 90
"""Default retention of ended reservations."""


@dataclass(frozen=True, slots=True)
class Stores:
    """The open stores of one controller."""

    ledger: Ledger
    tokens: TokenStore
    audit: AuditLog
    lock: WriterLock
    audit_days: int = RETENTION_DAYS
    reservation_days: float = RESERVATION_DAYS

    @property
    def retention_interval_s(self) -> float:
        """How often to call `forget`: every hour, or ten times within the retention of reservations."""
        return min(RETENTION_INTERVAL_S, self.reservation_days * DAY_S / 10)

    @property
    def access_summary(self) -> str:
        """A sentence that says which clients may use the REST API."""
        if self.tokens.is_configured:
            return "Clients need a token."
        return "No tokens configured: open to this machine and the management network only."

    def forget(self, now_s: float) -> None:
        """Delete audit records and ended reservations older than their retention."""
        deleted = self.audit.delete_before(now_s - self.audit_days * DAY_S)
        if deleted:
            log.info("audit log: deleted=%d older_than_days=%d", deleted, self.audit_days)
        deleted = self.ledger.delete_ended(now_s - self.reservation_days * DAY_S)
        if deleted:
            log.info("ledger: deleted=%d reservations ended_before_days=%g", deleted, self.reservation_days)

    def close(self) -> None:
        """Close tokens and audit log, and release the ledger, which the service has closed."""
        self.tokens.close()
        self.audit.close()
        self.lock.release()


def open_stores(
    url: str | None,
    map_name: str,
    audit_days: int = RETENTION_DAYS,
    reservation_days: float = RESERVATION_DAYS,
    address: str = "",
    lock: WriterLock | None = None,
) -> Stores:
    """Open or create the stores, and become the one writer of the map's reservations.

    `url` None: the default database of the map. `audit_days`, `reservation_days`: retention of audit records and of
    ended reservations. `address`: URL of the REST API for standbys. `lock`: already acquired.

    Raises: StartError if the URL is wrong, the database cannot be opened, or another controller is the writer.
    """
    url = url or default_ledger(map_name)
    with ExitStack() as opened:
        lock = lock or acquire_writer_lock(url, map_name, address)
        opened.callback(lock.release)
        ledger = Ledger(url, map_name, lock.require_writer)
        opened.callback(ledger.close)
        tokens = TokenStore(url)
        opened.callback(tokens.close)
        audit = AuditLog(url, map_name)
        opened.callback(audit.close)
        tokens.refresh()
        opened.pop_all()
    return Stores(ledger, tokens, audit, lock, audit_days, reservation_days)
