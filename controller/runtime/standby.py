"""Opens the stores of the active controller, or of a standby, which writes to them only after it has taken over."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from controller.errors import StartError
from controller.runtime.assembly import Assembly
from controller.runtime.stores import Stores, open_stores
from controller.security.tokens import TokenStore
from controller.storage.advisory_lock import LEASE_S, AdvisoryLock, Succession
from controller.storage.ledger import Ledger
from controller.storage.writer_lock import WriterLock, backend_of

STANDBY = "Standby: another controller is active, and this one waits to take over."


@dataclass(frozen=True, slots=True)
class Opened:
    """Open stores; `start` starts the controller on them."""

    tokens: TokenStore
    lock: WriterLock
    summary: str
    start: Callable[[Assembly], None]


@dataclass(frozen=True, slots=True)
class StoresOpening:
    """How to open the stores; see open_stores."""

    url: str | None
    map_name: str
    audit_days: int
    reservation_days: float
    address: str

    @contextlib.contextmanager
    def as_writer(self) -> Iterator[Opened]:
        """As the writer of the map.

        Raises: StartError if there is another one.
        """
        with self._stores() as stores:
            yield _active(stores)

    @contextlib.contextmanager
    def as_standby(self) -> Iterator[Opened]:
        """As the writer if there is none, else as a standby.

        Raises: StartError.
        """
        if self.url is None or backend_of(self.url) != "postgresql":
            sentence = "A standby needs a ledger on PostgreSQL, which both controllers use: --ledger postgresql+psycopg://…"
            raise StartError(sentence, exit_code=2)
        lock = AdvisoryLock(self.url, self.map_name, self.address)
        with contextlib.ExitStack() as opened:
            opened.callback(lock.release)
            stores = opened.enter_context(self._stores(lock))
            if lock.acquire_at_start():
                yield _active(stores)
                return
            succession = Succession(lock, LEASE_S)
            succession.writer = lock.writer()
            ledger = Ledger(self.url, self.map_name)
            opened.callback(ledger.close)
            yield Opened(
                stores.tokens, lock, STANDBY, lambda assembly: assembly.stand_by(stores, succession, ledger)
            )  # fmt: skip

    @contextlib.contextmanager
    def _stores(self, lock: WriterLock | None = None) -> Iterator[Stores]:
        stores = open_stores(
            self.url, self.map_name, self.audit_days, self.reservation_days, self.address, lock
        )  # fmt: skip
        try:
            yield stores
        finally:
            stores.ledger.close()
            stores.close()


def _active(stores: Stores) -> Opened:
    return Opened(stores.tokens, stores.lock, stores.access_summary, lambda assembly: assembly.activate(stores))
