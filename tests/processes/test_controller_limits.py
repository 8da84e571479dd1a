"""What strangers, tenants and switches may cost the controller: every limit, set low, on a running controller."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import socket
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest

from control_plane.raw_switch import (
    FLOW,
    PORT_STATUS,
    RawSwitch,
    flow_stats,
    message,
    multipart_part,
    port_status,
)
from controller.api.middleware.body_limit import RECEIVING
from controller.switches.switch_manager import ports_of_map
from machine.polling import wait_until
from tests.processes.rig import Controller
from tests.unit.controller.simulated_switches import PAIR

PORTS = {node.name: sorted(ports_of_map(PAIR)[number]) for number, node in PAIR.switch_by_datapath_id.items()}
IDS = {node.name: number for number, node in PAIR.switch_by_datapath_id.items()}
PIDFD_GETFD = 438
"""Number of the system call, which Python does not have; it is the same on all architectures."""
LIMITS = {
    "rest.connections_per_address": 60,
    "rest.header_bytes": 4096,
    "rest.header_s": 1.5,
    "openflow.handshake_s": 2,
    "openflow.handshakes_per_address": 6,
    "openflow.new_per_s": 1000,
    "openflow.unknown_switches": 2,
    "openflow.reply_bytes": 400_000,
    "openflow.messages_per_s": 400,
}


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    options = [part for name, value in LIMITS.items() for part in ("--limit", f"{name}={value}")]
    running = Controller(tmp_path_factory.mktemp("controller"), *options)
    yield running
    assert running.stop() == 0
    assert "Traceback" not in running.log.read_text()
    running.client.close()


@pytest.fixture
def switches(controller: Controller) -> Iterator[dict[str, RawSwitch]]:
    with contextlib.ExitStack() as stack:
        connected = {name: stack.enter_context(switch(controller, name)) for name in IDS}
        wait_until(controller.in_sync)
        yield connected
    wait_until(lambda: controller.switches_up() == 0)


@contextlib.contextmanager
def switch(controller: Controller, name: str, datapath_id: int = 0, answers: bool = True) -> Iterator[RawSwitch]:
    connection = RawSwitch(("127.0.0.1", controller.openflow_port), datapath_id or IDS[name], PORTS[name])
    try:
        if answers:
            connection.start()
        yield connection
    finally:
        connection.close()


@contextlib.contextmanager
def connections(port: int, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            opened.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30)))
            opened[-1].sendall(sent)
        yield opened


def response(connection: socket.socket) -> tuple[int, str]:
    """Status and code of a response after which the connection ends."""
    received = b""
    with contextlib.suppress(ConnectionResetError):
        while part := connection.recv(65536):
            received += part
    head, _, body = received.partition(b"\r\n\r\n")
    return int(head.split()[1]), str(json.loads(body)["code"])


def is_closed(connection: socket.socket) -> bool:
    connection.settimeout(10)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def log_since(controller: Controller, start: int) -> list[str]:
    return controller.log.read_text()[start:].splitlines()


def log_size(controller: Controller) -> int:
    return len(controller.log.read_text())


def memory_bytes(controller: Controller) -> int:
    assert controller.process.pid is not None
    pages = int(Path(f"/proc/{controller.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


def renew(controller: Controller, reservation_id: str) -> int:
    with httpx.Client(base_url=controller.client.base_url, timeout=30) as client:
        return client.patch(f"/v1/reservations/{reservation_id}", json={}).status_code


# REST ----------------------------------------------------------------------------------------------------------------


def test_headers_have_a_size_and_a_time(controller: Controller) -> None:
    with connections(controller.rest_port, 1, b"GET /v1/network HTTP/1.1\r\nhost: 127.0.0.1\r\nx: ") as (endless,):
        endless.sendall(b"x" * 5000)
        assert response(endless) == (431, "headers_too_large")
    with connections(controller.rest_port, 1, b"GET /v1/network HTTP/1.1\r\n") as (many,):
        many.sendall(b"".join(b"x-%d: y\r\n" % number for number in range(600)) + b"\r\n")
        assert response(many) == (431, "headers_too_large")
    with connections(controller.rest_port, 1, b"GET /v1/network HTTP/1.1\r\nhost: 127.0.0.1\r\n") as (slow,):
        assert response(slow) == (408, "request_timeout")
    with connections(controller.rest_port, 1) as (silent,):
        assert is_closed(silent)
    with connections(controller.rest_port, 1, b"nonsense\r\n\r\n") as (malformed,):
        assert response(malformed) == (400, "malformed_request")


def test_what_surrounds_the_content_of_a_body_has_a_size(controller: Controller) -> None:
    head = b"POST /v1/quotes HTTP/1.1\r\nhost: 127.0.0.1\r\ntransfer-encoding: chunked\r\n\r\n"
    for endless in (b"2;extension=", b"2\r\n{}\r\n0\r\ntrailer: "):
        with connections(controller.rest_port, 1, head + endless) as (client,):
            with contextlib.suppress(OSError):
                client.sendall(b"x" * 200_000)
            assert is_closed(client)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in b'{"flows": []}')
    with connections(controller.rest_port, 1, head + chunks + b"0\r\n\r\n") as (client,):
        assert client.recv(65536).split()[1] == b"422"


def test_idle_connections_are_closed_in_favour_of_new_ones(controller: Controller) -> None:
    most = int(LIMITS["rest.connections_per_address"])
    with connections(controller.rest_port, most + 20) as idle:
        assert all(is_closed(connection) for connection in idle[:15])
        with httpx.Client(base_url=controller.client.base_url, timeout=30) as client:
            assert client.get("/v1/healthz").status_code == 200
            with connections(controller.rest_port, most + 20):
                assert client.get("/v1/healthz").status_code == 200


def test_open_paths_and_reads_wait_for_no_body(controller: Controller) -> None:
    announced = b"HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1000\r\n\r\n"
    with connections(controller.rest_port, 50, b"POST /v1/healthz " + announced) as clients:
        assert {client.recv(65536).split()[1] for client in clients} == {b"405"}
        assert controller.client.get("/v1/healthz").status_code == 200
        assert is_closed_in_the_end(clients[0])
    for path in (b"GET /v1/healthz ", b"GET /metrics ", b"GET /docs ", b"DELETE /v1/reservations/r-00000000 "):
        with connections(controller.rest_port, 1, path + announced) as (client,):
            assert client.recv(65536).split()[1] in (b"200", b"404"), path


def test_incomplete_bodies_keep_nobody_from_reserving_or_renewing(
    controller: Controller, switches: dict[str, RawSwitch]
) -> None:
    assert switches
    kept = controller.reserve().json()["id"]
    incomplete = b"POST /v1/quotes HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 1000\r\n\r\n{"
    with connections(controller.rest_port, RECEIVING.per_lane, incomplete):
        wait_until(lambda: controller.switches_up() == 2, poll_s=0.1)
        with connections(controller.rest_port, 1, incomplete) as (further,):
            assert response(further) == (429, "too_many_requests")
        assert renew(controller, kept) == 200
        made = controller.reserve(edge="edge2")
        assert made.status_code == 201
        assert controller.client.get("/v1/healthz").status_code == 200
    for reservation_id in (kept, made.json()["id"]):
        controller.client.delete(f"/v1/reservations/{reservation_id}").raise_for_status()


# OpenFlow ------------------------------------------------------------------------------------------------------------


def test_handshakes_have_a_deadline_and_a_number(controller: Controller) -> None:
    start, most = log_size(controller), int(LIMITS["openflow.handshakes_per_address"])
    with connections(controller.openflow_port, most + 3) as silent:
        assert all(is_closed_in_the_end(connection) for connection in silent[:3])
        with switch(controller, "s1"):
            wait_until(lambda: controller.switches_up() == 1)
            assert all(is_closed_in_the_end(connection) for connection in silent)
            assert controller.switches_up() == 1
    wait_until(lambda: controller.switches_up() == 0)
    lines = log_since(controller, start)
    assert any("WARNING" in line and "6 handshakes of its address are incomplete" in line for line in lines)
    assert any("handshake was not complete within 2 s" in line for line in lines)


def is_closed_in_the_end(connection: socket.socket) -> bool:
    connection.settimeout(10)
    with contextlib.suppress(ConnectionResetError):
        while connection.recv(4096):
            pass
    return True


def test_a_dripping_switch_is_closed_at_the_same_deadline(controller: Controller) -> None:
    with connections(controller.openflow_port, 1) as (slow,):
        slow.settimeout(0.3)
        for byte in b"\x04\x00\x00\x10" + bytes(60):
            try:
                slow.sendall(bytes([byte]))
                while slow.recv(100):
                    pass
                break
            except TimeoutError:
                continue
            except OSError:
                break
        else:
            pytest.fail("the connection is still open")


def test_switches_that_are_not_on_the_map_are_few(controller: Controller) -> None:
    with contextlib.ExitStack() as stack:
        for number in (101, 102):
            stack.enter_context(switch(controller, "s1", number))
        wait_until(lambda: sum("is connected but not on map" in line for line in controller.complaints()) == 2)
        with switch(controller, "s1", 103, answers=False) as further:
            further.answer()  # returns when the controller ends the connection
        assert "000000000000103" not in " ".join(controller.complaints())


@pytest.mark.parametrize("more", [True, False])
def test_a_reply_without_end_ends_the_connection(
    controller: Controller, switches: dict[str, RawSwitch], more: bool
) -> None:
    start, before = log_size(controller), memory_bytes(controller)
    if more:
        switches["s2"].endless = True
        assert controller.client.get("/v1/consistency").status_code == 200
    else:  # nobody has asked
        with contextlib.suppress(OSError):
            for xid in range(1, 80):
                switches["s2"].socket.sendall(multipart_part(xid, FLOW, flow_stats(7), more=True))
    wait_until(lambda: controller.switches_up() == 1)
    words = "a multipart reply is larger than 400000 bytes" if more else "more than 64 multipart replies are incomplete"
    assert [words in line for line in log_since(controller, start) if "closed the connection" in line] == [True]
    assert memory_bytes(controller) - before < 50e6


def test_a_malformed_message_ends_the_connection_with_one_line(
    controller: Controller, switches: dict[str, RawSwitch]
) -> None:
    short, other_version = b"\x04\x0c\x00\x03\0\0\0\0", b"\x63\0\0\x08\0\0\0\0"
    for part in (message(PORT_STATUS, b"\2"), message(10, b"\0" * 8), short, other_version):
        start = log_size(controller)
        with contextlib.suppress(OSError):
            for _ in range(200):
                switches["s1"].socket.sendall(part)
        wait_until(lambda: controller.switches_up() == 1)
        lines = [line for line in log_since(controller, start) if "closed the connection of a switch" in line]
        assert len(lines) == 1
        assert len(lines[0]) < 500
        switches["s1"].close()
        switches["s1"] = RawSwitch(("127.0.0.1", controller.openflow_port), IDS["s1"], PORTS["s1"])
        switches["s1"].start()
        wait_until(controller.in_sync)
    switches["s1"].close()


def test_port_status_of_other_ports_is_not_kept(controller: Controller, switches: dict[str, RawSwitch]) -> None:
    before = memory_bytes(controller)
    for first in range(1000, 41_000, 1000):
        switches["s1"].socket.sendall(b"".join(port_status(number) for number in range(first, first + 1000)))
    switches["s1"].socket.sendall(port_status(1, is_up=False))
    made = controller.reserve(edge="edge2")
    assert made.status_code in (201, 409), made.text
    wait_until(lambda: "Switch s1: port 1 is down" in " ".join(controller.complaints()))
    assert memory_bytes(controller) - before < 20e6
    switches["s1"].socket.sendall(port_status(1))
    wait_until(lambda: "port 1 is down" not in " ".join(controller.complaints()))
    if made.status_code == 201:
        controller.client.delete(f"/v1/reservations/{made.json()['id']}").raise_for_status()


def test_a_second_connection_of_a_connected_switch_is_refused_and_told(
    controller: Controller, switches: dict[str, RawSwitch]
) -> None:
    assert switches
    start = log_size(controller)
    with controller.client.stream("GET", "/v1/events") as stream:
        lines = stream.iter_lines()
        assert next(lines)
        with switch(controller, "s1", answers=False) as impostor:
            impostor.answer()  # returns when the controller ends the connection
            assert impostor.is_established.is_set()
        assert "event: impostor" in lines  # reads until the event arrives
        event = json.loads(next(lines).removeprefix("data: "))
    told = {"switch": "s1", "certificate": [], "address": "127.0.0.1", "reason": "already_connected"}
    assert event == told
    assert any("WARNING" in line and "connected already" in line for line in log_since(controller, start))
    assert controller.in_sync()
    made = controller.reserve()
    assert made.status_code == 201
    controller.client.delete(f"/v1/reservations/{made.json()['id']}").raise_for_status()


def test_a_second_connection_replaces_one_that_no_longer_answers(controller: Controller) -> None:
    start = log_size(controller)
    with switch(controller, "s1") as first, switch(controller, "s2"):
        wait_until(controller.in_sync)
        first.is_silent = True
        with switch(controller, "s1") as second:
            assert second.is_established.wait(30)
            assert first.has_ended.wait(30)
            wait_until(controller.in_sync, 20)
            made = controller.reserve()
            assert made.status_code == 201
            controller.client.delete(f"/v1/reservations/{made.json()['id']}").raise_for_status()
    assert not any("connected already" in line for line in log_since(controller, start))
    wait_until(lambda: controller.switches_up() == 0)


def test_a_lost_switch_and_a_dark_link_are_warnings(controller: Controller, switches: dict[str, RawSwitch]) -> None:
    start = log_size(controller)
    switches["s1"].socket.sendall(port_status(1, is_up=False))
    wait_until(lambda: "port 1 is down" in " ".join(controller.complaints()))
    switches["s2"].close()
    wait_until(lambda: controller.switches_up() == 1)
    for words in "link=s1->s2 state=down", "switch=s2 event=SwitchDisconnected":  # logged after the state has changed
        wait_until(partial(warned, controller, start, words))


def warned(controller: Controller, start: int, words: str) -> bool:
    return any(" WARNING " in line and words in line for line in log_since(controller, start))


# The process ---------------------------------------------------------------------------------------------------------


def test_no_listener_dies_without_file_descriptors(controller: Controller, switches: dict[str, RawSwitch]) -> None:
    assert switches
    pid = controller.process.pid
    assert pid is not None
    limit = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    assert limit[0] == min(limit[1], 65_536), "raised at the start"
    start, opened = log_size(controller), len(list(Path(f"/proc/{pid}/fd").iterdir()))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (opened + 2, limit[1]))
    try:
        with connections(controller.openflow_port, 5), connections(controller.rest_port, 5):
            wait_until(lambda: any("cannot accept a connection" in line for line in log_since(controller, start)))
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, limit)
    with httpx.Client(base_url=controller.client.base_url, timeout=30) as client:
        assert client.get("/v1/healthz").json()["switches_up"] == 2
    with switch(controller, "s1", 999) as late:
        assert late.is_established.wait(30)


def end_listener(pid: int, port: int) -> None:
    """Shut a listening socket of a process down, through a copy of its descriptor (pidfd_getfd)."""
    pid_fd = os.pidfd_open(pid)
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        number = ctypes.CDLL(None, use_errno=True).syscall(PIDFD_GETFD, pid_fd, int(entry.name), 0)
        if number < 0:
            continue
        with contextlib.suppress(OSError), socket.socket(fileno=number) as copy:
            if copy.getsockname()[1] == port and copy.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                copy.shutdown(socket.SHUT_RDWR)
    os.close(pid_fd)


@pytest.mark.parametrize("side", ["rest", "openflow"])
def test_a_listener_that_fails_ends_the_process_with_a_sentence(tmp_path: Path, side: str) -> None:
    dying = Controller(tmp_path)
    assert dying.process.pid is not None
    end_listener(dying.process.pid, dying.rest_port if side == "rest" else dying.openflow_port)
    assert dying.process.wait(30) == 4
    dying.client.close()
    words = "The REST API no longer accepts requests" if side == "rest" else "No more switches can connect to 127.0.0.1"
    last = dying.log.read_text().splitlines()[-1]
    assert last.startswith(f"Error: {words}"), last
