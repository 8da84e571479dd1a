"""Event stream, metrics, meter and fragment monitor."""

# ruff: noqa: ARG002 - the stand-in takes what the real one takes

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import Future
from contextlib import closing
from typing import Any

import pytest

from controller.dataplane.entries import FlowEntry
from controller.dataplane.fragment_entries import FRAGMENT_COOKIE, fragment_entry
from controller.dataplane.southbound import FlowCounter, MeterCounter
from controller.domain.events import (
    BoundChange,
    BoundsChanged,
    LinkChanged,
    ReservationChanged,
    ReservationInstalled,
    ServiceEvent,
    SwitchChanged,
    SwitchReconciled,
)
from controller.domain.reservation import Flow, Match, Placement, Requirement, Reservation, State
from controller.service.requests import ReservationSpec
from controller.service.reservation_service import Service
from controller.storage.ledger import IN_MEMORY, Ledger
from controller.telemetry import event_stream
from controller.telemetry.event_stream import BUFFERED_EVENTS, EventStream
from controller.telemetry.fragment_monitor import FragmentMonitor
from controller.telemetry.meter_monitor import MeterMonitor
from controller.telemetry.metrics import Metrics
from tests.unit.controller.simulated_switches import PAIR, ConfirmingSwitches


def changed(state: State, tenant: str = "lab") -> ReservationChanged:
    times = (60.0, 0.0, 60.0)
    return ReservationChanged(Reservation("r-1", 1, 1, "cloud", state, *times, (), "Down.", tenant=tenant))


async def read(
    stream: EventStream, count: int, last: str | None = None, tenants: str = "lab"
) -> list[tuple[str, ...]]:
    """The first `count` events: (id, kind, data), ids without the epoch."""
    found: list[tuple[str, ...]] = []
    subscription: AsyncIterator[str] = stream.subscribe(last, lambda tenant: tenant in tenants.split())
    async for texts in subscription:
        for text in texts.split("\n\n"):
            fields = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line and line[0] != ":")
            if "event" in fields:
                found.append((fields.get("id", "-").rpartition("-")[2], fields["event"], fields["data"]))
        if len(found) >= count:
            break
    return found[:count]


def placement(latency_us: float, promised_us: float | None = None) -> Placement:
    flow = Flow("f", "edge1", "cloud", Match("udp", 1, 2), Requirement(1000))
    path, bounds = ("edge1", "s1", "s2", "cloud"), (latency_us, latency_us - 100)
    return Placement(flow, path, 1000, 1, 110_000, 1, *bounds, promised_latency_us=promised_us)


@pytest.mark.parametrize(
    ("cause", "promised_us", "kinds"),
    [
        ("other_reservations", None, ["bounds"]),
        ("rerouted", 3000.0, ["bounds"]),
        ("requested", 1100.0, ["bounds"]),
        ("rerouted", 1100.0, ["bounds", "violation"]),
    ],
)
def test_changed_bounds_are_told_before_and_after(cause: Any, promised_us: float | None, kinds: list[str]) -> None:
    stream, reservation = EventStream(), changed(State.ACTIVE).reservation
    change = BoundChange(placement(1000.04, promised_us), placement(2000.04))
    stream.on_event(BoundsChanged(reservation, cause, (change,)))
    found = [(kind, json.loads(data)) for _, kind, data in asyncio.run(read(stream, 1 + len(kinds), "0-0"))[1:]]
    assert [kind for kind, _ in found] == kinds
    assert found[0][1] == {
        "id": "r-1", "version": 1, "tenant": "lab", "cause": cause,
        "flows": [{
            "name": "f",
            "before": {"accumulated_latency_us": 1000.0, "latency_variation_us": 900.0, "completion_ms": None},
            "after": {"accumulated_latency_us": 2000.0, "latency_variation_us": 1900.0, "completion_ms": None},
        }],
    }  # fmt: skip
    if kinds[-1] == "violation":
        assert found[1][1]["cause"] == "bound_exceeded"
        assert found[1][1]["reason"] == "f: the proven latency is 2000 us; at most 1100 us were promised."


