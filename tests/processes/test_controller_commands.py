"""The commands of `paceline` for a controller, against a real controller with real Open vSwitch processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from machine.polling import wait_until
from tests.processes.rig import Controller, needs_open_vswitch

pytestmark = needs_open_vswitch


def run(controller: Controller, *arguments: str, code: int = 0, stdin: str | None = None) -> str:
    """Run a command of `paceline`; returns its output, of both streams if it fails."""
    done = subprocess.run(command(controller, *arguments), capture_output=True, text=True, check=False, input=stdin)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stdout + done.stderr


def command(controller: Controller, *arguments: str) -> list[str]:
    url = f"http://127.0.0.1:{controller.rest_port}"
    return [sys.executable, "-m", "trainer.cli.main", *arguments, "--controller", url]


def of_json(text: str) -> dict[str, Any]:
    content = json.loads(text)
    assert isinstance(content, dict)
    return content


def test_a_reservation_from_quote_to_release(controller: Controller) -> None:
    wanted = ["edge1", "cloud", "--rate", "20M", "--latency", "45ms", "--burst", "40kB", "--source-port", "7801"]
    assert "It would be admitted:\n  edge1-cloud  edge1 > s1 > s2 > cloud  20.00 Mb/s" in run(
        controller, "quote", *wanted
    )
    made = of_json(run(controller, "reserve", *wanted, "--owner", "me", "--lease", "10min", "--json"))
    (flow,) = made["flows"]
    assert (made["owner"], made["state"], made["lease_s"]) == ("me", "active", 600)
    assert flow["match"] == {"protocol": "tcp", "source_port": 7801, "destination_port": None}
    assert (flow["requirement"]["min_bandwidth_bps"], flow["requirement"]["max_latency_us"]) == (20_000_000, 45_000)
    assert made["id"] in run(controller, "reservations", "list")
    assert "edge1 > s1 > s2 > cloud  20.00 Mb/s" in run(controller, "reservations", "show", made["id"])
    changed = of_json(run(controller, "reservations", "change", made["id"], "--rate", "30M", "--json"))
    assert (changed["version"], changed["flows"][0]["reserved_bps"]) == (2, 30_000_000)
    assert changed["flows"][0]["requirement"]["max_latency_us"] == 45_000
    assert "version 3" in run(controller, "reservations", "renew", made["id"], "--lease", "90")
    assert run(controller, "reservations", "release", made["id"]) == f"{made['id']}  released\n"


def test_a_transfer_held_and_committed(controller: Controller) -> None:
    transfer = ["edge1", "cloud", "--transfer", "1MB", "--deadline", "250ms", "--protocol", "udp"]
    text = run(controller, "reserve", *transfer, "--hold", "--start", "+1min", "--end", "+2min", "--rank", "0")
    reservation = text.split()[0]
    assert f"{reservation}  held" in text
    assert "complete in" in text
    assert f"{reservation}  scheduled" in run(controller, "reservations", "commit", reservation)


def test_a_refusal_says_what_would_fit_and_exits_with_3(controller: Controller) -> None:
    output = run(controller, "reserve", "edge1", "cloud", "--rate", "90M", code=3)
    assert "Error: edge1-cloud needs 90 Mb/s; edge1->s1 has 76 Mb/s free" in output
    offer = output.split("edge1-cloud would be accepted now with ")[1].split()
    assert of_json(run(controller, "quote", "edge1", "cloud", *offer, "--json"))["admitted"] is True
    quoted = run(controller, "quote", "edge1", "cloud", "--rate", "90M", code=3)
    assert "Error: edge1-cloud needs 90 Mb/s" in quoted
    assert '"code": "no_capacity"' in run(controller, "reserve", "edge1", "cloud", "--rate", "90M", "--json", code=3)


@pytest.mark.parametrize(("arguments", "words"), [
    (["reserve", "edge9", "cloud", "--rate", "1M"], "there is no host 'edge9' on map pair; its hosts are edge1"),
    (["reserve", "edge1", "cloud", "--rate", "1"], "--rate, in bit/s: it is 1; it must be at least 1000"),
])  # fmt: skip
def test_a_value_that_the_controller_finds_wrong_is_a_usage_error(
    controller: Controller, arguments: list[str], words: str
) -> None:
    assert words in run(controller, *arguments, code=2)


def test_a_whole_request_comes_from_a_file(controller: Controller, tmp_path: Path) -> None:
    flows = [
        {"name": edge, "source": edge, "destination": "cloud", "match": {"protocol": "tcp"},
         "requirement": {"min_bandwidth_bps": 5_000_000}}
        for edge in ("edge1", "edge2")
    ]  # fmt: skip
    path = tmp_path / "request.json"
    path.write_text(json.dumps({"flows": flows}))
    made = of_json(run(controller, "reserve", "--file", str(path), "--json"))
    assert [flow["name"] for flow in made["flows"]] == ["edge1", "edge2"]
    run(controller, "reservations", "release", made["id"])
    assert len(of_json(run(controller, "quote", "--file", "-", "--json", stdin=path.read_text()))["flows"]) == 2
    path.write_text("{")
    assert "is not JSON" in run(controller, "reserve", "--file", str(path), code=2)


def test_volumes_are_quoted_together(controller: Controller) -> None:
    volumes = ["--volume", "edge1:cloud:1MB", "--volume", "edge2:cloud:1MB"]
    assert "ms for all together, the shortest; s1->s2 limits it" in run(controller, "quote", *volumes)
    assert of_json(run(controller, "quote", *volumes, "--json"))["exact"] is True


def test_the_state_of_the_network_is_printed(controller: Controller) -> None:
    assert run(controller, "health") == "ok: 2 of 2 switches in sync, ledger ok, audit log ok\n"
    assert "edge1 > s1 > s2 > cloud  24 km  76.00 Mb/s free" in run(controller, "paths", "edge1", "cloud")
    assert run(controller, "lightpaths") == "No lightpaths.\n"
    assert run(controller, "spectrum") == "The map is not optical: its links have no spectrum.\n"
    assert run(controller, "lightpaths", "defragment") == "No lightpath can move to a lower channel.\n"
    assert "s1               in_step            0      0        0" in run(controller, "consistency")
    assert of_json(run(controller, "consistency", "--repair", "--json"))["consistent"] is True
    assert "paceline_switch_up" in run(controller, "metrics")
    assert "There is no lightpath x now." in run(controller, "lightpaths", "show", "x", code=3)


def test_a_link_is_taken_out_of_service_and_put_back(controller: Controller) -> None:
    made = of_json(run(controller, "reserve", "edge1", "cloud", "--rate", "5M", "--json"))
    try:
        assert run(controller, "links", "down", "s1-s2") == f"s1-s2: out of service\n  degraded: {made['id']}\n"
        refused = run(controller, "reserve", "edge2", "cloud", "--rate", "5M", code=3)
        assert "Error: edge2-cloud: no path from edge2 to cloud: s1-s2 is down." in refused
        assert run(controller, "paths", "edge1", "cloud") == "No path from edge1 to cloud: s1-s2 down.\n"
    finally:
        assert run(controller, "links", "up", "s1-s2") == "s1-s2: in service\n"
    run(controller, "reservations", "release", made["id"])
    assert "/v1/links/s1-s2/down  200" in run(controller, "audit", "--limit", "1000")
    assert "Error: " in run(controller, "ducts", "down", "nowhere", code=3)


def test_events_are_followed_as_they_happen(controller: Controller) -> None:
    following = subprocess.Popen(
        command(controller, "events", "--follow", "--after", "0-0", "--json"), stdout=subprocess.PIPE, text=True
    )
    try:
        assert following.stdout is not None
        assert following.stdout.readline()  # the stream is open
        made = of_json(run(controller, "reserve", "edge1", "cloud", "--rate", "5M", "--json"))
        seen = next(event for line in following.stdout if (event := json.loads(line))["data"].get("id") == made["id"])
    finally:
        following.terminate()
        following.wait(30)
        assert following.stdout is not None
        following.stdout.close()
    assert (seen["event"], seen["data"]["state"]) == ("reservation", "active")
    run(controller, "reservations", "release", made["id"])
    printed = run(controller, "events")
    assert f"id {made['id']}  version 1  tenant public  state released" in printed
    later = map(json.loads, run(controller, "events", "--after", seen["id"], "--json").splitlines())
    assert [event["data"]["state"] for event in later if event["data"].get("id") == made["id"]] == ["released"]


def test_a_reader_of_events_that_goes_away_ends_the_command(controller: Controller) -> None:
    reading, writing = os.pipe()
    following = subprocess.Popen(
        command(controller, "events", "--follow", "--after", "0-0"), stdout=writing, stderr=subprocess.PIPE, text=True
    )
    os.close(writing)
    assert os.read(reading, 1)
    os.close(reading)
    made = of_json(run(controller, "reserve", "edge1", "cloud", "--rate", "5M", "--json"))
    run(controller, "reservations", "release", made["id"])
    wait_until(lambda: following.poll() is not None)
    _, errors = following.communicate()
    assert (following.returncode, errors) == (0, "")
