"""What is kept in one database: the ledger, the tokens, the audit log."""

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
    """All three, open."""

    ledger: Ledger
    tokens: TokenStore
    audit: AuditLog
    audit_days: int = RETENTION_DAYS

    @property
    def access_summary(self) -> str:
        """A sentence: who may use the REST interface."""
        if self.tokens.is_configured:
            return "Tokens are needed."
        return "No tokens: for this machine and the management network only."

    def forget(self, now_s: float) -> None:
        """Drop what is older in the audit log than it is to be kept."""
        forgotten = self.audit.delete_before(now_s - self.audit_days * DAY_S)
        if forgotten:
            log.info("audit log: forgotten=%d older_than_days=%d", forgotten, self.audit_days)

    def close(self) -> None:
        """Let go of tokens and audit log; the ledger is its service's to close."""
        self.tokens.close()
        self.audit.close()


def open_stores(url: str | None, map_name: str, audit_days: int = RETENTION_DAYS) -> Stores:
    """Open or create them; None: where the map's are by default. `audit_days`: so long entries of the log are kept.

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
