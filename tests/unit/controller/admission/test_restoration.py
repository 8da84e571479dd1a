"""Links fail and return: who stays, who runs on a backup, who is placed anew, who waits."""

from __future__ import annotations

from dataclasses import replace

from controller.admission.admission import Admitted, Request, decide
from controller.admission.live_reservations import LiveReservations
from controller.admission.restoration import Restoration, restore
from controller.booking.calendar import Calendar
from controller.domain.network import network_from_map
from controller.domain.reservation import Flow, Match, Requirement, Reservation, State
from topologies.loader import load_map

METRO = network_from_map(load_map("metro"))
MBPS = 1_000_000
SHORT = ("edge1", "r6", "r1", "r2", "cloud")


def flow(name: str, source: str = "edge1", rate_mbps: float = 15, port: int = 7801, **needed: object) -> Flow:
    requirement = Requirement(round(rate_mbps * MBPS), 40_000, **needed)  # type: ignore[arg-type]
    return Flow(name, source, "cloud", Match("tcp", port, 7800), requirement)


def both(*spans: str) -> frozenset[str]:
    """The directed links of spans written `a-b`."""
    ends = [span.split("-") for span in spans]
    return frozenset(f"{a}->{b}" for a, b in ends) | frozenset(f"{b}->{a}" for a, b in ends)


class Network:
    """Reservations made one after the other, and what becomes of them."""

    def __init__(self) -> None:
        self.bookings, self.standing, self.now_s = Calendar(), LiveReservations(METRO), 0.0

    def reserve(self, number: int, *flows: Flow) -> Reservation:
        identity = f"r-{number}"
        decision = decide(METRO, self.bookings, self.standing, Request(identity, 1, flows), self.now_s)
        assert isinstance(decision, Admitted), decision
        times = 60.0, self.now_s, 60.0
        new = Reservation(identity, number, 1, "test", State.ACTIVE, *times, decision.placements)
        self.bookings, self.standing = decision.bookings, decision.after.with_reservation(new)
        self.now_s += 1
        return new

    def modify(self, number: int, down: frozenset[str], *flows: Flow) -> Reservation:
        before = self[number]
        request = Request(before.id, before.version + 1, flows)
        decision = decide(METRO, self.bookings, self.standing, request, self.now_s, down)
        assert isinstance(decision, Admitted), decision
        changed = replace(before, version=before.version + 1, placements=decision.placements)
        self.bookings, self.standing = decision.bookings, decision.after.with_reservation(changed)
        return changed

    def fail(self, *spans: str) -> Restoration:
        after = restore(METRO, self.bookings, self.standing, self.now_s, both(*spans))
        self.bookings, self.standing = after.bookings, after.standing
        for link in METRO.links.values():
            assert self.bookings.reserved_bps(link.name, self.now_s) <= link.reservable_bps
        return after

    def __getitem__(self, number: int) -> Reservation:
        found = self.standing.get(f"r-{number}")
        assert found is not None
        return found


def test_what_no_failure_touches_stays_as_it_is() -> None:
    network = Network()
    network.reserve(1, flow("a"))
    assert network.fail("r3-r4").changed == ()


def test_an_unprotected_flow_is_placed_on_another_path_and_keeps_its_promise() -> None:
    network = Network()
    network.reserve(1, flow("a"))
    after = network.fail("r6-r1")
    assert [each.id for each in after.changed] == ["r-1"]
    moved = after.changed[0]
    assert (moved.state, moved.version, moved.reason) == (State.ACTIVE, 2, None)
    assert moved.placements[0].path != SHORT
    assert moved.placements[0].version == 2


def test_a_protected_flow_runs_on_its_backup_and_goes_back() -> None:
    network = Network()
    placed = network.reserve(1, flow("a", protection="link_disjoint")).placements[0]
    network.fail("r1-r2")
    assert network[1].state is State.ACTIVE
    assert network[1].reason == "a runs on its backup path."
    assert network[1].placements == (placed,)
    network.fail()
    back = network[1]
    assert (back.state, back.reason) == (State.ACTIVE, None)
    assert network[1].placements == (placed,)


