"""Fixtures: a controller of the pair map on real Open vSwitch per test module; the longest modules run first."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from machine.polling import wait_until
from tests.processes.rig import MAP, Controller, OpenVSwitch

LONGEST = (
    "test_trainer_survival", "test_controller_standby", "test_controller_openapi", "test_sweep", "test_trainer_labels",
    "test_controller_crash", "test_extending", "test_trainer_cli", "test_controller_postgresql",
    "test_trainer_transformers", "test_trainer_ray", "test_trainer_controller", "test_controller_main",
    "test_controller_ledger", "test_trainer_lying_edges", "test_controller_switch_check", "test_trainer_local",
)  # fmt: skip
"""Started first, so that no worker runs one of them last (xdist keeps the order with `--no-loadscope-reorder`)."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        if Path(__file__).parent not in item.path.parents:
            return -1
        return LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)

    items.sort(key=rank)


@pytest.fixture(scope="module")
def ovs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenVSwitch]:
    switch = OpenVSwitch(tmp_path_factory.mktemp("ovs"))
    try:
        yield switch
    finally:
        switch.stop()


@pytest.fixture(scope="module")
def kind() -> type[Controller]:
    """Class of the controller process; a module may override it."""
    return Controller


@pytest.fixture(scope="module")
def started(ovs: OpenVSwitch, kind: type[Controller], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    controller = kind(tmp_path_factory.mktemp("controller"))
    ovs.build(controller.openflow_port)
    try:
        yield controller
    finally:
        controller.stop()
        controller.client.close()


@pytest.fixture
def controller(ovs: OpenVSwitch, started: Controller) -> Iterator[Controller]:
    wait_until(started.in_sync)
    initial = {node.name: (ovs.flows(node.name), ovs.meters(node.name)) for node in MAP.switches}
    yield started
    ovs.connect(started.openflow_port)
    wait_until(started.in_sync)
    for reservation in started.client.get("/v1/reservations").json()["reservations"]:
        started.client.delete(f"/v1/reservations/{reservation['id']}")
    wait_until(lambda: initial == {n.name: (ovs.flows(n.name), ovs.meters(n.name)) for n in MAP.switches})
