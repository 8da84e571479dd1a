"""Bearer tokens, kept in the ledger's database as digests.

A token is 256 random bits, so a plain SHA-256 of it is enough: there is nothing to guess, and no dictionary to try. A
slow hash protects secrets that people choose; here it would only let strangers burn our time, one hash a request.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import BigInteger, Column, Engine, Float, Integer, MetaData, String, Table, insert, select, update
from sqlalchemy.exc import IntegrityError

from controller.errors import StartError, Unauthorized
from controller.security.access import ANYBODY, Caller, Quota, Scope
from controller.storage.database import open_database

PREFIX = "paceline_"
"""So that a leaked token can be told for what it is."""

FRESH_S = 1.0
"""A token that is revoked works this long at most; nobody has to ask the database for every request."""

_TABLE = Table(
    "tokens",
    MetaData(),
    Column("name", String(64), primary_key=True),
    Column("digest", String(64), nullable=False, unique=True),
    Column("tenant", String(64), nullable=False),
    Column("scopes", String(64), nullable=False),
    Column("max_reservations", Integer),
    Column("max_bps", BigInteger),
    Column("created_at_s", Float, nullable=False),
    Column("revoked_at_s", Float),
)


@dataclass(frozen=True, slots=True)
class Token:
    """A token as it is listed; the secret itself is not kept."""

    name: str
    caller: Caller
    created_at: datetime
    revoked_at: datetime | None


class Tokens:
    """The tokens in one database. Thread-safe."""

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        """Open it.

        Raises: StartError if the database cannot be opened.
        """
        self._engine: Engine = open_database(url)
        self._clock = clock
        self._lock = threading.Lock()
        self._known: Mapping[str, Token] = {}
        self._read_at_s: float | None = None

    def add(self, name: str, tenant: str, scopes: frozenset[Scope], quota: Quota) -> str:
        """Make a token; what it returns is shown once and never again.

        Raises: StartError if the name is taken.
        """
        secret = PREFIX + secrets.token_urlsafe(32)
        row = {
            "name": name,
            "digest": _digest(secret),
            "tenant": tenant,
            "scopes": ",".join(sorted(scopes)),
            "max_reservations": quota.reservations,
            "max_bps": quota.bandwidth_bps,
            "created_at_s": self._clock(),
        }
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(_TABLE).values(row))
        except IntegrityError as error:
            sentence = f"There is a token {name} already, or was; a name stands for one token for ever."
            raise StartError(sentence, exit_code=2) from error
        return secret

    def revoke(self, name: str) -> None:
        """End a token for ever.

        Raises: StartError if there is none of that name.
        """
        still = _TABLE.c.name == name, _TABLE.c.revoked_at_s.is_(None)
        with self._engine.begin() as connection:
            changed = connection.execute(update(_TABLE).where(*still).values(revoked_at_s=self._clock()))
        if not changed.rowcount:
            raise StartError(f"There is no token {name} that could be revoked.", exit_code=2)

    def list(self) -> list[Token]:
        """All tokens there ever were, by name."""
        return sorted(self._read().values(), key=lambda token: token.name)

    @property
    def is_fresh(self) -> bool:
        """Whether `caller_of` answers from memory."""
        read_at_s = self._read_at_s
        return read_at_s is not None and 0 <= time.monotonic() - read_at_s < FRESH_S

    def refresh(self) -> None:
        """Read them anew if what is known is old."""
        with self._lock:
            if not self.is_fresh:
                self._known = self._read()
                self._read_at_s = time.monotonic()

    @property
    def are_configured(self) -> bool:
        """Whether there ever was a token: revoking the last one opens no door."""
        return bool(self._known)

    def caller_of(self, authorization: str | None) -> Caller:
        """Who shows this Authorization header; `refresh` first.

        Raises: Unauthorized if tokens are configured and this is none of them.
        """
        if not self._known:
            return ANYBODY
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise Unauthorized("This needs a token: send the header Authorization: Bearer TOKEN.")
        token = self._known.get(_digest(secret.strip()))
        if token is None or token.revoked_at is not None:
            raise Unauthorized("The token is not known here, or has been revoked.")
        return token.caller

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    def _read(self) -> dict[str, Token]:
        with self._engine.connect() as connection:
            rows = [dict(row) for row in connection.execute(select(_TABLE)).mappings()]
        return {row["digest"]: _token(row) for row in rows}


def _token(row: Mapping[str, object]) -> Token:
    scopes = frozenset(Scope(scope) for scope in str(row["scopes"]).split(","))
    reservations, bandwidth_bps = row["max_reservations"], row["max_bps"]
    assert reservations is None or isinstance(reservations, int)
    assert bandwidth_bps is None or isinstance(bandwidth_bps, int)
    caller = Caller(str(row["tenant"]), scopes, Quota(reservations, bandwidth_bps), str(row["name"]))
    revoked = row["revoked_at_s"]
    return Token(caller.token or "", caller, _moment(row["created_at_s"]), _moment(revoked) if revoked else None)


def _moment(seconds: object) -> datetime:
    assert isinstance(seconds, float)
    return datetime.fromtimestamp(seconds, UTC)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
