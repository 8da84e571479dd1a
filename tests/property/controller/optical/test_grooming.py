"""Whatever is admitted, changed, moved and released on an optical map: no slot is lit twice, no lightpath is overfull,
and protected packets go around whichever span is cut before anybody is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise, product

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from controller.admission.admission import Admitted, Rejected, Request, decide
from controller.booking.calendar import Calendar
from controller.booking.flow_bookings import bookings_of
from controller.dataplane.entries import entries_of
from controller.dataplane.intended_state import IntendedState
from controller.dataplane.pipeline import contribution_of, intended_states
from controller.domain.lightpath import Lightpath
from controller.domain.network import Network, network_from_map
from controller.domain.path import Path, span_name, spans_of
from controller.domain.reservation import Flow, Requirement, Reservation, State
from controller.domain.route import path_under_failure, survivable_failures
from controller.errors import NoSpectrum
from controller.optical.defragmentation import LightpathMove, moves_to_admit, with_move
from controller.optical.lightpath_design import reservable_bps
from controller.routing.candidates import candidate_paths
from tests.property.strategies import groups
from tests.simulated_forwarding import packet, send
from topologies.map_file.loader import load_map
from topologies.maps import Grid

WAVES = load_map("waves")
HOSTS = [host.name for host in WAVES.hosts]
SPANS = [link.ends for link in WAVES.links if all(WAVES.node(end).kind == "switch" for end in link.ends)]


def network(grid: Grid, channel_gbps: float, regenerators: tuple[str, ...] | None = None) -> Network:
    """The map on another grid; channels of 200 Gb/s need a format that does not reach everywhere."""
    links = tuple(replace(link, channel_rate_gbps=channel_gbps, length_km=4 * link.length_km) for link in WAVES.links)
    optical = replace(WAVES, grid=grid, links=links, regenerators=regenerators)
    return network_from_map(replace(optical, scale_mbps_per_gbps=20 / channel_gbps))


GRIDS: tuple[Grid, ...] = ("fixed", "flexible")
NETWORKS = [network(grid, gbps) for grid in GRIDS for gbps in (100.0, 200.0)]
NETWORKS += [network("fixed", 100.0, ()), network("flexible", 100.0, ("r3",)), network("fixed", 100.0, ("r2",))]


REQUIREMENTS = st.builds(
    Requirement,
    st.integers(100_000, 19_000_000) | st.just(11_000_000),
    protection=st.sampled_from(["none", "none", "link_disjoint"]),
    pinned=st.sampled_from([False, False, True]),
)
"""Two flows of 11 Mb/s do not fit into one lightpath, and leave room on the fibre where all channels are lit."""
FLOWS = groups(HOSTS, REQUIREMENTS, 3)


class Lightpaths(RuleBasedStateMachine):
    live = Bundle("live")

    def __init__(self) -> None:
        super().__init__()
        self.bookings = Calendar()
        self.reservations: dict[str, Reservation] = {}
        self.numbers = iter(range(1, 10_000))

    @initialize(chosen=st.sampled_from(NETWORKS))
    def choose(self, chosen: Network) -> None:
        self.network = chosen
        self.target = IntendedState(chosen)

    @rule(target=live, wanted=FLOWS, start_s=st.none() | st.floats(1, 100), lasts_s=st.none() | st.floats(1, 100))
    def reserve(self, wanted: tuple[Flow, ...], start_s: float | None, lasts_s: float | None) -> object:
        number = next(self.numbers)
        end_s = float("inf") if lasts_s is None else (start_s or 0.0) + lasts_s
        request = Request(f"r-{number:08x}", 1, wanted, start_s, end_s)
        decision = self._decide(request)
        if isinstance(decision, Rejected) and isinstance(decision.error, NoSpectrum):
            decision = self._make_room(request) or decision
        if not isinstance(decision, Admitted):
            return multiple()
        new = Reservation(
            request.reservation_id, number, 1, "test", State.ACTIVE, 60, 0, 60, decision.placements,
            start_at_s=start_s or 0.0, end_at_s=None if lasts_s is None else end_s,
        )  # fmt: skip
        self._accept(decision, new)
        return new.id

    def _decide(self, request: Request) -> Admitted | Rejected:
        return decide(self.network, self.bookings, tuple(self.reservations.values()), request, 0.0)

    def _make_room(self, request: Request) -> Admitted | None:
        """Move lightpaths for a request; both blocks of each are free of all others, and of each other."""
        flows = {each.name: each for each in request.flows}

        def refusal_of(calendar: Calendar, rerouted: Sequence[Reservation]) -> Exception | None:
            live = tuple((self.reservations | {each.id: each for each in rerouted}).values())
            for asked in (*map(as_it_is, rerouted), request):
                decision = decide(self.network, calendar, live, asked, 0.0)
                if isinstance(decision, Rejected):
                    return decision.error if asked is request else ValueError("a limit")
            return None

        def paths_of(name: str) -> list[Path]:
            return [path[1:-1] for path in candidate_paths(self.network, flows[name].source, flows[name].destination)]

        def paths_between(source: str, destination: str) -> tuple[Path, ...]:
            return candidate_paths(self.network, source, destination)

        movable = tuple(self.reservations.values())
        moves = moves_to_admit(self.network, self.bookings, movable, refusal_of, paths_of, paths_between)
        if moves is None:
            return None
        assert len(moves) <= 3 * len(flows)
        for move in moves:
            self._move(move)
        decision = self._decide(request)
        assert isinstance(decision, Admitted)
        return decision

    def _move(self, move: LightpathMove) -> None:
        users = [self.reservations[name] for name in move.reservations]
        assert not overlap(move.before, move.after), "make before break"
        for user, other in product(users, self.reservations.values()):
            if together(user, other):
                assert not any(overlap(move.after, held) for held in lit_by(other))
        for user in users:
            assert not any(each.flow.requirement.pinned for each in user.placements
                           if move.before in (*each.lightpaths, *each.backup_lightpaths))
            after = with_move(user, move)
            end_s = float("inf") if after.end_at_s is None else after.end_at_s
            ducts = self.network.srlg_by_span
            booked = bookings_of(ducts, after.id, after.placements, after.start_at_s, end_s)
            self.bookings = self.bookings.without_reservation(after.id).with_bookings(booked)
            self.reservations[after.id] = after
        for user in users:
            decision = self._decide(as_it_is(self.reservations[user.id]))
            assert isinstance(decision, Admitted), "the bounds hold on the new route"
            self._accept(decision, replace(self.reservations[user.id], placements=decision.placements))

    @rule(identity=live, wanted=FLOWS)
    def modify(self, identity: str, wanted: tuple[Flow, ...]) -> None:
        old = self.reservations[identity]
        end_s = float("inf") if old.end_at_s is None else old.end_at_s
        request = Request(identity, old.version + 1, wanted, old.start_at_s or None, end_s)
        decision = decide(self.network, self.bookings, tuple(self.reservations.values()), request, 0.0)
        if isinstance(decision, Admitted):
            changed = replace(old, version=old.version + 1, placements=decision.placements)
            for new in lit_by(changed):
                for held in lit_by(old):
                    assert new.id == held.id or not overlap(new, held), "both are lit while packets move over"
            self._accept(decision, changed)

    @rule(identity=consumes(live))
    def release(self, identity: str) -> None:
        del self.reservations[identity]
        self.bookings = self.bookings.without_reservation(identity)
        self.target.set_contribution(identity, None)

    def _accept(self, decision: Admitted, changed: Reservation) -> None:
        self.bookings = decision.calendar
        self.reservations |= {each.id: decision.others.with_current_bounds(each) for each in decision.others}
        self.reservations[changed.id] = changed
        if not changed.start_at_s:
            self.target.set_contribution(changed.id, contribution_of(self.network, changed))
            self._cut_every_span(changed)
        for placement in changed.placements:
            is_carried(placement.path, placement.lightpaths)
            if placement.backup_path is not None:
                is_carried(placement.backup_path, placement.backup_lightpaths)

    def _cut_every_span(self, changed: Reservation) -> None:
        """One after the other they go dark, and only the switches at their ends know."""
        states = intended_states(self.network, [each for each in self.reservations.values() if not each.start_at_s])
        for span, placement in product(SPANS, changed.placements):
            dark = frozenset((f"{span[0]}->{span[1]}", f"{span[1]}->{span[0]}"))
            trace = send(self.network, states, placement.flow.source, packet(self.network, placement.flow), dark)
            route, name = placement.route, span_name(*span)
            if route.backup is None and name in spans_of(route.path):
                assert tuple(trace.nodes) == route.path[: len(trace.nodes)], "what has no backup is not turned back"
                continue
            around = name in survivable_failures(route, self.network.srlg_by_span)
            walk = path_under_failure(route, name, self.network.srlg_by_span) if around else route.path
            assert (tuple(trace.nodes), set(trace.marks)) == (walk, {46})
            assert trace.arrived["eth_dst"] == self.network.nodes[placement.flow.destination].mac
            assert "vlan_vid" not in trace.arrived

    @invariant()
    def no_slot_is_lit_twice_at_one_time(self) -> None:
        everyone = list(self.reservations.values())
        for number, one in enumerate(everyone):
            for other in everyone[number:]:
                if together(one, other):
                    for first in lit_by(one):
                        for second in lit_by(other):
                            assert first.id == second.id or not overlap(first, second)

    @invariant()
    def no_lightpath_is_overfull_and_all_of_them_work(self) -> None:
        for lightpath in self.bookings.lightpaths().values():
            assert self.bookings.reserved_bps(lightpath.id, 0.0) <= reservable_bps(lightpath.rate_bps)
            assert lightpath.margin_db >= 0
            for link in lightpath.links:
                assert lightpath.first_slot + lightpath.width <= self.network.links[link].slot_count

    @invariant()
    def flows_change_lightpaths_only_where_a_switch_regenerates(self) -> None:
        regenerators = self.network.regenerators
        for reservation in self.reservations.values() if regenerators is not None else ():
            for placement in reservation.placements:
                for chain in (placement.lightpaths, placement.backup_lightpaths):
                    assert {each.nodes[0] for each in chain[1:]} <= (regenerators or frozenset())

    @invariant()
    def what_is_lit_is_what_somebody_travels_in(self) -> None:
        used = {each.id for reservation in self.reservations.values() for each in lit_by(reservation)}
        assert set(self.bookings.lightpaths()) == used

    @invariant()
    def the_target_is_that_of_a_fresh_start(self) -> None:
        begun = [each for each in self.reservations.values() if not each.start_at_s]
        fresh = intended_states(self.network, begun)
        assert self.target.entries == {name: entries_of(state) for name, state in fresh.items()}

    def teardown(self) -> None:
        for identity in list(self.reservations):
            self.release(identity)
        assert self.bookings == Calendar()


def as_it_is(reservation: Reservation) -> Request:
    flows = tuple(placement.flow for placement in reservation.placements)
    end_s = float("inf") if reservation.end_at_s is None else reservation.end_at_s
    keep = frozenset(flow.name for flow in flows)
    return Request(reservation.id, reservation.version, flows, reservation.start_at_s or None, end_s, keep)


def lit_by(reservation: Reservation) -> set[Lightpath]:
    return {each for p in reservation.placements for each in (*p.lightpaths, *p.backup_lightpaths)}


def together(one: Reservation, other: Reservation) -> bool:
    ends = [float("inf") if each.end_at_s is None else each.end_at_s for each in (one, other)]
    return one.start_at_s < ends[1] and other.start_at_s < ends[0]


def overlap(one: Lightpath, other: Lightpath) -> bool:
    return bool(set(one.links) & set(other.links) and one.slot_mask & other.slot_mask)


def is_carried(path: tuple[str, ...], lightpaths: tuple[Lightpath, ...]) -> None:
    """One after the other they lead along the path's switches."""
    assert [link for each in lightpaths for link in each.links] == [f"{a}->{b}" for a, b in pairwise(path[1:-1])]


TestLightpaths = Lightpaths.TestCase
TestLightpaths.settings = settings(max_examples=30, stateful_step_count=15, deadline=None)