def test_a_protected_flow_on_its_backup_can_be_changed_and_keeps_both_paths() -> None:
    """With r1-r2 down no two paths from r6 to r2 are left."""
    network = Network()
    before = network.reserve(1, flow("a", protection="link_disjoint")).placements[0]
    network.fail("r1-r2")
    now = network.modify(1, both("r1-r2"), flow("a", rate_mbps=20, protection="link_disjoint")).placements[0]
    assert (now.path, now.backup_path) == (before.path, before.backup_path)
    assert (now.reserved_bps, now.version) == (20 * MBPS, 2)
    assert network.fail("r1-r2").changed == ()
    assert network[1].reason == "a runs on its backup path."
    network.fail()
    back = network[1]
    assert (back.state, back.reason) == (State.ACTIVE, None)
    assert network[1].placements[0].path == before.path


def test_a_protected_flow_whose_backup_is_down_can_be_changed() -> None:
    network = Network()
    before = network.reserve(1, flow("a", protection="link_disjoint")).placements[0]
    network.fail("r4-r5")
    now = network.modify(1, both("r4-r5"), flow("a", rate_mbps=20, protection="link_disjoint")).placements[0]
    assert (now.path, now.backup_path, now.reserved_bps) == (before.path, before.backup_path, 20 * MBPS)


def test_when_both_paths_of_a_protected_flow_are_cut_it_is_placed_anew_or_without_a_backup() -> None:
    network = Network()
    first = network.reserve(1, flow("a", protection="link_disjoint")).placements[0]
    assert first.path == SHORT and first.backup_path is not None
    network.fail("r1-r2", "r4-r5")
    third = network[1].placements[0]
    assert (third.path, third.backup_path) == (("edge1", "r6", "r1", "r4", "r3", "r2", "cloud"), None)
    assert network[1].state is State.DEGRADED
    assert network[1].reason == "a runs unprotected."
    network.fail()
    back = network[1]
    assert back.state is State.ACTIVE
    assert back.placements[0].backup_path is not None


def test_the_more_important_rank_goes_first_then_the_older() -> None:
    """Only one of the three fits on what is left."""
    network = Network()
    network.reserve(1, flow("old", "edge1", 40, 1))
    network.reserve(2, flow("young", "edge1", 30, 2))
    network.reserve(3, flow("important", "edge2", 60, 3, rank=1))
    assert network[1].placements[0].path == network[2].placements[0].path == SHORT
    network.fail("r6-r1")
    assert network[3].state is State.ACTIVE
    assert not network[3].placements[0].suspended
    assert [network[number].state for number in (1, 2)] == [State.DEGRADED] * 2
    network.fail()
    assert [network[number].state for number in (1, 2, 3)] == [State.ACTIVE] * 3


def test_a_flow_that_fits_nowhere_waits_and_says_why_and_comes_back_to_its_path() -> None:
    network = Network()
    before = network.reserve(1, flow("a", rate_mbps=70)).placements[0]
    network.reserve(2, flow("b", "edge3", 70, 7802))
    network.fail("r6-r1")
    waiting = network[1]
    assert waiting.state is State.DEGRADED
    assert waiting.placements[0].suspended
    assert waiting.reason is not None and waiting.reason.startswith("a needs 70 Mb/s; ")
    assert network.bookings.of("r-1") == ()
    assert waiting.carried == ()
    network.fail()
    back = network[1].placements[0]
    assert network[1].state is State.ACTIVE
    assert (back.path, back.suspended, back.meter_id) == (before.path, False, before.meter_id)


def test_the_flows_of_a_reservation_that_are_not_cut_stay_where_they_are() -> None:
    network = Network()
    placements = network.reserve(1, flow("a"), flow("b", "load2", 15, 7802)).placements
    network.fail("r6-r1")
    assert network[1].placements[1] == replace(
        placements[1],
        accumulated_latency_us=network[1].placements[1].accumulated_latency_us,
        latency_variation_us=network[1].placements[1].latency_variation_us,
    )
    assert network[1].placements[0].path != SHORT


def test_a_host_that_is_cut_off_waits() -> None:
    network = Network()
    network.reserve(1, flow("a", protection="link_disjoint"))
    network.fail("edge1-r6")
    assert network[1].state is State.DEGRADED
    assert network[1].reason == "a: no path from edge1 to cloud is up."
    network.fail()
    back = network[1]
    assert back.state is State.ACTIVE


def test_a_reservation_that_has_not_begun_is_left_alone() -> None:
    network = Network()
    later = replace(network.reserve(1, flow("a")), state=State.SCHEDULED, start_at_s=1000.0)
    network.standing = network.standing.with_reservation(later)
    assert network.fail("r6-r1").changed == ()
