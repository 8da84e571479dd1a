"""The controller process under overload, with many event streams, and with slow clients."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from controller.api.middleware.concurrency import STREAMS, WRITES
from machine.polling import wait_until
from tests.processes.rig import MAP, Controller, OpenVSwitch, flow, needs_open_vswitch

pytestmark = needs_open_vswitch

CLIENTS = 2 * (WRITES.running + WRITES.queued)


@pytest.fixture(scope="module")
def ovs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenVSwitch]:
    switch = OpenVSwitch(tmp_path_factory.mktemp("ovs"))
    yield switch
    switch.stop()


@pytest.fixture(scope="module")
def controller(ovs: OpenVSwitch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    running = Controller(tmp_path_factory.mktemp("controller"))
    ovs.build(running.openflow_port)
    wait_until(running.in_sync)
    yield running
    running.stop()
    running.client.close()


class Reader(threading.Thread):
    """Sends GET requests until it is stopped."""

    def __init__(self, url: httpx.URL) -> None:
        super().__init__()
        self.answers: Counter[int] = Counter()
        self._url = url
        self._stopping = threading.Event()

    def run(self) -> None:
        with httpx.Client(base_url=self._url, timeout=30, verify=False) as client:
            while not self._stopping.is_set():
                for path in ("/v1/healthz", "/v1/network", "/v1/reservations?state=active"):
                    self.answers[client.get(path).status_code] += 1

    def stop(self) -> Counter[int]:
        self._stopping.set()
        self.join()
        return self.answers


def request_concurrently(controller: Controller) -> list[httpx.Response]:
    """Reserve a small flow from each of CLIENTS concurrent clients."""
    start = threading.Barrier(CLIENTS)

    def post(number: int) -> httpx.Response:
        with httpx.Client(base_url=controller.client.base_url, timeout=60, verify=False) as client:
            start.wait()
            request = flow(100_000, source_port=10_000 + number)
            request["requirement"] = {"min_bandwidth_bps": 100_000, "burst_bytes": 10_000}  # the queue holds them all
            return client.post("/v1/reservations", json={"flows": [request]})

    with ThreadPoolExecutor(CLIENTS) as pool:
        return list(pool.map(post, range(CLIENTS)))


def release_all(controller: Controller) -> None:
    for reservation in controller.client.get("/v1/reservations?state=active").json()["reservations"]:
        assert controller.client.delete(f"/v1/reservations/{reservation['id']}").json()["state"] == "released"


def codes(answers: list[httpx.Response]) -> Counter[str]:
    return Counter(answer.json().get("code", "reserved") for answer in answers)


def test_overload_is_refused_with_retry_after_and_readers_are_served(controller: Controller) -> None:
    reader = Reader(controller.client.base_url)
    reader.start()
    answers = request_concurrently(controller)
    assert set(reader.stop()) == {200}
    counts = codes(answers)
    assert set(counts) <= {"reserved", "too_many_requests", "overloaded", "no_capacity"}, counts
    assert counts["reserved"] >= WRITES.running // 2
    for answer in answers:
        if answer.status_code in (429, 503):
            assert int(answer.headers["retry-after"]) >= 1
    active = controller.client.get("/v1/reservations?state=active").json()["reservations"]
    assert len(active) == counts["reserved"]
    links = {link["link"]: link["reserved_bps"] for link in controller.client.get("/v1/network").json()["links"]}
    assert links["s1->s2"] == 100_000 * counts["reserved"]
    assert controller.in_sync()
    release_all(controller)


def test_overload_with_unresponsive_switches_does_not_delay_readers(ovs: OpenVSwitch, controller: Controller) -> None:
    ovs.switch.send_signal(signal.SIGSTOP)
    reader = Reader(controller.client.base_url)
    reader.start()
    try:
        answers = request_concurrently(controller)
    finally:
        ovs.switch.send_signal(signal.SIGCONT)
    assert set(reader.stop()) == {200}
    known = {"switch_timeout", "switch_down", "too_many_requests", "overloaded", "no_capacity"}
    assert set(codes(answers)) <= known, codes(answers)
    wait_until(controller.in_sync, 30)
    assert {link["reserved_bps"] for link in controller.client.get("/v1/network").json()["links"]} == {0}
    assert controller.reserve().status_code == 201
    release_all(controller)


def test_event_streams_and_slow_clients_do_not_block_others(controller: Controller) -> None:
    with contextlib.ExitStack() as stack:
        url = controller.client.base_url
        clients = [stack.enter_context(httpx.Client(base_url=url, verify=False)) for _ in range(48)]
        streams = [stack.enter_context(client.stream("GET", "/v1/events")) for client in clients[: STREAMS.per_lane]]
        assert {stream.status_code for stream in streams} == {200}
        lines = [stream.iter_lines() for stream in streams]
        assert {next(line) for line in lines} == {"retry: 2000"}
        late = clients[-1].get("/v1/events")
        assert (late.status_code, late.json()["code"], late.headers["retry-after"]) == (429, "too_many_requests", "1")
        for number in range(50):
            slow_client = stack.enter_context(socket.create_connection(("127.0.0.1", controller.rest_port)))
            request = b"POST /v1/reservations HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
            slow_client.sendall(request + (b"content-length: 1000\r\n\r\n{" if number % 2 else b""))
        reservation_id = controller.reserve().json()["id"]
        for line in lines:
            event_lines = [next(line) for _ in range(5)]
            assert event_lines[2].startswith("id: ")
            assert event_lines[3] == "event: reservation"
            assert json.loads(event_lines[4].removeprefix("data: "))["id"] == reservation_id
    release_all(controller)


def test_a_reconnecting_event_stream_gets_the_missed_events(controller: Controller) -> None:
    with controller.client.stream("GET", "/v1/events") as stream:
        lines = stream.iter_lines()
        first = controller.reserve().json()["id"]
        last = next(line for line in lines if line.startswith("id: ")).removeprefix("id: ")
    controller.client.delete(f"/v1/reservations/{first}")
    with controller.client.stream("GET", "/v1/events", headers={"Last-Event-ID": last}) as stream:
        events = (json.loads(line.removeprefix("data: ")) for line in stream.iter_lines() if line.startswith("data: "))
        states = []
        while "released" not in states:
            states.append(next(event for event in events if event.get("id") == first)["state"])


def test_metrics_report_reservations_links_requests_and_switches(controller: Controller) -> None:
    reservation_id = controller.reserve().json()["id"]
    text = controller.client.get("/metrics").text
    lines = (line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#")
    values = {name: float(value) for name, value in lines}
    assert values['paceline_reservations{state="active"}'] == 1
    assert values['paceline_link_promised_bps{link="s1->s2"}'] == 15_000_000
    assert values['paceline_link_free_bps{link="s1->s2"}'] == 61_000_000
    assert values["paceline_install_seconds_count"] >= 1
    assert values['paceline_requests_total{method="POST",route="/v1/reservations",status="201"}'] >= 1
    assert {values[f'paceline_switch_up{{switch="{node.name}"}}'] for node in MAP.switches} == {1.0}
    controller.client.delete(f"/v1/reservations/{reservation_id}")
