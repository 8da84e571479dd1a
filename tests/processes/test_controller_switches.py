"""The controller process on real Open vSwitch, without root: ovs-vswitchd's dummy datapath needs no interface.

Each test begins and ends with both switches in step and no reservation.
"""

from __future__ import annotations

import json
import signal

from controller.dataplane.lldp import lldp_frame
from machine.polling import wait_until
from tests.processes.rig import Controller, OpenVSwitch, flow, needs_open_vswitch

pytestmark = needs_open_vswitch


def test_a_reservation_installs_its_meter_and_entries_on_the_switches(ovs: OpenVSwitch, controller: Controller) -> None:
    answer = controller.reserve()
    assert answer.status_code == 201
    number = answer.json()["id"][2:]
    cookie = f"cookie=0x9ace{number}0001"
    five_tuple = "nw_src=10.0.0.1,nw_dst=10.0.0.3,tp_src=7801,tp_dst=7800"
    label = "02:00:10:00:00:01"
    assert [line for line in ovs.flows("s1") if number in line] == [
        f"{cookie}, table=0, priority=300,tcp,in_port=2,{five_tuple} "
        f"actions=meter:110000,set_field:46->ip_dscp,set_field:{label}->eth_dst,goto_table:1",
        f"{cookie}, table=1, priority=300,ip,in_port=2,dl_dst={label},nw_tos=184 actions=output:1",
    ]
    assert [line for line in ovs.flows("s2") if number in line] == [
        f"{cookie}, table=1, priority=300,ip,in_port=1,dl_dst={label},nw_tos=184 "
        "actions=set_field:02:00:00:00:00:03->eth_dst,output:2",
    ]
    # its burst of 320 kbit, and 15 Mb/s x 4.12 ms: two largest frames and a third of its burst (80 / 15 / 16) at
    # 80 Mb/s, less the least time of the port, and what the switch varies by (docs/guarantees.md, "The port of the
    # sender")
    assert ovs.meters("s1")[110000] == (15_000, 382)


def test_best_effort_meters_follow_the_reserved_rate(ovs: OpenVSwitch, controller: Controller) -> None:
    assert ovs.meters("s1")[100001] == (79_200, 8000)
    reservation_id = controller.reserve(15_000_000).json()["id"]
    assert ovs.meters("s1")[100001][0] == 64_200
    controller.client.delete(f"/v1/reservations/{reservation_id}")
    assert ovs.meters("s1")[100001][0] == 79_200


def test_a_change_of_rate_keeps_meter_and_entries_and_so_does_a_renewal(
    ovs: OpenVSwitch, controller: Controller
) -> None:
    reservation_id = controller.reserve(15_000_000).json()["id"]
    entries = ovs.flows("s1")
    changed = controller.client.patch(f"/v1/reservations/{reservation_id}", json={"flows": [flow(40_000_000)]}).json()
    assert (changed["version"], changed["flows"][0]["reserved_bps"]) == (2, 40_000_000)
    assert ovs.meters("s1")[110000][0] == 40_000
    assert ovs.meters("s1")[100001][0] == 39_200
    assert ovs.flows("s1") == entries
    renewed = controller.client.patch(f"/v1/reservations/{reservation_id}", json={}).json()
    assert (renewed["version"], renewed["expires_at"] > changed["expires_at"]) == (3, True)
    assert ovs.flows("s1") == entries


def test_a_refused_change_leaves_the_reservation_as_it_was(ovs: OpenVSwitch, controller: Controller) -> None:
    before = controller.reserve(15_000_000).json()
    entries = ovs.flows("s1")
    answer = controller.client.patch(f"/v1/reservations/{before['id']}", json={"flows": [flow(90_000_000)]})
    assert (answer.status_code, answer.json()["code"]) == (409, "no_capacity")
    after = controller.client.get(f"/v1/reservations/{before['id']}").json()
    assert {name: after[name] for name in before} == before
    assert ovs.flows("s1") == entries


def test_counters_are_read_from_the_switches(ovs: OpenVSwitch, controller: Controller) -> None:
    reservation_id = controller.reserve().json()["id"]
    packet = (
        "in_port(2),eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:03),eth_type(0x0800),"
        "ipv4(src=10.0.0.1,dst=10.0.0.3,proto=6,tos=0,ttl=64,frag=no),tcp(src=7801,dst=7800),tcp_flags(ack)"
    )
    for _ in range(3):
        ovs.appctl("netdev-dummy/receive", "s1-eth2", packet)

    def counters_now() -> dict[str, list[dict[str, object]]]:
        return dict(controller.client.get(f"/v1/reservations/{reservation_id}").json()["counters"])

    # Open vSwitch gathers the counters of its entries twice a second.
    wait_until(lambda: [entry["packets"] for entry in counters_now()["entries"]] == [3, 3, 3])
    counters = counters_now()
    (meter,) = counters["meters"]
    assert (meter["switch"], meter["flow"], meter["packets"], meter["dropped_packets"]) == ("s1", "edge1-up", 3, 0)
    assert {(entry["switch"], entry["table"]) for entry in counters["entries"]} == {("s1", 0), ("s1", 1), ("s2", 1)}
    assert counters["unavailable"] == []


