"""A neighbour's burst of 2 MB beside a stream with a promised bound and beside one without, on real Open vSwitch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx

from machine.polling import wait_until
from tests.network.conftest import Network
from tests.network.datagram_stream import RATE_BPS, reserved_flow, stream, udp_flow

SECONDS = 2.0
BURST_BYTES = 2_000_000
DRAINED_US = 30_000
"""Above the bound of the stream alone, and below that beside a large burst."""


def requested(network: Network) -> httpx.Response:
    """What a neighbour asks for: 5 Mb/s with a burst of 2 MB."""
    match = {"protocol": "udp", "source_port": 5001, "destination_port": 5001}
    requirement = {"min_bandwidth_bps": 5_000_000, "burst_bytes": BURST_BYTES}
    flow = {"name": "neighbour", "source": "load1", "destination": "cloud", "match": match, "requirement": requirement}
    return network.api.post("/v1/reservations", json={"owner": "neighbour", "lease_s": 60, "flows": [flow]})


def wait_until_drained(network: Network) -> None:
    """Wait until the flows of earlier tests no longer count in the bounds."""
    flow = udp_flow("edge1", "cloud", {"min_bandwidth_bps": RATE_BPS, "burst_bytes": 40_000})

    def is_drained() -> bool:
        quote = network.api.post("/v1/quotes", json={"flows": [flow]}).json()
        return bool(quote["admitted"] and quote["flows"][0]["accumulated_latency_us"] < DRAINED_US)

    wait_until(is_drained)


def last_event(network: Network) -> str:
    """The id of the last event so far: the events of a made and released reservation end with the release."""
    with network.api.stream("GET", "/v1/events") as lines:
        marker = network.api.post("/v1/reservations", json={"flows": [udp_flow("edge2", "cloud", {
            "min_bandwidth_bps": 1000, "burst_bytes": 1})], "hold": True}).json()["id"]  # fmt: skip
        network.api.delete(f"/v1/reservations/{marker}")
        identity = ""
        for line in lines.iter_lines():
            identity = line.removeprefix("id: ") if line.startswith("id: ") else identity
            if line.startswith("data: ") and json.loads(line[6:]).get("state") == "released":
                return identity
    raise AssertionError("the stream has ended")


def bounds_event(network: Network, after: str, identity: str) -> dict[str, Any]:
    with network.api.stream("GET", "/v1/events", headers={"Last-Event-ID": after}) as lines:
        kind = ""
        for line in lines.iter_lines():
            kind = line.removeprefix("event: ") if line.startswith("event: ") else kind
            if line.startswith("data: ") and kind == "bounds" and json.loads(line[6:])["id"] == identity:
                found: dict[str, Any] = json.loads(line[6:])
                return found
    raise AssertionError("the stream has ended")


def test_beside_a_promised_stream_the_burst_is_refused_and_the_stream_keeps_its_bound(
    pair: Network, tmp_path: Path
) -> None:
    requirement = {"min_bandwidth_bps": RATE_BPS, "burst_bytes": 40_000, "bound_slack": 0.5}
    wait_until_drained(pair)
    with reserved_flow(pair, udp_flow("edge1", "cloud", requirement)) as made:
        with stream(pair, "edge1", "cloud", SECONDS, tmp_path) as running:
            refusal = requested(pair)
        running.check_complete()
        assert (refusal.status_code, refusal.json()["code"]) == (409, "latency_not_met")
        assert refusal.json()["reservation"] == made["id"]
        assert "as promised" in refusal.json()["detail"]
        after = pair.api.get(f"/v1/reservations/{made['id']}").json()
        assert (after["version"], after["flows"]) == (made["version"], made["flows"])


def test_beside_an_unlimited_stream_the_burst_is_admitted_and_the_grown_bound_is_told(
    pair: Network, tmp_path: Path
) -> None:
    wait_until_drained(pair)
    start = last_event(pair)
    requirement = {"min_bandwidth_bps": RATE_BPS, "burst_bytes": 40_000}
    with reserved_flow(pair, udp_flow("edge1", "cloud", requirement)) as made:
        with stream(pair, "edge1", "cloud", SECONDS, tmp_path) as running:
            neighbour = requested(pair)
            assert neighbour.status_code == 201, neighbour.text
            event = bounds_event(pair, start, made["id"])
        running.check_complete()
        after = pair.api.get(f"/v1/reservations/{made['id']}").json()
        (change,), (before,), (now,) = event["flows"], made["flows"], after["flows"]
        assert event["version"] == after["version"] == 2
        assert event["cause"] == "other_reservations"
        assert change["before"] == {name: before[name] for name in change["before"]}
        assert change["after"] == {name: now[name] for name in change["after"]}
        assert now["accumulated_latency_us"] > 3 * before["accumulated_latency_us"]
        entries = after["counters"]["entries"]
        assert min(entry["packets"] for entry in entries) >= running.sent, "correct entries were replaced"
        pair.api.delete(f"/v1/reservations/{neighbour.json()['id']}")
    assert pair.api.get("/v1/consistency").json()["consistent"]
