"""Bearer tokens (RFC 6750), stored in the ledger's database as digests.

A token is 256 random bits, so one SHA-256 is enough: a dictionary attack does not apply. A slow hash is for passwords
that people choose; here it would only let unauthenticated requests consume CPU time.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import BigInteger, Column, Engine, Float, Integer, MetaData, String, Table, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from controller.errors import StartError, Unauthorized
from controller.security.access import ANONYMOUS, Caller, Quota, Scope
from controller.storage.access import DatabaseAccess
from controller.storage.database import exit_code_of, open_database

log = logging.getLogger(__name__)

PREFIX = "paceline_"
"""Makes a leaked token recognizable, for example to secret scanners."""

CACHE_S = 1.0
"""How long tokens are cached: a revoked token is accepted for this long at most."""

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
    """A token without its secret, which is not stored."""

    name: str
    caller: Caller
    created_at: datetime
    revoked_at: datetime | None


class TokenStore:
    """Tokens in one database. Thread-safe."""

    def __init__(self, url: str, clock: Callable[[], float] = time.time) -> None:
        """Open the database.

        Raises: StartError if the database cannot be opened.
        """
        self._engine: Engine = open_database(url)
        self._database = DatabaseAccess(self._engine)
        self._clock = clock
        self._lock = threading.Lock()
        self._by_digest: Mapping[str, Token] = {}
        self._read_at_s: float | None = None
        self._is_failing = False

    def add(self, name: str, tenant: str, scopes: frozenset[Scope], quota: Quota) -> str:
        """Create a token and return its secret, which cannot be read again.

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
            sentence = f"There is or was a token {name}; names of tokens are not used again."
            raise StartError(sentence, exit_code=2) from error
        return secret

    def revoke(self, name: str) -> None:
        """Revoke a token permanently.

        Raises: StartError if there is no valid token of that name.
        """
        valid = _TABLE.c.name == name, _TABLE.c.revoked_at_s.is_(None)
        with self._engine.begin() as connection:
            changed = connection.execute(update(_TABLE).where(*valid).values(revoked_at_s=self._clock()))
        if not changed.rowcount:
            raise StartError(f"There is no valid token {name}.", exit_code=2)

    def list(self) -> list[Token]:
        """All tokens, revoked ones included, by name."""
        return sorted(self._read().values(), key=lambda token: token.name)

    @property
    def is_cached(self) -> bool:
        """Whether `authenticate` may use the tokens read last."""
        read_at_s = self._read_at_s
        return read_at_s is not None and 0 <= time.monotonic() - read_at_s < CACHE_S

    def refresh(self) -> None:
        """Read the tokens again unless they are cached; while the database cannot be read, those read last are valid.

        Raises: StartError if they were never read.
        """
        is_first = self._read_at_s is None
        if self.is_cached or not self._lock.acquire(blocking=is_first):
            return  # another thread is reading them
        try:
            self._by_digest = self._read()
            if self._is_failing:
                log.warning("tokens: readable again")
            self._is_failing = False
        except (SQLAlchemyError, OSError) as error:
            reason = str(error).splitlines()[0]
            if is_first:
                raise StartError(f"The tokens cannot be read: {reason}", exit_code_of(error)) from error
            if not self._is_failing:
                log.error("tokens: cannot be read: %s; those read last stay valid", reason)
            self._is_failing = True
        finally:
            self._lock.release()
        self._read_at_s = time.monotonic()

    @property
    def is_configured(self) -> bool:
        """Whether a token was ever created: revoking the last one does not turn authentication off."""
        return bool(self._by_digest)

    def authenticate(self, authorization: str | None) -> Caller:
        """Return the caller of this Authorization header; call `refresh` first. Source: RFC 6750 §2.1.

        Raises: Unauthorized if tokens are configured and the header has no valid one.
        """
        if not self._by_digest:
            return ANONYMOUS
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise Unauthorized("This needs a token: send the header Authorization: Bearer TOKEN.")
        token = self._by_digest.get(_digest(secret.strip()))
        if token is None or token.revoked_at is not None:
            raise Unauthorized("The token is not known here, or has been revoked.")
        return token.caller

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _read(self) -> dict[str, Token]:
        rows = self._database.read(lambda connection: connection.execute(select(_TABLE)).mappings().all())
        return {row["digest"]: _token(dict(row)) for row in rows}


def _token(row: Mapping[str, object]) -> Token:
    scopes = frozenset(Scope(scope) for scope in str(row["scopes"]).split(","))
    reservations, bandwidth_bps = row["max_reservations"], row["max_bps"]
    assert reservations is None or isinstance(reservations, int)
    assert bandwidth_bps is None or isinstance(bandwidth_bps, int)
    caller = Caller(str(row["tenant"]), scopes, Quota(reservations, bandwidth_bps), str(row["name"]))
    revoked = row["revoked_at_s"]
    return Token(caller.token or "", caller, _utc(row["created_at_s"]), _utc(revoked) if revoked else None)


def _utc(seconds: object) -> datetime:
    assert isinstance(seconds, float)
    return datetime.fromtimestamp(seconds, UTC)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
