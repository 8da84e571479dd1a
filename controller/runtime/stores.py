"""Ledger, tokens and audit log, opened together in one database."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass

from controller.runtime.environment import default_ledger
from controller.security.audit import DAY_S, RETENTION_DAYS, AuditLog
from controller.security.tokens import TokenStore
from controller.storage.ledger import Ledger

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stores:
    """The open stores of one controller."""

    ledger: Ledger
    tokens: TokenStore
    audit: AuditLog
    audit_days: int = RETENTION_DAYS

    @property
    def access_summary(self) -> str:
        """A sentence that says which clients may use the REST API."""
        if self.tokens.is_configured:
            return "Clients need a token."
        return "No tokens configured: open to this machine and the management network only."

    def forget(self, now_s: float) -> None:
        """Delete audit records older than the retention."""
        deleted = self.audit.delete_before(now_s - self.audit_days * DAY_S)
        if deleted:
            log.info("audit log: deleted=%d older_than_days=%d", deleted, self.audit_days)

    def close(self) -> None:
        """Close tokens and audit log; the service closes the ledger."""
        self.tokens.close()
        self.audit.close()


def open_stores(url: str | None, map_name: str, audit_days: int = RETENTION_DAYS) -> Stores:
    """Open or create the stores; `url` None: the default database of the map. `audit_days`: retention of audit records.

    Raises: StartError if the URL is wrong or the database cannot be opened.
    """
    url = url or default_ledger(map_name)
    with ExitStack() as opened:
        ledger = Ledger(url, map_name)
        opened.callback(ledger.close)
        tokens = TokenStore(url)
        opened.callback(tokens.close)
        audit = AuditLog(url, map_name)
        opened.callback(audit.close)
        tokens.refresh()
        opened.pop_all()
    return Stores(ledger, tokens, audit, audit_days)
