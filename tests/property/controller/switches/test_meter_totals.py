"""The totals of a meter tell every packet, whatever resets the switch's counters."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from hypothesis import given
from hypothesis import strategies as st

from controller.dataplane.meter_tokens import NO_COUNTS, MeterCounts
from controller.domain.reservation import FIRST_METER_ID
from controller.switches.meter_totals import MeterTotals
from tests.unit.controller.meter_reservation import reservation_with_meter

KEY = "s1", FIRST_METER_ID
TOKEN_FRAMES = MeterCounts(3, 1500, 1, 500)

Step = Literal["change", "read", "late"]


@dataclass
class Meter:
    """A meter of a switch, and what the controller makes of it."""

    totals: MeterTotals = field(default_factory=MeterTotals)
    counts: MeterCounts = NO_COUNTS
    sent: MeterCounts = NO_COUNTS
    number: int = 0
    shown: MeterCounts = NO_COUNTS

    def send(self, packets: int, dropped: int) -> None:
        added = MeterCounts(packets, 1000 * packets, min(dropped, packets), 1000 * min(dropped, packets))
        self.counts, self.sent = self.counts.plus(added), self.sent.plus(added)

    def begin(self) -> tuple[int | None, int, MeterCounts]:
        """Request a reading, which the switch answers at once."""
        self.number += 1
        return self.totals.begin(KEY), self.number, self.counts

    def show(self, reading: tuple[int | None, int, MeterCounts]) -> MeterCounts:
        total = self.totals.record(KEY, *reading) or self.totals.known(KEY)
        assert all(now >= before for now, before in zip(total, self.shown, strict=True)), "a total never falls"
        assert all(told <= true for told, true in zip(total, self.sent, strict=True)), "nothing is counted twice"
        self.shown = total
        return total

    def reset(self, before: MeterCounts) -> None:
        """The controller changes the meter, and sends frames of its own through it."""
        self.totals.change(KEY)
        assert self.totals.begin(KEY) is None
        self.counts = TOKEN_FRAMES
        self.totals.confirm(KEY, before, self.counts)


PACKETS = st.tuples(st.integers(0, 300), st.integers(0, 300))
KINDS: list[Step] = ["change", "read", "late"]
STEPS = st.lists(st.tuples(PACKETS, st.sampled_from(KINDS)), max_size=20)


@given(STEPS)
def test_changes_by_the_controller_lose_no_count(steps: list[tuple[tuple[int, int], Step]]) -> None:
    meter = Meter()
    meter.totals.start(KEY)
    for packets, step in steps:
        early = meter.begin()
        meter.send(*packets)
        if step == "change":
            meter.reset(meter.counts)
        elif step == "read":
            assert meter.show(meter.begin()) == meter.sent
        meter.show(early)  # the reply arrives after what happened meanwhile, perhaps a change
    assert meter.show(meter.begin()) == meter.sent


@given(PACKETS, PACKETS, PACKETS)
def test_a_reset_by_others_loses_what_was_not_read_before_it(
    read: tuple[int, int], unread: tuple[int, int], after: tuple[int, int]
) -> None:
    meter = Meter()
    meter.send(*read)
    known = meter.show(meter.begin())
    meter.send(*unread)
    meter.counts = NO_COUNTS
    meter.send(*after)
    shown, counted = meter.show(meter.begin()), meter.counts
    fell = any(now < before for now, before in zip(counted, known, strict=True))
    assert shown == (known.plus(counted) if fell else counted)


def test_a_meter_that_was_lost_and_is_added_again_continues() -> None:
    meter = Meter()
    meter.send(100, 60)
    meter.show(meter.begin())
    meter.reset(NO_COUNTS)  # it is not there to be read
    meter.send(10, 10)
    assert meter.show(meter.begin()) == meter.sent


def test_readings_that_arrive_in_another_order_than_they_were_requested_are_no_reset() -> None:
    meter = Meter()
    first = meter.begin()
    meter.send(100, 60)
    second = meter.begin()
    assert meter.show(second) == meter.show(first) == meter.sent


def test_drops_of_a_flow_that_ends_are_handed_over_once() -> None:
    meter = Meter()
    held = reservation_with_meter(*KEY)
    meter.totals.start(KEY)
    meter.send(5, 3)
    meter.reset(meter.counts)
    meter.send(4, 2)
    meter.totals.leave(KEY, held)
    meter.totals.change(KEY)
    meter.totals.end(KEY, meter.counts)
    (ended,) = meter.totals.pop_ended()
    assert (ended.reservation, ended.counts) == (held, meter.sent)
    assert meter.totals.pop_ended() == []
    assert meter.totals.known(KEY) == NO_COUNTS, "the next flow with this meter begins at 0"


def test_a_late_reading_of_an_ended_flow_is_not_counted_for_the_next_flow_with_its_meter() -> None:
    meter = Meter()
    meter.totals.start(KEY)
    meter.send(100, 60)
    late = meter.begin()
    meter.totals.change(KEY)
    meter.totals.end(KEY, meter.counts)
    meter.totals.start(KEY)
    assert meter.totals.record(KEY, *late) is None
    assert meter.totals.known(KEY) == NO_COUNTS


def test_a_switch_that_fails_in_a_change_can_be_read_again() -> None:
    meter = Meter()
    meter.send(100, 60)
    before = meter.show(meter.begin())
    meter.totals.change(KEY)
    meter.totals.forget("s1")
    meter.counts = NO_COUNTS
    meter.send(7, 7)
    assert meter.show(meter.begin()) == before.plus(meter.counts)
