"""Whatever changes a flow's meter undergoes, what passes it stays within one token bucket."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from hypothesis import example, given
from hypothesis import strategies as st

from controller.dataplane.entries import Entries, MeterEntry, key_of
from controller.dataplane.meter_tokens import KEPT_MS, MeterCounts
from controller.dataplane.update_order import Change
from controller.domain.reservation import FIRST_METER_ID
from controller.switches.meter_buckets import MeterBuckets
from tests.unit.controller.meter_reservation import reservation_with_meter

TICK_MS = 1
"""A meter refills in whole milliseconds."""


class SimulatedMeter:
    """A meter of Open vSwitch: full after each modification, refilled by whole milliseconds."""

    def __init__(self, entry: MeterEntry, now_us: int) -> None:
        self.entry = entry
        self.bits = entry.burst_kbit * 1000
        self.used_us = now_us
        self.counts = MeterCounts()

    def passes(self, size_bytes: int, now_us: int) -> bool:
        most_ms = self.entry.burst_kbit * 1000 // self.entry.rate_kbps
        elapsed_ms = min(now_us // 1000 - self.used_us // 1000, most_ms)
        self.bits = min(self.bits + elapsed_ms * self.entry.rate_kbps, self.entry.burst_kbit * 1000)
        self.used_us = now_us
        dropped = self.bits < size_bytes * 8
        if not dropped:
            self.bits -= size_bytes * 8
        counted = MeterCounts(1, size_bytes, int(dropped), size_bytes if dropped else 0)
        self.counts = self.counts.plus(counted)
        return not dropped


@dataclass
class ArrivalCurve:
    """The token bucket of the flow, continuously refilled, which the bounds assume."""

    rate_kbps: int
    burst_bits: float
    bits: float
    least_bits: float = 0.0

    def wait(self, elapsed_us: int) -> None:
        self.bits = min(self.burst_bits, self.bits + self.rate_kbps * elapsed_us / 1000)

    def take(self, size_bytes: int) -> None:
        self.bits -= size_bytes * 8
        self.least_bits = min(self.least_bits, self.bits)

    def grow(self, by_bits: int) -> None:
        self.burst_bits += by_bits
        self.bits += by_bits

    def change(self, meter: MeterEntry) -> None:
        self.rate_kbps, self.burst_bits = meter.rate_kbps, meter.burst_kbit * 1000
        self.bits = min(self.bits, self.burst_bits)


class Packets(NamedTuple):
    """So many packets of a size, sent at once."""

    number: int
    size_bytes: int


class MeterChange(NamedTuple):
    """A change of the meter; delays of the switch and of the controller, and what the flow sends meanwhile.

    `grows`: the meter keeps its rate, and its burst grows by that of the change, because its host has further flows.
    """

    rate_kbps: int
    burst_kbit: int
    confirm_us: int
    decide_us: int
    reach_us: int
    meanwhile: Packets
    grows: bool = False


class Switch:
    """A simulated switch with one metered flow, and the controller's buckets."""

    def __init__(self, meter: MeterEntry) -> None:
        self.now_us = self.readings = 0
        self.buckets = MeterBuckets(lambda: self.now_us / 1e6)
        self.buckets.set_intended(None, reservation_with_meter("s1", meter.meter_id))
        self.applied: Entries = {key_of(meter): meter}
        self.curve = ArrivalCurve(meter.rate_kbps, meter.burst_kbit * 1000, meter.burst_kbit * 1000)
        self.meter = SimulatedMeter(meter, 0)
        self.passed = self.sent = MeterCounts()
        first = self.buckets.with_tokens("s1", Change("add_meter", meter), None)
        assert first.tokens is None, "the first meter of a flow starts full"

    def wait(self, us: int) -> None:
        self.now_us += us
        self.curve.wait(us)

    def send(self, packets: Packets) -> None:
        for _ in range(packets.number):
            dropped = not self.meter.passes(packets.size_bytes, self.now_us)
            if not dropped:
                self.curve.take(packets.size_bytes)
            lost_bytes = packets.size_bytes if dropped else 0
            self.sent = self.sent.plus(MeterCounts(1, packets.size_bytes, int(dropped), lost_bytes))

    def execute(self, changes: Sequence[Change]) -> None:
        """Execute changes as a switch does that forwards nothing in between."""
        for change in changes:
            assert isinstance(change.entry, MeterEntry)
            assert change.tokens is not None
            change.tokens.before = self.meter.counts
            if change.kind == "modify_meter":
                self.meter = SimulatedMeter(change.entry, self.now_us)
                self.curve.change(change.entry)
            for size_bytes in change.tokens.frames:
                self.meter.passes(size_bytes, self.now_us)
            change.tokens.after = self.meter.counts
            change.tokens.is_read = True

    def counted(self) -> MeterCounts | None:
        """What the controller makes of a reading."""
        self.readings += 1
        key = "s1", self.meter.entry.meter_id
        return self.buckets.totals.record(key, self.buckets.totals.begin(key), self.readings, self.meter.counts)

    def change(self, change: MeterChange) -> None:
        meter = MeterEntry(FIRST_METER_ID, change.rate_kbps, change.burst_kbit)
        applied = self.applied[key_of(meter)]
        if change.grows and isinstance(applied, MeterEntry):
            meter = applied._replace(burst_kbit=applied.burst_kbit + change.burst_kbit)
            self.buckets.grow(("s1", meter.meter_id), change.burst_kbit * 125)
            self.curve.grow(change.burst_kbit * 1000)
        asked = Change("modify_meter", meter)
        draws, _ = self.buckets.draws({"s1": [asked]}, {"s1": self.applied})
        if draws:
            self.execute(draws["s1"])
            self.wait(change.confirm_us)
            self.buckets.settle(draws)
        self.wait(change.decide_us)
        changes = [self.buckets.with_tokens("s1", asked, applied)]
        self.wait(change.reach_us)
        self.send(change.meanwhile)
        self.execute(changes)
        self.applied[key_of(meter)] = meter
        self.wait(change.confirm_us)
        self.buckets.settle({"s1": changes})
        corrections = self.buckets.corrections({"s1": changes})
        if corrections:
            self.execute(corrections["s1"])
            self.buckets.settle(corrections)


