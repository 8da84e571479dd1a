"""What is kept in one database: the ledger, the tokens, the audit log."""

from __future__ import annotations

from dataclasses import dataclass

from controller.ledger import Ledger
from controller.security.audit import Audit
from controller.security.tokens import Tokens
from controller.surroundings import default_ledger


@dataclass(frozen=True, slots=True)
class Books:
    """All three, open."""

    ledger: Ledger
    tokens: Tokens
    audit: Audit

    @property
    def doors(self) -> str:
        """A sentence: who may use the REST interface."""
        if self.tokens.are_configured:
            return "Tokens are needed."
        return "No tokens: for this machine and the management network only."

    def close(self) -> None:
        """Let go of tokens and audit log; the ledger is its service's to close."""
        self.tokens.close()
        self.audit.close()


def open_books(url: str | None, map_name: str) -> Books:
    """Open or create them; None: where the map's are by default.

    Raises: StartError if the URL is wrong or the database cannot be opened.
    """
    url = url or default_ledger(map_name)
    books = Books(Ledger(url, map_name), Tokens(url), Audit(url, map_name))
    books.tokens.refresh()
    return books