def test_events_arrive_in_order_and_events_of_other_tenants_are_left_out() -> None:
    async def scenario() -> list[tuple[str, ...]]:
        stream = EventStream()
        reading = asyncio.create_task(read(stream, 4))
        await asyncio.sleep(0)
        stream.on_event(LinkChanged("a->b", up=False))
        stream.on_event(changed(State.DEGRADED, tenant="others"))
        stream.on_event(changed(State.ACTIVE))
        stream.on_event(SwitchChanged("s1", "away"))
        stream.on_event(SwitchReconciled("s1", missing=1, wrong=0, foreign=2))
        return await reading

    found = asyncio.run(scenario())
    # Event 2 and 3 belong to the other tenant.
    assert [(number, kind) for number, kind, _ in found] == [
        *(("1", "link"), ("4", "reservation"), ("5", "switch"), ("6", "reconcile")),
    ]
    assert found[0][2] == '{"link": "a->b", "up": false}'


def test_a_violation_is_published_once_when_a_reservation_becomes_degraded() -> None:
    async def scenario() -> list[tuple[str, ...]]:
        stream = EventStream()
        reading = asyncio.create_task(read(stream, 6))
        await asyncio.sleep(0)
        for state in (State.ACTIVE, State.DEGRADED, State.DEGRADED, State.ACTIVE, State.DEGRADED):
            stream.on_event(changed(state))
        return await reading

    kinds = [kind for _, kind, _ in asyncio.run(scenario())]
    assert kinds == ["reservation", "reservation", "violation", "reservation", "reservation", "reservation"]


def test_a_subscriber_resumes_after_its_last_event() -> None:
    stream = EventStream()
    for number in range(3):
        stream.publish("link", {"number": number})
    epoch = stream._epoch
    found = asyncio.run(read(stream, 2, f"{epoch}-1"))
    assert [number for number, _, _ in found] == ["2", "3"]


@pytest.mark.parametrize("last", ["0-1", "EPOCH-1", "EPOCH-999999", "nonsense", "EPOCH-" + "9" * 50])
def test_a_subscriber_receives_missed_when_events_were_dropped(last: str) -> None:
    stream = EventStream()
    for number in range(BUFFERED_EVENTS + 5):
        stream.publish("link", {"number": number})
    found = asyncio.run(read(stream, 2, last.replace("EPOCH", stream._epoch)))
    assert [kind for _, kind, _ in found] == ["missed", "link"]


def test_a_slow_subscriber_does_not_block_publishing_and_receives_missed() -> None:
    async def scenario() -> list[str]:
        stream = EventStream()
        slow = stream.subscribe(None, lambda _tenant: True)
        first = await anext(slow)
        for number in range(10 * BUFFERED_EVENTS):
            stream.publish("link", {"number": number})
        return [first, await anext(slow), await anext(slow)]

    _, missed, oldest = asyncio.run(scenario())
    assert missed.startswith("event: missed")
    assert f'"number": {9 * BUFFERED_EVENTS}' in oldest


def test_events_that_come_together_are_delivered_together_and_each_of_many_subscribers_gets_all() -> None:
    async def scenario() -> list[tuple[int, list[str]]]:
        stream = EventStream()

        async def read_all(tenant: str) -> tuple[int, list[str]]:
            texts: list[str] = []
            async for text in stream.subscribe(None, lambda other: other == tenant):
                texts.append(text)
                if '"number": 99}' in text:
                    break
            lines = "".join(texts[1:]).splitlines()
            return len(texts) - 1, [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]

        readers = [asyncio.create_task(read_all("lab" if number % 2 else "others")) for number in range(32)]
        await asyncio.sleep(0)
        for number in range(100):
            stream.publish("link", {"number": number}, None if number % 3 == 0 else ("lab", "others")[number % 3 - 1])
        return await asyncio.gather(*readers)

    for index, (deliveries, data) in enumerate(asyncio.run(scenario())):
        numbers = [number for number in range(100) if number % 3 in (0, 1 if index % 2 else 2)]
        assert data == [f'{{"number": {number}}}' for number in numbers]
        assert deliveries == 1