PACKETS = st.builds(Packets, st.integers(0, 60), st.integers(60, 1514))
CHANGES = st.builds(
    MeterChange,
    rate_kbps=st.integers(100, 100_000),
    burst_kbit=st.integers(13, 8000),
    confirm_us=st.integers(0, 900),
    decide_us=st.integers(0, 30_000),
    reach_us=st.integers(0, 900),
    meanwhile=PACKETS,
    grows=st.booleans(),
)
WAITS = st.one_of(st.integers(0, 3000), st.integers(0, 500_000))
STEPS = st.lists(st.one_of(WAITS, PACKETS, CHANGES), max_size=40)
METERS = st.builds(
    MeterEntry, st.just(FIRST_METER_ID), st.integers(100, 100_000), st.integers(13, 8000)
).map(lambda meter: meter._replace(burst_kbit=max(meter.burst_kbit, meter.rate_kbps // 1000 + 13)))


def run(switch: Switch, steps: Sequence[int | Packets | MeterChange]) -> int:
    """The highest rate of any meter in use."""
    fastest_kbps = switch.meter.entry.rate_kbps
    for step in steps:
        if isinstance(step, MeterChange):
            switch.change(step)
            fastest_kbps = max(fastest_kbps, switch.meter.entry.rate_kbps)
        elif isinstance(step, Packets):
            switch.send(step)
        else:
            switch.wait(step)
    return fastest_kbps


FLOOD = Packets(60, 1000)
QUICK = MeterChange(5001, 8000, 300, 0, 300, Packets(4, 1000))


@given(METERS, STEPS)
@example(MeterEntry(FIRST_METER_ID, 5000, 8000), [FLOOD, *[QUICK, FLOOD, 1000] * 20])
def test_what_passes_a_meter_stays_within_its_curve(
    meter: MeterEntry, steps: list[int | Packets | MeterChange]
) -> None:
    switch = Switch(meter)
    fastest_kbps = run(switch, steps)
    assert switch.curve.least_bits >= -fastest_kbps * TICK_MS


@given(METERS, STEPS, st.integers(1000, 200_000))
def test_a_switch_that_executes_changes_late_adds_that_delay_once(
    meter: MeterEntry, steps: list[int | Packets | MeterChange], late_us: int
) -> None:
    switch = Switch(meter)
    late = [step._replace(reach_us=late_us) if isinstance(step, MeterChange) else step for step in steps]
    fastest_kbps = run(switch, late)
    assert switch.curve.least_bits >= -fastest_kbps * (TICK_MS + max(0, late_us / 1000 + 1 - KEPT_MS))


@given(METERS, STEPS)
def test_the_counters_tell_what_the_flow_sent(meter: MeterEntry, steps: list[int | Packets | MeterChange]) -> None:
    switch = Switch(meter)
    run(switch, steps)
    assert switch.counted() == switch.sent


@given(METERS, st.integers(100, 100_000))
def test_an_idle_flow_keeps_most_of_its_bucket(meter: MeterEntry, rate_kbps: int) -> None:
    """Enough for a sender that continues at once: five eighths, less two milliseconds of the rate."""
    switch = Switch(meter)
    switch.wait(1_000_000_000)
    change = MeterChange(rate_kbps, meter.burst_kbit, 0, 0, 0, Packets(0, 60))
    switch.change(change)
    assert switch.meter.bits >= 5 / 8 * meter.burst_kbit * 1000 - KEPT_MS * meter.rate_kbps - 1000


@given(METERS, st.integers(100, 8000), st.integers(0, 900))
def test_an_idle_flow_keeps_nearly_all_of_a_bucket_that_grows(meter: MeterEntry, by_kbit: int, took_us: int) -> None:
    switch = Switch(meter)
    switch.wait(1_000_000_000)
    switch.change(MeterChange(0, by_kbit, took_us, 0, 0, Packets(0, 60), grows=True))
    lost_ms = 2 * KEPT_MS + took_us / 1000 + TICK_MS
    frames_bits = 20 * 60 * 8  # frames have a least size
    least_bits = (63 / 64 * meter.burst_kbit + by_kbit) * 1000 - lost_ms * meter.rate_kbps - frames_bits
    assert switch.meter.bits >= least_bits
