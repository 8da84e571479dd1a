"""A standby that has followed the ledger has only the last changes left to load when it takes over."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import chain, repeat
from pathlib import Path

import pytest

from controller.dataplane.entries import Entries, Key, key_of
from controller.dataplane.southbound import ChangesByDatapath, Pause
from controller.domain.network import Network
from controller.service import loading
from controller.service.reservation_service import Service
from controller.storage.ledger import Ledger
from machine.polling import wait_until
from tests.simulated_service import StoringSwitches
from tests.unit.controller.service.test_setup import spec
from tests.unit.controller.simulated_switches import PAIR


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/ledger.db"


@contextmanager
def running(service: Service) -> Iterator[Service]:
    service.start()
    try:
        wait_until(lambda: service.queries.switches_up() == len(PAIR.switches))
        yield service
    finally:
        service.stop()


class CountingSwitches(StoringSwitches):
    """Keep the keys of changed entries."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self.changed: list[Key] = []

    def apply(self, stages: Iterable[ChangesByDatapath | Pause], timeout_s: float) -> Future[None]:
        kept = list(stages)
        for stage in kept:
            for changes in () if isinstance(stage, Pause) else stage.values():
                self.changed += [key_of(change.entry) for change in changes]
        return super().apply(kept, timeout_s)


def copied(switches: StoringSwitches) -> dict[str, Entries]:
    return {name: dict(entries) for name, entries in switches.installed().items()}


def flows_of(entries: Entries) -> Entries:
    return {key: entry for key, entry in entries.items() if key[0] != "meter"}


def make(service: Service, numbers: range) -> list[str]:
    return [service.reserve(spec(number)).result(60)[0].id for number in numbers]


def test_a_takeover_loads_what_has_changed_since_the_standby_last_read(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "controller.service.loading")
    switches = CountingSwitches(PAIR)
    standby = Service(PAIR, switches, Ledger(url, "pair"))
    with running(Service(PAIR, switches, Ledger(url, "pair"))) as active:
        made = make(active, range(8))
        active.queries.reservations()  # their bounds are told anew
        active._state.writer.flush(everything=True)
        standby._lifecycle.loader.follow(lambda: False)
        active.release(made[0])
        last = make(active, range(20, 22))
        changed = {each.id for each in active._store.published_live()} - set(made[1:])
        entries = copied(switches)
    assert changed == set(last)
    switches.reconnect()
    switches.changed.clear()
    with running(standby):
        assert {each.id for each in standby.queries.reservations()} == {*made[1:], *last}
        assert copied(switches) == entries
        assert not switches.changed, "nothing was left to change"
    assert "loaded reservations=9 changed=2" in caplog.messages


def test_following_stops_where_it_is_told_to_and_the_takeover_loads_the_rest(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "AT_ONCE", 2)
    switches = StoringSwitches(PAIR)
    with running(Service(PAIR, switches, Ledger(url, "pair"))) as active:
        made = make(active, range(7))
        entries = copied(switches)
    for most in range(9):
        switches.reconnect()
        standby = Service(PAIR, switches, Ledger(url, "pair"))
        standby._lifecycle.loader.follow(chain(repeat(False, most), repeat(True)).__next__)
        with running(standby):
            assert {each.id for each in standby.queries.reservations()} == set(made)
            assert {name: flows_of(each) for name, each in copied(switches).items()} == {
                name: flows_of(each) for name, each in entries.items()
            }
