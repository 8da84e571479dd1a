"""Parallel spans on real switches: a network file with two fibres between its sites, one of which is cut."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from emulation.fault_injection import FaultInjector
from machine.polling import wait_until
from tests.network.conftest import Network
from tests.network.datagram_stream import RATE_BPS, reserved_flow, stream, udp_flow
from tests.unit.topologies.network_files import link, node_link, placed

MAX_LOST = 60
"""Of 1000 datagrams per second, while the switch notices that its port is down."""


@pytest.fixture(scope="module")
def double(network_of: Callable[..., Network], tmp_path_factory: pytest.TempPathFactory) -> Network:
    links = [link("Oslo", "Bergen", length_km=120), link("Oslo", "Bergen", length_km=90, duct="railway")]
    file = node_link(tmp_path_factory.mktemp("maps") / "double.json", placed("Oslo", "Bergen"), links)
    return network_of(file, "--edges", "Oslo", "--cloud", "Bergen", "--scale", "0.2")


def test_a_protected_flow_on_one_fibre_survives_its_cut_on_the_other(double: Network, tmp_path: Path) -> None:
    faults = FaultInjector(double.topology, double.note.ovs_directory)
    body = double.api.get("/v1/network").json()
    lengths = {each["link"]: each["length_km"] for each in body["links"] if "edge1" not in each["link"]}
    assert (lengths["oslo->bergen"], lengths["bergen->oslo.2"]) == (120, 90)
    wait_until(lambda: double.api.get("/v1/network").json()["complaints"] == [])
    requirement = {"min_bandwidth_bps": RATE_BPS, "protection": "link_disjoint"}
    with reserved_flow(double, udp_flow("edge1", "cloud", requirement)) as made:
        (flow,) = made["flows"]
        assert flow["path"] == ["edge1", "oslo", "bergen-oslo.2", "bergen", "cloud"]
        assert flow["backup_path"] == ["edge1", "oslo", "bergen", "cloud"]
        try:
            with stream(double, "edge1", "cloud", 3, tmp_path) as cut:
                faults.set_span("oslo-bergen.2", up=False)
                wait_until(lambda: down(double) == {"oslo->bergen.2", "bergen->oslo.2"})
        finally:
            faults.set_span("oslo-bergen.2", up=True)
        assert cut.lost <= MAX_LOST + cut.excused, f"runs of lost datagrams: {cut.gaps}"
        assert (cut.duplicates, cut.marks()) == (0, {46})
        wait_until(lambda: not down(double))
        answer = double.api.post("/v1/links/oslo-bergen.2/down").json()
        assert answer["spans"] == ["bergen-oslo.2"]
        assert double.api.post("/v1/links/bergen->oslo.2/up").json()["in_service"] is True


def down(network: Network) -> set[str]:
    return {each["link"] for each in network.api.get("/v1/network").json()["links"] if not each["up"]}
