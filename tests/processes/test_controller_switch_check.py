"""What real Open vSwitch says it can do, asked by the controller it is connected to and without one."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from machine.polling import wait_until
from tests.processes.rig import MAP, Controller, OpenVSwitch, free_port, needs_open_vswitch

pytestmark = needs_open_vswitch

CHECK = [sys.executable, "-m", "controller.runtime.switch_check_command"]


def check(*arguments: str, code: int = 0, **environment: str) -> tuple[str, str]:
    done = subprocess.run(
        [*CHECK, *arguments], capture_output=True, text=True, check=False, timeout=90,
        env={**os.environ, "COLUMNS": "160", **environment},
    )  # fmt: skip
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout, done.stderr


def url_of(controller: Controller) -> str:
    return str(controller.client.base_url)


def test_the_controller_tells_what_open_vswitch_says_of_itself(ovs: OpenVSwitch, controller: Controller) -> None:
    said: dict[str, Any] = controller.client.get("/v1/switches/s1/capabilities").raise_for_status().json()
    assert (said["switch"], said["datapath_id"], said["holds"]) == ("s1", "0000000000000001", True)
    assert (said["description"]["hardware"], said["table_count"]) == ("Open vSwitch", 254)
    in_its_own_tool = ovs.ofctl("meter-features", "s1")
    assert f"max_meter:{said['meters']['max_meters']} max_bands:{said['meters']['max_bands']}" in in_its_own_tool
    assert {port["port"]: port["name"] for port in said["ports"]} == {
        port.number: port.interface for port in MAP.ports if port.node == "s1"
    }
    entries = {f"table {number}: entries": len(ovs.flows("s1", f"table={number}")) for number in (0, 1)}
    needed = {check["subject"]: check["needed"] for check in said["checks"]}
    assert {name: needed[name] for name in entries} == {name: f"more than {count}" for name, count in entries.items()}
    assert needed["meters"] == f"{len(ovs.meters('s1'))} and one of each flow that enters here"
    assert controller.client.get("/v1/switches/0000000000000001/capabilities").json()["switch"] == "s1"


def test_a_switch_that_is_unknown_or_away_is_told(ovs: OpenVSwitch, controller: Controller) -> None:
    unknown = controller.client.get("/v1/switches/s9/capabilities")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    _, told = check("s9", "--controller", url_of(controller), code=2)
    assert told == "Error: There is no switch s9 on map pair; its switches are s1 (0000000000000001), "\
                   "s2 (0000000000000002).\n"
    ovs.disconnect("s1")
    try:
        wait_until(lambda: controller.switches_up() == 1)
        _, told = check("s1", "--controller", f"http://127.0.0.1:{free_port()},{url_of(controller)}", code=3)
        assert told == "Error: Switch s1 is not connected.\n"
    finally:
        ovs.connect(controller.openflow_port)
        wait_until(controller.in_sync)


def test_the_command_prints_every_need_and_ends_with_what_would_not_hold(controller: Controller) -> None:
    printed, _ = check("1", "--controller", url_of(controller))
    assert printed.startswith("s1 0000000000000001: Nicira, Inc., Open vSwitch")
    assert re.search(r"meters: bursts +│ yes +│ yes +│ holds", printed)
    assert printed.endswith("All that it states holds.\n")


def test_a_switch_is_asked_without_a_controller_and_stays_as_it_is(
    ovs: OpenVSwitch, controller: Controller, tmp_path: Path
) -> None:
    entries, port = (ovs.flows("s1"), ovs.meters("s1")), free_port()
    map_file = tmp_path / "wrong.yaml"
    text = (Path(__file__).parents[2] / "topologies/pair.yaml").read_text()
    changed = text.replace("{ends: [edge1, s1],", "{ends: [edge1, s1], ports: [null, 40],")
    assert changed != text
    map_file.write_text(changed)
    listen = "--listen", f"127.0.0.1:{port}"
    current = ovs.vsctl("get-controller", "s1").strip()
    try:
        ovs.vsctl("set-controller", "s1", current, f"tcp:127.0.0.1:{port}")
        printed, told = check("s1", *listen, "--map", str(map_file), "--json", code=1)
        content = json.loads(printed)
        assert [each["subject"] for each in content["checks"] if each["verdict"] == "fails"] == ["port 40"]
        assert told == f"Waiting at 127.0.0.1:{port} for switch 0000000000000001.\n"
        asked = controller.client.get("/v1/switches/s1/capabilities").json()
        same = "description", "table_count", "tables", "meters", "groups"
        assert {name: content[name] for name in same} == {name: asked[name] for name in same}
    finally:
        ovs.vsctl("set-controller", "s1", current)
    wait_until(controller.in_sync)
    assert (ovs.flows("s1"), ovs.meters("s1")) == entries


def test_wrong_values_are_told_before_anything_is_listened_to(tmp_path: Path) -> None:
    listen = "--listen", f"127.0.0.1:{free_port()}"
    assert "'sw1' is not a datapath id" in check("sw1", *listen, code=2)[1]
    assert "There is no switch sw1 on map pair" in check("sw1", *listen, "--map", "pair", code=2)[1]
    assert "has not connected within 0.2 s" in check("1", *listen, "--wait", "0.2", code=3)[1]
    assert "either --controller or --listen" in check("1", *listen, "--controller", "http://h", code=2)[1]
    assert "--map and --openflow-… go with --listen" in check("1", "--map", "pair", code=2)[1]
    assert "is no URL of a controller" in check("1", "--controller", "here", code=2)[1]
    missing = check("1", "--controller", "https://127.0.0.1:1", code=3, PACELINE_CA=str(tmp_path / "none"))[1]
    assert "is not a readable certificate file" in missing
