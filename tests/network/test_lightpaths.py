"""Lightpaths on real Open vSwitch: flows in them keep their guarantees; core tables grow with lightpaths only."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from controller.dataplane.lightpath_entries import CRANKBACK_OFFSET
from controller.domain.lightpath import FIRST_VLAN_ID
from emulation.fault_injection import FaultInjector
from machine.polling import wait_until
from tests.network.conftest import Network
from tests.network.datagram_stream import RATE_BPS, reserved_flow, stream, udp_flow
from tests.network.test_changes import in_sync
from tests.network.test_hostile import forge, listening
from tests.network.test_reservation import flood

CORE = ("r2", "r3", "r4")
SMALL_BPS = 400_000
"""More than forty such flows fit into one lightpath."""


@pytest.fixture(scope="module")
def waves(network_of: Callable[..., Network]) -> Network:
    return network_of("waves")


@pytest.fixture(autouse=True)
def _check_no_lightpath_is_left(waves: Network) -> Iterator[None]:
    yield
    wait_until(lambda: lightpaths(waves) == [])  # an empty lightpath is torn down
    wait_until(lambda: tagged(waves) == {switch: [] for switch in (*CORE, "r5")})
    assert waves.api.get("/v1/consistency").json()["consistent"]


def tagged(network: Network) -> dict[str, list[str]]:
    """Return the entries of each switch that match VLAN ids, read from the switch."""
    entries_by_switch = {}
    for switch in (*CORE, "r5"):
        lines = network.switch("dump-flows", switch, "table=1").splitlines()
        entries_by_switch[switch] = [line for line in lines if "dl_vlan=" in line]
    return entries_by_switch


def packets(dump: str) -> int:
    """Number of packets forwarded by the entries of a dump that match VLAN ids."""
    lines = (line for line in dump.splitlines() if "dl_vlan=" in line)
    return sum(int(found[1]) for line in lines if (found := re.search(r"n_packets=(\d+)", line)))


def lightpaths(network: Network) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = network.api.get("/v1/lightpaths").json()["lightpaths"]
    return listed


def test_a_stream_in_a_lightpath_loses_nothing_beside_a_flood(waves: Network, tmp_path: Path) -> None:
    with reserved_flow(waves, udp_flow("edge1", "cloud", {"min_bandwidth_bps": RATE_BPS})) as reservation:
        (lit,) = lightpaths(waves)
        assert reservation["flows"][0]["lightpaths"] == [lit["id"]]
        assert lit["nodes"] == ["r1", "r2", "r3", "r4", "r5"]
        assert lit["flows"] == [{"reservation": reservation["id"], "flow": "stream", "backup": False}]
        with (
            flood(waves, "load1", "load2", 120_000_000),
            stream(waves, "edge1", "cloud", 4, tmp_path) as result,
        ):
            pass
        by_label = [packets("\n".join(tagged(waves)[name])) for name in CORE]
    assert result.sent == 4000
    result.check_complete()
    assert min(by_label) >= result.sent, "all packets were forwarded by label"


def test_best_effort_is_reduced_by_the_full_rate_of_a_lightpath_however_little_is_reserved_in_it(
    waves: Network,
) -> None:
    with reserved_flow(waves, udp_flow("edge1", "cloud", {"min_bandwidth_bps": SMALL_BPS})):
        (lit,) = lightpaths(waves)
        meters = waves.switch("dump-meters", "r4")
        link = next(facts for facts in waves.api.get("/v1/network").json()["links"] if facts["link"] == "r4->r5")
        margin_bps = max(200_000, link["capacity_bps"] // 100)
        left_kbps = (link["capacity_bps"] - lit["rate_bps"] - margin_bps) // 1000
        assert f"rate={left_kbps} " in meters.replace("burst", " burst")


def test_core_tables_grow_with_lightpaths_and_not_with_flows(waves: Network) -> None:
    one_flow = [small(0)]
    many_flows = [small(number) for number in range(20)]
    with reserved_flows(waves, one_flow):
        before = {name: entries(waves, name) for name in CORE}
    with reserved_flows(waves, many_flows) as reservation:
        after = {name: entries(waves, name) for name in CORE}
        (lit,) = lightpaths(waves)
        assert {name for flow in reservation["flows"] for name in flow["lightpaths"]} == {lit["id"]}
        assert len(lit["flows"]) == 20
        assert [len(lines) for lines in tagged(waves).values()] == [1, 1, 1, 1]
    assert after == before


def test_channels_differ_where_lightpaths_share_a_link(waves: Network) -> None:
    with ExitStack() as stack:
        for edge in ("edge1", "edge3"):
            flow = udp_flow(edge, "cloud", {"min_bandwidth_bps": RATE_BPS})
            stack.enter_context(reserved_flow(waves, flow))
        both = lightpaths(waves)
        assert sorted((lightpath["nodes"][0], lightpath["channel"]) for lightpath in both) == [("r1", 0), ("r2", 1)]
        assert len(tagged(waves)["r3"]) == 2


def test_forged_vlan_tags_gain_no_priority(waves: Network, tmp_path: Path) -> None:
    """The forged tags include VLAN 1 to 8, which lit lightpaths use."""
    with reserved_flow(waves, udp_flow("edge1", "cloud", {"min_bandwidth_bps": RATE_BPS})) as reservation:
        push = next(line for line in waves.switch("dump-flows", "r1", "table=1").splitlines() if "push_vlan" in line)
        found = re.search(r"dl_dst=([0-9a-f:]{17})", push)
        assert found is not None
        with listening(waves, "cloud") as cloud, stream(waves, "edge1", "cloud", 4, tmp_path) as result:
            assert forge(waves, found[1], 2.5) > 100
        meter = waves.api.get(f"/v1/reservations/{reservation['id']}").json()["counters"]["meters"][0]
    result.check_complete()
    assert cloud[0] > 0, "allowed frames are delivered, unmarked"
    assert cloud[1] == 0, "no forged frame is marked or tagged"
    assert meter["dropped_packets"] == 0


def test_a_lightpath_moves_to_another_channel_and_loses_no_packet(waves: Network, tmp_path: Path) -> None:
    with ExitStack() as stack:
        below = stack.enter_context(reserved_flow(waves, udp_flow("edge2", "cloud", {"min_bandwidth_bps": 18_000_000})))
        stack.enter_context(reserved_flow(waves, udp_flow("edge1", "cloud", {"min_bandwidth_bps": RATE_BPS})))
        assert [lightpath["channel"] for lightpath in lightpaths(waves)] == [0, 1]
        with stream(waves, "edge1", "cloud", 5, tmp_path) as result:
            waves.api.delete(f"/v1/reservations/{below['id']}")
            answer = waves.api.post("/v1/lightpaths/defragment")
        assert answer.status_code == 200, answer.text
        (move,) = answer.json()["moves"]
        (lit,) = lightpaths(waves)
        assert (move["from_channel"], move["to_channel"], move["to_lightpath"]) == (1, 0, lit["id"])
        assert all("dl_vlan=1 " in line for lines in tagged(waves).values() for line in lines), (
            "the old lightpath is dark"
        )
    assert result.sent == 5000
    result.check_complete()


@pytest.mark.parametrize(("cut", "alone"), [(("r1", "r2"), False), (("r3", "r4"), True)], ids=["", "no controller"])
def test_a_protected_flow_continues_in_its_backup_lightpaths(
    waves: Network, cut: tuple[str, str], alone: bool, tmp_path: Path
) -> None:
    """Also with the controller killed: packets that reach the cut return in their lightpath."""
    faults = FaultInjector(waves.topology, waves.note.ovs_directory)
    requirement = {"min_bandwidth_bps": RATE_BPS, "protection": "link_disjoint"}
    with reserved_flow(waves, udp_flow("edge1", "cloud", requirement)) as reservation:
        (flow,) = reservation["flows"]
        assert [lightpath["nodes"] for lightpath in lightpaths(waves)] == [
            ["r1", "r2", "r3", "r4", "r5"],
            ["r1", "r6", "r5"],
        ]
        try:
            with stream(waves, "edge1", "cloud", 3, tmp_path) as result:
                if alone:
                    faults.set_controller(up=False)
                faults.set_link(*cut, up=False)
            around = packets(waves.switch("dump-flows", "r6", "table=1"))
            if alone:
                faults.set_controller(up=True)
                wait_until(lambda: in_sync(waves))
                assert crankback_packets(waves) > 1000, "a restarted controller keeps the crankback entries"
        finally:
            faults.set_link(*cut, up=True)
        wait_until(lambda: all(link["up"] for link in waves.api.get("/v1/network").json()["links"]))
        wait_until(lambda: waves.api.get(f"/v1/reservations/{reservation['id']}").json()["reason"] is None)
        assert waves.api.get(f"/v1/reservations/{reservation['id']}").json()["flows"][0]["path"] == flow["path"]
        wait_until(lambda: waves.api.get("/v1/consistency").json()["consistent"])
    print(f"cut {cut}: {result.lost} lost, {result.lost_in_a_row} in a row")
    result.check_gap()
    assert around > 1000, "most packets took the backup path"
    assert result.arrivals[-1][0] == result.sent - 1, "the stream continues to its end"


def crankback_packets(network: Network) -> int:
    """Number of packets that r2 returned towards r1."""
    lines = network.switch("dump-flows", "r2", "table=1").splitlines()
    return packets("\n".join(line for line in lines if f"dl_vlan={CRANKBACK_OFFSET + FIRST_VLAN_ID} " in line))


def entries(network: Network, switch: str) -> int:
    return len(network.switch("dump-flows", switch).splitlines())


def small(number: int) -> dict[str, Any]:
    return {
        "name": f"small-{number}",
        "source": "edge1",
        "destination": "cloud",
        "match": {"protocol": "udp", "source_port": 8000 + number, "destination_port": 7800},
        "requirement": {"min_bandwidth_bps": SMALL_BPS},
    }


class reserved_flows:  # noqa: N801 - a context manager, named like `reserved_flow`
    """Reserve the flows within the block."""

    def __init__(self, network: Network, flows: list[dict[str, Any]]) -> None:
        self.network = network
        self.flows = flows

    def __enter__(self) -> dict[str, Any]:
        body = {"owner": "test", "lease_s": 120, "flows": self.flows}
        answer = self.network.api.post("/v1/reservations", json=body)
        assert answer.status_code == 201, answer.text
        reservation: dict[str, Any] = answer.json()
        self.reservation = reservation
        return reservation

    def __exit__(self, *_: object) -> None:
        self.network.api.delete(f"/v1/reservations/{self.reservation['id']}")