def trace(ovs: OpenVSwitch, source_ip: str, tos: int, source_port: int = 7801, in_port: int = 2) -> str:
    packet = f"tcp,in_port={in_port},dl_src=02:00:00:00:00:01,dl_dst=02:00:00:00:00:03,nw_src={source_ip}"
    packet += f",nw_dst=10.0.0.3,nw_tos={tos},nw_ttl=64,tp_src={source_port},tp_dst=7800"
    return ovs.appctl("ofproto/trace", "s1", packet)


def test_a_reserved_packet_is_marked_up_to_the_last_port(ovs: OpenVSwitch, controller: Controller) -> None:
    controller.reserve()
    steps = trace(ovs, "10.0.0.1", tos=0)
    assert "meter:110000" in steps
    assert "meter:100001" not in steps
    assert "nw_tos=184" in steps.split("Final flow:")[1]


def test_a_spoofed_dscp_mark_is_cleared(ovs: OpenVSwitch, controller: Controller) -> None:
    controller.reserve()
    steps = trace(ovs, "10.0.0.1", tos=184, source_port=7802)
    assert "set_field:0->ip_dscp" in steps
    assert "meter:100001" in steps
    assert "nw_tos=0" in steps.split("Final flow:")[1]


def test_packets_of_a_reserved_flow_from_another_port_are_dropped(ovs: OpenVSwitch, controller: Controller) -> None:
    controller.reserve()
    assert "Datapath actions: drop" in trace(ovs, "10.0.0.1", tos=184, in_port=3)


def test_foreign_entries_and_meters_are_left_alone(ovs: OpenVSwitch, controller: Controller) -> None:
    ovs.ofctl("add-flow", "s1", "cookie=0xbeef,table=3,priority=7,udp,actions=drop")
    ovs.ofctl("add-meter", "s1", "meter=7,kbps,band=type=drop,rate=1000")
    try:
        reservation_id = controller.reserve().json()["id"]
        controller.client.delete(f"/v1/reservations/{reservation_id}")
        ovs.disconnect("s1")
        wait_until(lambda: controller.switches_up() == 1)
        ovs.connect(controller.openflow_port)
        wait_until(controller.in_sync)
        assert len(ovs.flows("s1", "cookie=0xbeef/-1")) == 1
        assert "meter=7 " in ovs.ofctl("dump-meters", "s1")
    finally:
        ovs.ofctl("del-flows", "s1", "cookie=0xbeef/-1")
        ovs.ofctl("del-meter", "s1", "meter=7")


def test_lost_entries_are_reinstalled_and_stale_entries_removed_when_a_switch_reconnects(
    ovs: OpenVSwitch, controller: Controller
) -> None:
    controller.reserve()
    installed = ovs.flows("s1"), ovs.meters("s1")
    ovs.disconnect("s1")
    wait_until(lambda: controller.switches_up() == 1)
    ovs.ofctl("del-flows", "s1")
    ovs.ofctl("del-meter", "s1", "meter=110000")
    ovs.ofctl("add-flow", "s1", "cookie=0x9ace000000770001,table=1,priority=9,udp,actions=drop")
    ovs.connect(controller.openflow_port)
    wait_until(controller.in_sync)
    assert (ovs.flows("s1"), ovs.meters("s1")) == installed


def test_a_reservation_over_a_disconnected_switch_is_refused_without_changes(
    ovs: OpenVSwitch, controller: Controller
) -> None:
    before = ovs.flows("s1"), ovs.meters("s1")
    ovs.disconnect("s2")
    wait_until(lambda: controller.switches_up() == 1)
    answer = controller.reserve()
    assert (answer.status_code, answer.json()["code"], answer.json()["switches"]) == (503, "switch_down", ["s2"])
    assert (ovs.flows("s1"), ovs.meters("s1")) == before
    assert any("s2" in sentence for sentence in controller.complaints())


def test_a_release_reaches_a_disconnected_switch_when_it_reconnects(ovs: OpenVSwitch, controller: Controller) -> None:
    reservation_id = controller.reserve().json()["id"]
    ovs.disconnect("s2")
    wait_until(lambda: controller.switches_up() == 1)
    assert controller.client.delete(f"/v1/reservations/{reservation_id}").json()["state"] == "released"
    assert [line for line in ovs.flows("s2") if reservation_id[2:] in line]
    ovs.connect(controller.openflow_port)
    wait_until(controller.in_sync)
    assert not [line for line in ovs.flows("s2") if reservation_id[2:] in line]


def test_an_openflow_error_undoes_the_whole_reservation(ovs: OpenVSwitch, controller: Controller) -> None:
    before = [(ovs.flows(name), ovs.meters(name)) for name in ("s1", "s2")]
    ovs.ofctl("add-meter", "s1", "meter=110000,kbps,burst,stats,band=type=drop,rate=1,burst_size=1")
    answer = controller.reserve()
    assert (answer.status_code, answer.json()["code"], answer.json()["switches"]) == (503, "switch_refused", ["s1"])
    assert "OFPMMFC_METER_EXISTS" in answer.json()["detail"]
    wait_until(controller.in_sync)
    assert [(ovs.flows(name), ovs.meters(name)) for name in ("s1", "s2")] == before
    network = controller.client.get("/v1/network").json()
    assert {link["reserved_bps"] for link in network["links"]} == {0}
    assert controller.client.get("/v1/reservations?state=active").json() == {"reservations": []}


