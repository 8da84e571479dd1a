"""Where no switch regenerates, lightpaths in use move out of the way of a request, and no packet is lost."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from machine.polling import wait_until
from tests.network.conftest import Network
from tests.network.datagram_stream import stream, udp_flow

MORE_THAN_HALF_BPS = 11_000_000
"""Two such flows do not fit into one lightpath of 20 Mb/s."""


@pytest.fixture(scope="module")
def transparent(network_of: Callable[..., Network], tmp_path_factory: pytest.TempPathFactory) -> Network:
    text = Path("topologies/waves.yaml").read_text(encoding="utf-8").replace("name: waves", "name: clear")
    file = tmp_path_factory.mktemp("map") / "clear.yaml"
    file.write_text(text.replace("{grid: fixed}", "{grid: fixed, regenerators: none}"), encoding="utf-8")
    return network_of(str(file))


def lit(network: Network) -> dict[str, tuple[list[str], int]]:
    """Return route and channel of the lightpath of every reservation."""
    listed: list[dict[str, Any]] = network.api.get("/v1/lightpaths").json()["lightpaths"]
    return {each["flows"][0]["reservation"]: (each["nodes"], each["channel"]) for each in listed}


def moves(network: Network) -> int:
    return int(network.api.get("/v1/lightpaths").json()["moves"])


class Reservations:
    """Reservations of one flow each; all are released at the end."""

    def __init__(self, network: Network) -> None:
        self._network, self._ids = network, list[str]()
        self._port = 20_000

    def add(self, source: str, destination: str, count: int = 1) -> list[str]:
        made = []
        for _ in range(count):
            self._port += 1
            flow = udp_flow(source, destination, {"min_bandwidth_bps": MORE_THAN_HALF_BPS})
            flow["match"]["source_port"] = self._port
            made.append(self.take(flow))
        return made

    def take(self, flow: dict[str, Any]) -> str:
        answer = self._network.api.post("/v1/reservations", json={"owner": "test", "lease_s": 120, "flows": [flow]})
        assert answer.status_code == 201, answer.text
        reservation = str(answer.json()["id"])
        self._ids.append(reservation)
        return reservation

    def release(self, reservations: list[str]) -> None:
        for reservation in reservations:
            self._network.api.delete(f"/v1/reservations/{reservation}")
            self._ids.remove(reservation)
        wait_until(lambda: not lit(self._network).keys() & set(reservations))

    def release_all(self) -> None:
        self.release(list(self._ids))


@contextmanager
def reservations_on(network: Network) -> Iterator[Reservations]:
    made = Reservations(network)
    try:
        yield made
    finally:
        made.release_all()
        assert network.api.get("/v1/consistency").json()["consistent"]


def test_a_lightpath_in_use_moves_to_another_channel_for_a_request(transparent: Network, tmp_path: Path) -> None:
    with ExitStack() as stack:
        made = stack.enter_context(reservations_on(transparent))
        straight = made.add("edge1", "cloud", 4)
        made.add("edge2", "cloud", 4)  # on the way around
        made.release(straight)
        streamed = made.take(udp_flow("edge1", "edge3", {"min_bandwidth_bps": MORE_THAN_HALF_BPS}))
        made.add("edge1", "edge3")
        below = made.add("edge3", "cloud", 4)[:2]
        made.release(below)
        before = moves(transparent)
        assert lit(transparent)[streamed] == (["r1", "r2"], 0)
        with stream(transparent, "edge1", "edge3", 4, tmp_path) as result:
            (late,) = made.add("edge1", "cloud")
        assert lit(transparent)[late] == (["r1", "r2", "r3", "r4", "r5"], 0)
        assert lit(transparent)[streamed] == (["r1", "r2"], 2)
        assert moves(transparent) == before + 1
    result.check_complete()


def test_a_lightpath_in_use_moves_to_another_route_for_a_request(transparent: Network, tmp_path: Path) -> None:
    with reservations_on(transparent) as made:
        streamed = made.take(udp_flow("edge1", "cloud", {"min_bandwidth_bps": MORE_THAN_HALF_BPS}))
        made.add("edge1", "cloud", 3)
        made.add("cloud", "edge3", 4)
        before = moves(transparent)
        assert lit(transparent)[streamed] == (["r1", "r2", "r3", "r4", "r5"], 0)
        with stream(transparent, "edge1", "cloud", 4, tmp_path) as result:
            (late,) = made.add("edge1", "edge3")
        assert lit(transparent)[late] == (["r1", "r2"], 0)
        assert lit(transparent)[streamed][0] == ["r1", "r6", "r5"]
        assert moves(transparent) == before + 1
        moved = transparent.api.get(f"/v1/reservations/{streamed}").json()
        assert moved["flows"][0]["path"] == ["edge1", "r1", "r6", "r5", "cloud"]
        assert moved["state"] == "active"
    result.check_complete()
