"""Maps that state the numbers of a network that exists."""

from __future__ import annotations

from pathlib import Path

import pytest

from controller.dataplane.fast_failover import failover_groups
from controller.domain.network import network_from_map
from topologies.map_file.loader import load_map
from topologies.problems import MapError

LAB = """\
name: lab
scale_mbps_per_gbps: 1000
mtu_bytes: 1500
nodes:
  - {name: sw1, kind: switch, position_km: [0, 0], datapath_id: "00000000000000a1"}
  - {name: sw2, kind: switch, position_km: [1, 0]}
  - {name: sw3, kind: switch, position_km: [1, 1], datapath_id: "00:00:00:00:00:00:00:02"}
  - {name: camera, kind: edge, position_km: [0, 1], ip: 192.168.7.11, mac: "52-54-00-07-00-1A"}
  - {name: other, kind: edge, position_km: [0, 1]}
  - {name: server, kind: cloud, position_km: [1, 1], ip: 10.0.0.2}
links:
  - {ends: [sw1, sw2], length_km: 1, channel_rate_gbps: 10, ports: [4095, 2]}
  - {ends: [sw2, sw3], length_km: 1, channel_rate_gbps: 10}
  - {ends: [sw1, sw3], length_km: 1, channel_rate_gbps: 10}
  - {ends: [camera, sw1], length_km: 0.1, channel_rate_gbps: 1, ports: [null, 11]}
  - {ends: [other, sw1], length_km: 0.1, channel_rate_gbps: 1}
  - {ends: [server, sw2], length_km: 0.1, channel_rate_gbps: 10, ports: [7, null]}
"""


def write(directory: Path, text: str) -> str:
    path = directory / "lab.yaml"
    path.write_text(text)
    return str(path)


def test_stated_numbers_are_used_and_the_others_are_assigned_around_them(tmp_path: Path) -> None:
    lab = load_map(write(tmp_path, LAB))
    assert [lab.datapath_id(name) for name in ("sw1", "sw2", "sw3")] == [0xA1, 3, 2]
    assert lab.mac("camera") == "52:54:00:07:00:1a"
    assert [lab.ip(name) for name in ("camera", "other", "server")] == ["192.168.7.11", "10.0.0.3", "10.0.0.2"]
    numbers = [lab.port("sw1", peer).number for peer in ("sw2", "sw3", "camera", "other")]
    assert numbers == [4095, 2, 11, 4]
    assert [lab.port("sw2", peer).number for peer in ("sw1", "sw3", "server")] == [2, 3, 4]
    assert lab.port("sw1", "sw2").interface == "sw1-eth1"
    assert len({lab.mac(host.name) for host in lab.hosts}) == 3
    assert str(lab.data_network) == "0.0.0.0/0"


def test_the_controller_and_its_groups_use_the_stated_numbers(tmp_path: Path) -> None:
    network = network_from_map(load_map(write(tmp_path, LAB)))
    assert set(network.switch_by_datapath_id) == {0xA1, 3, 2}
    assert network.links["sw1->sw2"].source_port == 4095
    assert network.nodes["camera"].ip == "192.168.7.11"
    groups = failover_groups(network, "sw1")
    assert len({group.group_id for group in groups}) == len(groups)


OF_SW1, OF_CAMERA, PORTS = 'datapath_id: "00000000000000a1"', "ip: 192.168.7.11", "ports: [null, 11]"
OF_SW3, MAC = 'datapath_id: "00:00:00:00:00:00:00:02"', 'mac: "52-54-00-07-00-1A"'
NOT_AN_ID = "a datapath id is up to 16 hexadecimal digits, not all 0, in quotes: '00000000000000a1'"
NOT_A_MAC = "a hardware address is six hexadecimal bytes, not multicast, in quotes: '52:54:00:12:34:56'"


@pytest.mark.parametrize(
    ("old", "new", "mistake"),
    [
        (OF_SW1, "datapath_id: 161", f":5: nodes[0].datapath_id = 161: {NOT_AN_ID}"),
        (OF_SW1, 'datapath_id: "0"', f":5: nodes[0].datapath_id = '0': {NOT_AN_ID}"),
        (OF_SW3, 'datapath_id: "a1"', ":7: nodes[2].datapath_id = 'a1': another node has the same; each has its own"),
        (OF_CAMERA, "ip: 192.168.7.300", "nodes[3].ip = '192.168.7.300': an address of a host is like 192.168.7.11"),
        (OF_CAMERA, "ip: 10.254.3.1", "10.254.0.0/16 is the management network of emulations; choose another address"),
        (OF_CAMERA, "ip: 10.0.0.2", ":10: nodes[5].ip = '10.0.0.2': another node has the same; each has its own"),
        (MAC, "mac: 10:20:30:40:50:51", NOT_A_MAC),
        (MAC, 'mac: "01:00:5e:00:00:01"', NOT_A_MAC),
        (MAC, 'datapath_id: "b1"', ":8: nodes[3].datapath_id = 'b1': only a switch has one; remove it"),
        (OF_SW1, "ip: 10.0.0.9", ":5: nodes[0].ip = '10.0.0.9': only a host, an edge or the cloud has one; remove it"),
        (PORTS, "ports: [null, 4095]", ":15: links[3].ports[1] = 4095: another link of this node has the same"),
        (PORTS, "ports: [null, 4096]", ":15: links[3].ports[1] = 4096: input should be less than or equal to 4095"),
        (PORTS, "ports: [1]", ":15: links[3].ports[1]"),
    ],
)
def test_a_wrong_number_is_one_mistake_with_its_place(tmp_path: Path, old: str, new: str, mistake: str) -> None:
    assert LAB.count(old) == 1
    with pytest.raises(MapError) as caught:
        load_map(write(tmp_path, LAB.replace(old, new)))
    assert any(mistake in each for each in caught.value.mistakes), caught.value.mistakes
    assert len(caught.value.mistakes) == 1