def test_an_event_published_by_another_thread_during_a_delivery_is_delivered_too() -> None:
    async def scenario() -> None:
        stream = EventStream()
        reading = asyncio.create_task(read(stream, 500))
        await asyncio.sleep(0)

        def publish() -> None:
            for number in range(500):
                stream.publish("link", {"number": number})

        await asyncio.to_thread(publish)
        assert [json.loads(data)["number"] for _, _, data in await reading] == list(range(500))

    asyncio.run(asyncio.wait_for(scenario(), 10))


def test_an_idle_stream_is_kept_open_and_ends_when_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "HEARTBEAT_S", 0.01)

    async def scenario() -> list[str]:
        stream = EventStream()
        texts = []
        async for text in stream.subscribe(None, lambda _tenant: True):
            texts.append(text)
            if len(texts) == 3:
                threading.Thread(target=stream.close).start()
        return texts

    texts = asyncio.run(asyncio.wait_for(scenario(), 10))
    assert texts[1] == ": keep-alive\n\n"


@pytest.fixture
def metrics() -> Iterator[Metrics]:
    with closing(Ledger(IN_MEMORY, "pair")) as ledger:
        yield Metrics(Service(PAIR, ConfirmingSwitches(), ledger).queries)


def values(metrics: Metrics) -> dict[str, float]:
    lines = metrics.render().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


def after_events(metrics: Metrics, *events: ServiceEvent) -> dict[str, float]:
    for event in events:
        metrics.on_event(event)
    return values(metrics)


def test_gauges_show_the_present_links_and_reservations(metrics: Metrics) -> None:
    shown = values(metrics)
    assert shown['paceline_link_free_bps{link="s1->s2"}'] == 76_000_000
    assert shown['paceline_link_promised_bps{link="s1->s2"}'] == 0
    assert shown['paceline_reservations{state="active"}'] == 0
    assert shown['paceline_switch_up{switch="s1"}'] == 0


def test_a_violation_counts_once_and_its_duration_grows(metrics: Metrics) -> None:
    shown = after_events(metrics, *map(changed, (State.ACTIVE, State.DEGRADED, State.DEGRADED)))
    assert shown["paceline_promise_violations_total"] == 1
    assert shown["paceline_degraded_seconds_total"] > 0
    later = after_events(metrics, changed(State.ACTIVE))
    assert later["paceline_degraded_seconds_total"] == values(metrics)["paceline_degraded_seconds_total"]
    assert after_events(metrics, changed(State.DEGRADED))["paceline_promise_violations_total"] == 2


def test_installs_and_repairs_are_counted(metrics: Metrics) -> None:
    shown = after_events(
        metrics, ReservationInstalled("r-1", 0.005), SwitchReconciled("s1", missing=3, wrong=1, foreign=2)
    )
    assert shown['paceline_install_seconds_bucket{le="0.006"}'] == 1
    assert shown['paceline_install_seconds_bucket{le="0.004"}'] == 0
    kinds = ("missing", "wrong", "foreign")
    found = [shown[f'paceline_reconcile_entries_total{{kind="{kind}",switch="s1"}}'] for kind in kinds]
    assert found == [3, 1, 2]


class DroppingSwitches(ConfirmingSwitches):
    """Switches whose meters have dropped `dropped` packets; `read`: those that were asked."""

    dropped = 0

    def __init__(self) -> None:
        super().__init__()
        self.read: set[int] = set()

    def read_counters(self, datapath_id: int, cookie: int, cookie_mask: int, meters: Any, timeout_s: float) -> Any:
        self.read.add(datapath_id)
        future: Future[Any] = Future()
        future.set_result(([], [MeterCounter(meter, 100, 100_000, self.dropped, 0) for meter in meters]))
        return future


