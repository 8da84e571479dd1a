"""The service against its own description: schemathesis asks whatever OpenAPI allows, and what it does not.

Left out: `use_after_free`, since a released reservation can still be looked at; `positive_data_acceptance`, whose place
`refused_with_good_reason` takes (tests/processes/sense.py); the stream of events, which does not end.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from controller.security.access import Quota, Scope
from controller.security.tokens import TokenStore
from machine.polling import wait_until
from tests.processes.rig import Controller, OpenVSwitch, needs_open_vswitch

pytestmark = needs_open_vswitch

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def ovs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenVSwitch]:
    switch = OpenVSwitch(tmp_path_factory.mktemp("ovs"))
    yield switch
    switch.stop()


def interrogate(controller: Controller, directory: Path, *options: str) -> None:
    """Fail with what schemathesis found, if anything."""
    hooks = {"SCHEMATHESIS_HOOKS": "tests.processes.sense", "PYTHONPATH": str(ROOT)}
    description = f"http://127.0.0.1:{controller.rest_port}/openapi.json"
    command = [
        *(str(Path(sys.executable).with_name("schemathesis")), "run", description, "--no-color", "--seed", "1"),
        *("--checks", "all", "--exclude-checks", "use_after_free,positive_data_acceptance"),
        *("--exclude-path", "/v1/events", "--request-timeout", "20", "--max-examples", "5", *options),
    ]
    ended = subprocess.run(
        command, capture_output=True, text=True, cwd=directory, env={**os.environ, **hooks}, timeout=240, check=False
    )
    if ended.returncode:
        pytest.fail(f"{ended.stdout}\n{ended.stderr}\n{controller.log.read_text()[-5000:]}", pytrace=False)


def test_without_tokens_every_answer_is_as_described(ovs: OpenVSwitch, tmp_path: Path) -> None:
    controller = Controller(tmp_path)
    try:
        ovs.build(controller.openflow_port)
        wait_until(controller.in_step)
        interrogate(controller, tmp_path)
        assert controller.in_step()
    finally:
        controller.stop()
        controller.client.close()


def test_with_tokens_every_answer_is_as_described_and_none_goes_to_strangers(ovs: OpenVSwitch, tmp_path: Path) -> None:
    with closing(TokenStore(f"sqlite:///{tmp_path}/ledger.db")) as tokens:
        secret = tokens.add("all", "all", frozenset({Scope.OPERATE}), Quota())
    controller = Controller(tmp_path)
    try:
        assert "Clients need a token." in controller.greeting
        assert httpx.get(f"http://127.0.0.1:{controller.rest_port}/v1/network").status_code == 401
        ovs.connect(controller.openflow_port)
        wait_until(controller.in_step)
        phases = ("--phases", "examples,fuzzing,stateful")
        interrogate(controller, tmp_path, "--header", f"Authorization: Bearer {secret}", *phases)
    finally:
        controller.stop()
        controller.client.close()
