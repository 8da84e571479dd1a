"""Invariants of admission and restoration: capacity, queues and latency limits hold under every single failure."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, precondition, rule

from controller.admission.admission import Admitted, Request, decide
from controller.admission.live_reservations import LiveReservations
from controller.admission.restoration import RUNNING, restore
from controller.booking.calendar import Calendar
from controller.booking.transfer_rate import HEADROOM_SHARE, least_rate_bps
from controller.calculus.network_bounds import Analysis, ShapedFlow
from controller.domain.network import network_from_map
from controller.domain.path import link_names, spans_of
from controller.domain.reservation import Flow, Match, Placement, Requirement, Reservation, State
from topologies.map_file.loader import load_map
from topologies.maps import Map

DUCTS = {"east": ("r1-r2", "r1-r4"), "south": ("r2-r3", "r3-r4")}
"""A duct of which a path uses one span, and one of which a path uses both."""


SHORT_QUEUES = {"r1-r2": 100_000, "r3-r4": 75_000}
"""Queues that a few bursts fill."""


def metro_with_ducts_and_short_queues() -> Map:
    plan = load_map("metro")
    duct_of = {span: duct for duct, spans in DUCTS.items() for span in spans}
    names = ["-".join(sorted(link.ends)) for link in plan.links]
    links = tuple(
        replace(link, duct=duct_of.get(name), queue_bytes=SHORT_QUEUES.get(name))
        for link, name in zip(plan.links, names, strict=True)
    )
    return replace(plan, links=links)


NETWORK = network_from_map(metro_with_ducts_and_short_queues())
HOSTS = [host.name for host in NETWORK.hosts]
BETWEEN_SWITCHES = ["r6-r1", "r1-r2", "r5-r6", "r1-r4", "r3-r4", "r2-r3", "r4-r5"]
SPANS = sorted(name for name in {"-".join(sorted(link.split("->"))) for link in NETWORK.links})
FAILURES: dict[str | None, tuple[str, ...]] = {None: ()}
FAILURES |= {span: (span,) for span in SPANS}
FAILURES |= {f"duct:{duct}": spans for duct, spans in DUCTS.items()}


@st.composite
def requirements(draw: st.DrawFn) -> Requirement:
    common = {
        "rank": draw(st.integers(0, 255)),
        "protection": draw(st.sampled_from(["none", "link_disjoint", "duct_disjoint"])),
        "backup": draw(st.sampled_from(["shared", "shared", "dedicated"])),
        "burst_bytes": draw(st.sampled_from([None, 1, 20_000])),
        "max_latency_us": draw(st.sampled_from([None, None, None, 60_000.0])),
    }
    if draw(st.booleans()):
        return Requirement(draw(st.integers(1000, 40_000_000)), **common)  # type: ignore[arg-type]
    size, deadline_ms = draw(st.integers(1, 300_000)), draw(st.integers(60, 200))
    period_ms = draw(st.sampled_from([None, 200.0, 400.0]))
    offset_ms = draw(st.integers(0, 199)) if period_ms else 0
    return Requirement(
        transfer_bytes=size, deadline_ms=deadline_ms, period_ms=period_ms, offset_ms=offset_ms, **common  # type: ignore[arg-type]
    )


@st.composite
def flows(draw: st.DrawFn) -> tuple[Flow, ...]:
    ends = draw(st.lists(st.permutations(HOSTS).map(lambda hosts: hosts[:2]), min_size=1, max_size=3))
    return tuple(
        Flow(
            f"f{number}", source, destination,
            Match("udp", draw(st.integers(1, 65535)), 1 + number), draw(requirements()),
        )
        for number, (source, destination) in enumerate(ends)
    )


def path_under(placement: Placement, failure: str | None) -> tuple[str, ...]:
    """The nodes that packets visit during a failure: to it, back, along the backup; if they are lost, the path."""
    path, backup, cut = placement.path, placement.backup_path, set(FAILURES[failure])
    cut_spans = [number for number, span in enumerate(spans_of(path)) if span in cut]
    if not cut_spans or backup is None or cut & set(spans_of(backup)):
        return path
    there = path[1 : 2 + cut_spans[0]]
    return (path[0], *there, *there[-2::-1], *backup[2:])


def is_open(placement: Placement, at_ms: int) -> bool:
    window = placement.window
    return window is None or (at_ms * 1000 - window.offset_us) % window.period_us < window.length_us


class Guarantees(RuleBasedStateMachine):
    live = Bundle("live")

    def __init__(self) -> None:
        super().__init__()
        self.calendar, self.admitted = Calendar(), LiveReservations(NETWORK)
        self.number, self.down = 0, frozenset[str]()

    @rule(
        target=live, requested=flows(), start_s=st.sampled_from([None, 10, 20]), lasts_s=st.sampled_from([5, 15, inf])
    )
    def reserve(self, requested: tuple[Flow, ...], start_s: float | None, lasts_s: float) -> object:
        self.number += 1
        end_s = (start_s or 0) + lasts_s
        request = Request(f"r-{self.number}", 1, requested, start_s, end_s)
        decision = self._decide(request)
        if not isinstance(decision, Admitted):
            return multiple()
        state = State.ACTIVE if start_s is None else State.SCHEDULED
        new = Reservation(request.reservation_id, self.number, 1, "test", state, 60, 0, 60, decision.placements)
        new = replace(new, start_at_s=start_s or 0, end_at_s=None if end_s == inf else end_s)
        self._record(decision, new)
        for placement in decision.placements:
            latency_us = placement.accumulated_latency_us
            least = [least_rate_bps(placement.flow.requirement, latency_us, share) for share in (0.0, HEADROOM_SHARE)]
            assert placement.reserved_bps in least
        return new.id

    @rule(identity=live, requested=flows())
    def modify(self, identity: str, requested: tuple[Flow, ...]) -> None:
        before = self.admitted.get(identity)
        if before is not None and before.state is State.ACTIVE:
            end_s = inf if before.end_at_s is None else before.end_at_s
            decision = self._decide(Request(identity, before.version + 1, requested, None, end_s))
            if isinstance(decision, Admitted):
                self._record(decision, replace(before, version=before.version + 1, placements=decision.placements))

    @rule(identity=consumes(live))
    def release(self, identity: str) -> None:
        self.calendar, self.admitted = self.calendar.without_reservation(identity), self.admitted.without(identity)

    @precondition(lambda self: any(each.state in RUNNING for each in self.admitted))
    @rule(
        down=st.lists(st.sampled_from(BETWEEN_SWITCHES), max_size=2)
        | st.lists(st.sampled_from(SPANS), max_size=1)
        | st.sampled_from(list(DUCTS.values()))
    )
    def spans_fail_or_return(self, down: list[str]) -> None:
        self.down = frozenset(
            f"{a}->{b}" for span in down for ends in [span.split("-")] for a, b in (ends, ends[::-1])
        )
        after = restore(NETWORK, self.calendar, self.admitted, 1.0, self.down)
        self.calendar, self.admitted = after.calendar, after.live
        for reservation in self.admitted:
            for placement in reservation.carried_placements:
                if reservation.state in (State.ACTIVE, State.DEGRADED):
                    paths = [placement.path, placement.backup_path or placement.path]
                    assert any(not self.down & set(link_names(path)) for path in paths)

    def _decide(self, request: Request) -> object:
        return decide(NETWORK, self.calendar, self.admitted, request, 0.0, self.down)

    def _record(self, decision: Admitted, new: Reservation) -> None:
        self.calendar, self.admitted = decision.calendar, decision.others.with_reservation(new)
        for placement in new.placements:
            backup = placement.backup_path
            protection = placement.flow.requirement.protection
            assert (backup is not None) == (protection != "none" and len(placement.path) > 3)
            if backup and protection == "duct_disjoint":
                for spans in DUCTS.values():
                    assert not (set(spans_of(placement.path)) & set(spans) and set(spans_of(backup)) & set(spans))
            if backup:
                assert not set(spans_of(placement.path)) & set(spans_of(backup))
                assert (backup[:2], backup[-2:]) == (placement.path[:2], placement.path[-2:])

    @invariant()
    def no_link_is_oversubscribed_at_any_moment_under_any_failure(self) -> None:
        """Checked at seconds of the calendar and, within the common period, at the starts of windows."""
        for second in (1, 5, 10, 15, 20, 25, 40):
            running = [
                placement
                for each in self.admitted
                if each.start_at_s <= second and (each.end_at_s is None or second < each.end_at_s)
                for placement in each.carried_placements
            ]
            moments = {0, *(p.window.offset_us // 1000 + k for p in running if p.window for k in (0, 200))}
            for failure in FAILURES:
                paths = [(placement, set(link_names(path_under(placement, failure)))) for placement in running]
                for moment in moments:
                    taken = dict.fromkeys(NETWORK.links, 0)
                    for placement, links in paths:
                        if is_open(placement, moment):
                            for name in links:
                                taken[name] += placement.reserved_bps
                    for name, link in NETWORK.links.items():
                        assert taken[name] <= link.reservable_bps

    @invariant()
    def every_limit_is_met_under_every_failure(self) -> None:
        running = [(each.id, placement) for each in self.admitted for placement in each.carried_placements]
        for name, placement in running:
            requirement, latency_us = placement.flow.requirement, self._bound_us(name, placement)
            assert latency_us <= (requirement.max_latency_us or inf)
            if requirement.deadline_ms and requirement.transfer_bytes:
                assert (
                    8e6 * requirement.transfer_bytes / placement.reserved_bps + latency_us
                    <= requirement.deadline_ms * 1000
                )

    @invariant()
    def the_bounds_are_those_of_an_analysis_from_scratch_and_no_queue_overflows(self) -> None:
        carried = self.admitted.bounds.carried_flows
        if any(flow.activity != type(flow.activity)() for flow in carried.values()):
            return  # the reference analysis takes all flows as active at all times
        for failure in FAILURES:
            shaped: dict[object, ShapedFlow] = {
                key: flow.shaped(failure, NETWORK.srlg_by_span) for key, flow in carried.items()
            }
            analysis = Analysis.of(NETWORK, shaped)
            for name, link in NETWORK.links.items():
                assert analysis.backlog_bytes(name) <= link.queue_bytes
            for key, bound in analysis.bounds.items():
                proven = self.admitted.bounds.bound(key)  # type: ignore[arg-type]
                assert bound.accumulated_latency_us <= proven.accumulated_latency_us * (1 + 1e-5)

    def _bound_us(self, name: str, placement: Placement) -> float:
        return self.admitted.bounds.bound((name, placement.flow.name)).accumulated_latency_us


TestGuarantees = Guarantees.TestCase
TestGuarantees.settings = settings(max_examples=20, stateful_step_count=12, deadline=None)