def test_a_switch_that_does_not_confirm_is_synchronized_later(ovs: OpenVSwitch, controller: Controller) -> None:
    before = [(ovs.flows(name), ovs.meters(name)) for name in ("s1", "s2")]
    ovs.switch.send_signal(signal.SIGSTOP)
    try:
        answer = controller.reserve()
    finally:
        ovs.switch.send_signal(signal.SIGCONT)
    assert (answer.status_code, answer.json()["code"]) == (503, "switch_timeout")
    wait_until(controller.in_sync)
    assert [(ovs.flows(name), ovs.meters(name)) for name in ("s1", "s2")] == before
    assert controller.reserve().status_code == 201


def test_a_link_failure_degrades_its_reservations_until_the_link_is_up(
    ovs: OpenVSwitch, controller: Controller
) -> None:
    reservation_id = controller.reserve().json()["id"]

    def state_and_reason() -> tuple[str, str | None]:
        body = controller.client.get(f"/v1/reservations/{reservation_id}").json()
        return body["state"], body["reason"]

    ovs.vsctl("del-port", "s1-eth1")
    reason = "edge1-up: no path from edge1 to cloud: s1-s2 is down."
    wait_until(lambda: state_and_reason() == ("degraded", reason))
    answer = controller.reserve(edge="edge2")
    assert (answer.status_code, answer.json()["code"]) == (409, "no_path")
    assert not [line for line in ovs.flows("s1") if "dl_dst=02:00:00:00:00:03" in line]
    ovs.add_port("s1", "s2")
    wait_until(lambda: state_and_reason() == ("active", None))
    wait_until(lambda: bool([line for line in ovs.flows("s1") if "dl_dst=02:00:00:00:00:03" in line]))


def test_a_lease_that_is_not_renewed_frees_its_bandwidth(ovs: OpenVSwitch, controller: Controller) -> None:
    reservation_id = controller.reserve(lease_s=0.3).json()["id"]
    wait_until(lambda: controller.client.get(f"/v1/reservations/{reservation_id}").json()["state"] == "expired", 5)
    assert 110000 not in ovs.meters("s1")
    answer = controller.client.patch(f"/v1/reservations/{reservation_id}", json={})
    assert (answer.status_code, answer.json()["code"]) == (409, "not_live")


def test_correct_wiring_is_not_reported_and_a_missing_port_is(
    ovs: OpenVSwitch, controller: Controller
) -> None:
    wait_until(lambda: controller.complaints() == [])
    ovs.vsctl("del-port", "s1-eth4")
    wait_until(lambda: controller.complaints() == ["Switch s1: port 4 is missing; the map puts load1 port 1 there."])
    ovs.add_port("s1", "load1")
    wait_until(lambda: controller.complaints() == [])


def test_wrong_wiring_is_reported(ovs: OpenVSwitch, controller: Controller) -> None:
    """s1 receives a forged LLDP frame of switch 2, port 9, until the next genuine one arrives."""
    frame = lldp_frame(2, 9).hex()

    def is_reported() -> bool:
        ovs.ofctl("packet-out", "s2", f"in_port=controller,packet={frame},actions=output:1")
        return any("port 1 is wired to s2 port 9" in sentence for sentence in controller.complaints())

    wait_until(lambda: controller.complaints() == [])
    wait_until(is_reported)
    wait_until(lambda: controller.complaints() == [])


def test_a_restarted_controller_keeps_its_reservations(ovs: OpenVSwitch, controller: Controller) -> None:
    before = controller.reserve().json()
    installed = ovs.flows("s1"), ovs.meters("s1")
    assert controller.stop() == 0
    controller.start()
    wait_until(controller.in_sync)
    after = controller.client.get(f"/v1/reservations/{before['id']}").json()
    assert {name: after[name] for name in before} == before
    assert (ovs.flows("s1"), ovs.meters("s1")) == installed


def test_concurrent_requests_never_exceed_the_capacity(controller: Controller) -> None:
    from concurrent.futures import ThreadPoolExecutor

    def post(number: int) -> int:
        body = {"flows": [flow(15_000_000, "edge1", 9000 + number)]}
        return controller.client.post("/v1/reservations", json=body).status_code

    with ThreadPoolExecutor(8) as pool:
        codes = list(pool.map(post, range(12)))
    assert sorted(codes) == [201] * 5 + [409] * 7
    network = controller.client.get("/v1/network").json()
    reserved = {link["link"]: link["reserved_bps"] for link in network["links"]}
    assert reserved["s1->s2"] == 75_000_000


def test_the_answer_is_json_problem_details_over_the_wire(controller: Controller) -> None:
    answer = controller.client.post("/v1/reservations", content=b"\xff{", headers={"content-type": "application/json"})
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert json.loads(answer.content)["code"] == "invalid_request"
