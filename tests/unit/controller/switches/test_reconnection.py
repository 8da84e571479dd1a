"""A switch is in step on the connection over which it was read; over a later one it is read again first."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future

import pytest

from controller.dataplane.southbound import Reading, SwitchConnected, SwitchDisconnected
from controller.domain.events import ServiceEvent, SwitchChanged
from controller.errors import SwitchDown
from controller.switches.switch_manager import SwitchManager
from tests.unit.controller.simulated_switches import PAIR, ConfirmingSwitches


class SlowlyReadSwitches(ConfirmingSwitches):
    """They describe their entries when `describe` is called."""

    def __init__(self) -> None:
        super().__init__()
        self.readings: list[Future[Reading]] = []

    def read_state(self, datapath_id: int, timeout_s: float, on_request: Callable[[], None]) -> Future[Reading]:  # noqa: ARG002
        self.readings.append(Future())
        return self.readings[-1]

    def describe(self) -> None:
        while self.readings:
            self.readings.pop().set_result(Reading({}))

    def reconnect(self, datapath_id: int) -> None:
        self.connections[datapath_id] += 1


@pytest.fixture
def published() -> list[ServiceEvent]:
    return []


@pytest.fixture
def switches() -> SlowlyReadSwitches:
    return SlowlyReadSwitches()


@pytest.fixture
def manager(switches: SlowlyReadSwitches, published: list[ServiceEvent]) -> SwitchManager:
    manager = SwitchManager(PAIR, switches, published.append)
    manager.process_events()
    manager.resynchronize()
    switches.describe()
    assert manager.in_step() == set()  # until the meters of the first readings have been taken over
    for first in manager.pop_first_readings():
        manager.synchronize_first(first)
    assert manager.in_step() == {"s1", "s2"}
    published.clear()
    return manager


def test_a_replaced_connection_is_not_in_step_before_its_event_is_processed(
    manager: SwitchManager, switches: SlowlyReadSwitches, published: list[ServiceEvent]
) -> None:
    switches.reconnect(1)
    assert manager.in_step() == {"s2"}
    assert manager.sync_state("s1") == "out_of_step"
    with pytest.raises(SwitchDown, match="s1"):
        manager.require_in_step(["s1", "s2"])
    switches.events.put(SwitchDisconnected(1))
    switches.events.put(SwitchConnected(1, {}))
    manager.process_events()
    manager.resynchronize()
    assert manager.in_step() == {"s2"}
    switches.describe()
    assert manager.in_step() == {"s1", "s2"}
    assert published[-1] == SwitchChanged("s1", "in_step")


def test_a_connection_that_is_replaced_while_it_is_read_is_read_again(
    manager: SwitchManager, switches: SlowlyReadSwitches
) -> None:
    switches.reconnect(1)
    manager.resynchronize()
    switches.reconnect(1)
    switches.describe()
    assert manager.in_step() == {"s2"}, "what was read is the state of the connection before"
    manager.resynchronize()
    switches.describe()
    assert manager.in_step() == {"s1", "s2"}
