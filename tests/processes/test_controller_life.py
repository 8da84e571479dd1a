"""Lifecycle of reservations on real switches, repeated requests, unresponsive switches, entries changed by others."""

from __future__ import annotations

import selectors
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from emulation.open_vswitch import set_controller_command
from machine.polling import wait_until
from tests.processes.rig import Controller, OpenVSwitch, flow, needs_open_vswitch

pytestmark = needs_open_vswitch


def state(controller: Controller, reservation_id: str) -> str:
    return str(controller.client.get(f"/v1/reservations/{reservation_id}").json()["state"])


def reserved_bps(controller: Controller, link: str = "s1->s2") -> int:
    links = controller.client.get("/v1/network").json()["links"]
    return int(next(facts["reserved_bps"] for facts in links if facts["link"] == link))


def seconds_from_now(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def reservations_on(ovs: OpenVSwitch, switch: str) -> set[str]:
    found = {line.split("cookie=0x9ace")[1][:8] for line in ovs.flows(switch) if "cookie=0x9ace" in line}
    return {f"r-{number}" for number in found - {"00000000"}}


def repairs(controller: Controller) -> float:
    """The missing entries of s2 that the controller has reinstalled so far."""
    lines = controller.client.get("/metrics").text.splitlines()
    counts = [line for line in lines if line.startswith("paceline_reconcile_entries_total{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in counts if '"s2"' in line and '"missing"' in line)


def test_a_held_reservation_is_booked_but_on_no_switch_until_it_is_committed(
    ovs: OpenVSwitch, controller: Controller
) -> None:
    held = controller.reserve(hold=True).json()
    assert held["state"] == "held"
    assert reserved_bps(controller) == 15_000_000
    assert reservations_on(ovs, "s1") == set()
    active = controller.client.post(f"/v1/reservations/{held['id']}/commit").json()
    assert (active["state"], active["expires_at"] > held["expires_at"]) == ("active", True)
    assert reservations_on(ovs, "s1") == reservations_on(ovs, "s2") == {held["id"]}
    again = controller.client.post(f"/v1/reservations/{held['id']}/commit")
    assert (again.status_code, again.json()["code"]) == (409, "not_held")


def test_a_held_reservation_expires_with_its_lease(controller: Controller) -> None:
    held = controller.reserve(hold=True, lease_s=0.3).json()
    wait_until(lambda: state(controller, held["id"]) == "expired")
    assert reserved_bps(controller) == 0


def test_a_scheduled_reservation_is_installed_at_its_start_and_removed_at_its_end(
    ovs: OpenVSwitch, controller: Controller
) -> None:
    body = controller.reserve(start_at=seconds_from_now(1.5), end_at=seconds_from_now(3.0)).json()
    assert body["state"] == "scheduled"
    assert reservations_on(ovs, "s1") == set()
    wait_until(lambda: state(controller, body["id"]) == "active")
    wait_until(lambda: reservations_on(ovs, "s1") == reservations_on(ovs, "s2") == {body["id"]})
    wait_until(lambda: state(controller, body["id"]) == "ended")
    wait_until(lambda: reservations_on(ovs, "s1") == reservations_on(ovs, "s2") == set())
    assert reserved_bps(controller) == 0


def test_a_switch_disconnected_at_a_start_is_updated_when_it_reconnects(
    ovs: OpenVSwitch, controller: Controller
) -> None:
    body = controller.reserve(start_at=seconds_from_now(1.5)).json()
    ovs.disconnect("s2")
    wait_until(lambda: controller.switches_up() == 1)
    wait_until(lambda: state(controller, body["id"]) == "degraded")
    reason = controller.client.get(f"/v1/reservations/{body['id']}").json()["reason"]
    assert reason == "Not yet in step: s2."
    ovs.connect(controller.openflow_port)
    wait_until(lambda: state(controller, body["id"]) == "active")
    assert reservations_on(ovs, "s2") == {body["id"]}


def test_a_repeated_request_gets_the_first_response(controller: Controller) -> None:
    def post(key: str, rate_bps: int = 15_000_000) -> Any:
        body = {"flows": [flow(rate_bps)]}
        return controller.client.post("/v1/reservations", json=body, headers={"Idempotency-Key": key})

    first = post("repeated")
    again = post("repeated")
    assert (again.status_code, again.json()) == (201, first.json())
    assert (first.headers.get("Idempotency-Replayed"), again.headers["Idempotency-Replayed"]) == (None, "true")
    other = post("repeated", 16_000_000)
    assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
    assert post("another").json()["code"] == "flow_in_use"
    controller.client.delete(f"/v1/reservations/{first.json()['id']}")
    assert post("another").status_code == 201, "a refusal must not be stored"


def test_changed_entries_are_reported_and_repaired_and_foreign_entries_are_kept(
    ovs: OpenVSwitch, controller: Controller
) -> None:
    reservation_id = controller.reserve().json()["id"]
    number = reservation_id[2:]
    before = ovs.flows("s1"), ovs.meters("s1")
    for _ in range(3):
        ovs.appctl("netdev-dummy/receive", "s1-eth2", PACKET)
    wait_until(lambda: packets(ovs, "s1", number) == [3, 3])
    ovs.ofctl("add-flow", "s1", "cookie=0xbeef,table=3,priority=7,udp,actions=drop")
    ovs.ofctl("mod-meter", "s1", "meter=110000,kbps,burst,stats,band=type=drop,rate=1,burst_size=1")
    ovs.ofctl("del-flows", "s2", f"cookie=0x9ace{number}0001/-1")
    try:
        found = {report["switch"]: report for report in controller.client.get("/v1/consistency").json()["switches"]}
        assert [len(found["s1"][kind]) for kind in ("missing", "wrong", "foreign")] == [0, 1, 1]
        assert [len(found["s2"][kind]) for kind in ("missing", "wrong", "foreign")] == [1, 0, 0]
        assert "0x000000000000beef" in found["s1"]["foreign"][0]
        controller.client.post("/v1/consistency/repair")
        assert controller.client.get("/v1/consistency").json()["consistent"]
        assert [line for line in ovs.flows("s1") if "0xbeef" not in line] == before[0]
        assert ovs.meters("s1") == before[1]
        assert packets(ovs, "s1", number) == [3, 3], "a correct entry was changed"
        assert reservations_on(ovs, "s2") == {reservation_id}
    finally:
        ovs.ofctl("del-flows", "s1", "cookie=0xbeef/-1")


def test_a_deleted_entry_is_repaired_without_a_request(ovs: OpenVSwitch, controller: Controller) -> None:
    reservation_id = controller.reserve().json()["id"]
    before = repairs(controller)
    ovs.ofctl("del-flows", "s2", f"cookie=0x9ace{reservation_id[2:]}0001/-1")
    wait_until(lambda: repairs(controller) > before)
    wait_until(lambda: reservations_on(ovs, "s2") == {reservation_id})


def test_a_killed_controller_leaves_correct_entries_untouched_after_its_restart(
    ovs: OpenVSwitch, controller: Controller
) -> None:
    reservation_id = controller.reserve().json()["id"]
    for _ in range(5):
        ovs.appctl("netdev-dummy/receive", "s1-eth2", PACKET)
    wait_until(lambda: packets(ovs, "s1", reservation_id[2:]) == [5, 5])
    controller.stop(signal.SIGKILL)
    ovs.appctl("netdev-dummy/receive", "s1-eth2", PACKET)
    controller.start()
    wait_until(controller.in_sync)
    wait_until(lambda: packets(ovs, "s1", reservation_id[2:]) == [6, 6])
    assert state(controller, reservation_id) == "active"
    assert controller.client.get("/v1/consistency").json()["consistent"]


PACKET = (
    "in_port(2),eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:03),eth_type(0x0800),"
    "ipv4(src=10.0.0.1,dst=10.0.0.3,proto=6,tos=0,ttl=64,frag=no),tcp(src=7801,dst=7800),tcp_flags(ack)"
)


def packets(ovs: OpenVSwitch, switch: str, number: str) -> list[int]:
    lines = [line for line in ovs.ofctl("dump-flows", switch).splitlines() if f"0x9ace{number}" in line]
    return [int(line.split("n_packets=")[1].split(",")[0]) for line in lines]


class PausableProxy:
    """A proxy of a switch's connection to its controller, which can stop forwarding."""

    def __init__(self, controller_port: int) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.forwarding = threading.Event()
        self.forwarding.set()
        self.busy = threading.Event()
        self._controller_port = controller_port
        self._closed = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while not self._closed:
            switch, _ = self.listener.accept()
            with switch, socket.socket() as controller:
                if not self._closed and controller.connect_ex(("127.0.0.1", self._controller_port)) == 0:
                    self._forward({switch: controller, controller: switch})

    def _forward(self, peers: dict[socket.socket, socket.socket]) -> None:
        with selectors.DefaultSelector() as ready:
            for sock in peers:
                ready.register(sock, selectors.EVENT_READ)
            while not self._closed:
                for key, _ in ready.select(0.2):
                    self.forwarding.wait()
                    assert isinstance(key.fileobj, socket.socket)
                    try:
                        data = key.fileobj.recv(65536)
                        if not data:
                            return
                        peers[key.fileobj].sendall(data)
                        self.busy.set()
                    except OSError:
                        return

    def close(self) -> None:
        self._closed = True
        self.forwarding.set()
        with socket.create_connection(("127.0.0.1", self.port)):
            self._thread.join(5)
        self.listener.close()


@contextmanager
def unresponsive(ovs: OpenVSwitch, controller: Controller, switch: str) -> Iterator[Callable[[], None]]:
    """Make a connected switch unresponsive until the function yielded is called."""
    proxy = PausableProxy(controller.openflow_port)
    try:
        ovs.vsctl(*set_controller_command(switch, f"tcp:127.0.0.1:{proxy.port}"))
        assert proxy.busy.wait(60)
        # in_sync alone may refer to the previous connection, whose end the controller has not noticed yet.
        wait_until(lambda: controller.client.get("/v1/consistency").json()["consistent"])
        wait_until(lambda: f"tcp:127.0.0.1:{proxy.port}" in ovs.vsctl("get-controller", switch))
        proxy.forwarding.clear()
        yield proxy.forwarding.set
    finally:
        proxy.forwarding.set()
        ovs.connect(controller.openflow_port)
        proxy.close()


def local_flow(source_port: int = 7900) -> dict[str, Any]:
    """A flow that crosses s1 only."""
    return {**flow(1_000_000, "edge1", source_port), "destination": "edge2"}


def test_an_unresponsive_switch_delays_only_reservations_on_it(ovs: OpenVSwitch, controller: Controller) -> None:
    before = [(ovs.flows(name), ovs.meters(name)) for name in ("s1", "s2")]
    with unresponsive(ovs, controller, "s2") as resume, ThreadPoolExecutor() as pool:
        waiting = [pool.submit(controller.reserve, 1_000_000, edge) for edge in ("edge1", "edge2")]
        wait_until(lambda: reserved_bps(controller) == 2_000_000)
        for port in range(7900, 7910):
            answer = controller.client.post("/v1/reservations", json={"flows": [local_flow(port)]})
            assert answer.status_code == 201, answer.text
            assert controller.client.delete(f"/v1/reservations/{answer.json()['id']}").status_code == 200
        assert not any(future.done() for future in waiting), "a reservation on the unresponsive switch was answered"
        answers = [future.result() for future in waiting]
        assert {answer.json()["code"] for answer in answers} <= {"switch_timeout", "switch_down"}
        assert {answer.status_code for answer in answers} == {503}
        resume()
    wait_until(controller.in_sync)
    wait_until(lambda: [(ovs.flows(name), ovs.meters(name)) for name in ("s1", "s2")] == before)
    wait_until(lambda: reserved_bps(controller) == 0)


def test_too_many_requests_to_one_switch_are_refused_and_others_are_not(
    ovs: OpenVSwitch, controller: Controller
) -> None:
    def post(port: int) -> int:
        body = {"flows": [flow(100_000, "edge1", port)]}
        answer = controller.client.post("/v1/reservations", json=body)
        assert answer.status_code == 503
        if answer.json()["code"] == "overloaded":
            assert int(answer.headers["Retry-After"]) >= 1
            return 1
        return 0

    with unresponsive(ovs, controller, "s2"), ThreadPoolExecutor(30) as pool:
        answers = [pool.submit(post, port) for port in range(9000, 9030)]
        wait_until(lambda: any(future.done() for future in answers))
        answer = controller.client.post("/v1/reservations", json={"flows": [local_flow()]})
        assert answer.status_code == 201, answer.text
        assert sum(future.result() for future in answers) >= 30 - 15
    wait_until(controller.in_sync)


@pytest.mark.parametrize("method", ["PATCH", "DELETE"])
def test_a_change_waits_for_another_change_of_the_same_reservation(controller: Controller, method: str) -> None:
    reservation_id = controller.reserve().json()["id"]

    def change(rate_bps: int) -> int:
        body = None if method == "DELETE" else {"flows": [flow(rate_bps)]}
        return controller.client.request(method, f"/v1/reservations/{reservation_id}", json=body).status_code

    with ThreadPoolExecutor() as pool:
        assert set(pool.map(change, range(15_000_000, 23_000_000, 1_000_000))) == {200}
    assert controller.client.get("/v1/consistency").json()["consistent"]