def test_packets_dropped_by_meters_are_counted_once_and_published() -> None:
    switches, stream = DroppingSwitches(), EventStream()
    service = Service(PAIR, switches, Ledger(IN_MEMORY, "pair"))
    service.start()
    try:
        while service.queries.switches_up() < len(PAIR.switches):
            pass
        metrics = Metrics(service.queries)
        monitor = MeterMonitor(service.queries, metrics, stream)
        flow = Flow("up", "edge1", "cloud", Match("tcp", 1, 2), Requirement(min_bandwidth_bps=1_000_000))
        service.reserve(ReservationSpec("cloud", "lab", 60.0, (flow,))).result()
        counted = []
        for switches.dropped in (0, 5, 5, 7, 2):  # the last: the switch has restarted
            monitor.poll()
            counted.append(values(metrics).get('paceline_meter_dropped_packets_total{switch="s1"}', 0.0))
        assert counted == [0, 5, 5, 7, 9]
        assert switches.read == {1}, "the meter of a flow is on its first switch"
        events = asyncio.run(read(stream, 3, "0-0"))
        assert [kind for _, kind, _ in events] == ["missed", "violation", "violation"]
        assert '"cause": "sent_too_much"' in events[1][2]
    finally:
        service.stop()


class FragmentingSwitches(ConfirmingSwitches):
    """Switches that have counted so many packets by each entry for fragments of the first switch."""

    fragments = 0
    entry: FlowEntry | None = None

    def read_counters(self, datapath_id: int, cookie: int, cookie_mask: int, meters: Any, timeout_s: float) -> Any:
        future: Future[Any] = Future()
        entry = self.entry if datapath_id == 1 and cookie == FRAGMENT_COOKIE else None
        counters = [FlowCounter(entry, self.fragments, 9014 * self.fragments)] if entry else []
        future.set_result((counters, []))
        return future


def test_fragments_are_counted_once_and_published_for_each_reservation_of_the_hosts() -> None:
    switches, stream = FragmentingSwitches(), EventStream()
    service = Service(PAIR, switches, Ledger(IN_MEMORY, "pair"))
    service.start()
    try:
        while service.queries.switches_up() < len(PAIR.switches):
            pass
        metrics = Metrics(service.queries)
        monitor = FragmentMonitor(service.queries, metrics, stream)
        for port, source, tenant in ((1, "edge1", "lab"), (2, "edge1", "lab"), (3, "edge2", "lab")):
            flow = Flow(f"up{port}", source, "cloud", Match("udp", port, 9), Requirement(min_bandwidth_bps=1_000_000))
            service.reserve(ReservationSpec("cloud", tenant, 60.0, (flow,))).result()
        placed = service.queries.reservations()[0]
        _, switches.entry = fragment_entry(PAIR, placed.placements[0])
        counted = []
        for switches.fragments in (0, 30, 30, 33, 3):  # the last: the switch has restarted
            monitor.poll()
            counted.append(values(metrics).get('paceline_fragments_total{switch="s1"}', 0.0))
        assert counted == [0, 30, 30, 33, 36]
        shown, _ = service.queries.counters(placed)
        assert [count.packets for switch in shown for count in switch.fragments] == [36]
        events = [json.loads(data) for _, _, data in asyncio.run(read(stream, 7, "0-0"))[1:]]
        assert [(event["cause"], event["packets"]) for event in events] == [
            ("fragmented", packets) for packets in (30, 3, 3) for _ in range(2)
        ]
        assert len({event["id"] for event in events}) == 2, "the reservation of edge2 is not concerned"
        assert events[0]["reason"] == (
            "30 fragments of udp from edge1 to cloud passed s1 unmetered and unmarked, as best effort: "
            "a datagram of up1 may have 8972 bytes."
        )
    finally:
        service.stop()
