"""Protection switching, rerouting and suspension after links fail and recover."""

from __future__ import annotations

from dataclasses import replace

from controller.admission.admission import Admitted, Request, decide
from controller.admission.live_reservations import LiveReservations
from controller.admission.restoration import Restoration, restore
from controller.booking.calendar import Calendar
from controller.domain.network import network_from_map
from controller.domain.reservation import Flow, Match, Requirement, Reservation, State
from topologies.map_file.loader import load_map

METRO = network_from_map(load_map("metro"))
MBPS = 1_000_000
SHORT = ("edge1", "r6", "r1", "r2", "cloud")


def flow(name: str, source: str = "edge1", rate_mbps: float = 15, port: int = 7801, **requirement: object) -> Flow:
    needs = Requirement(round(rate_mbps * MBPS), 40_000, **requirement)  # type: ignore[arg-type]
    return Flow(name, source, "cloud", Match("tcp", port, 7800), needs)


def both(*spans: str) -> frozenset[str]:
    """The directed links of spans written `a-b`."""
    ends = [span.split("-") for span in spans]
    return frozenset(f"{a}->{b}" for a, b in ends) | frozenset(f"{b}->{a}" for a, b in ends)


class Network:
    """A network with successive reservations, modifications and failures."""

    def __init__(self) -> None:
        self.calendar, self.live, self.now_s = Calendar(), LiveReservations(METRO), 0.0

    def reserve(self, number: int, *flows: Flow) -> Reservation:
        identity = f"r-{number}"
        decision = decide(METRO, self.calendar, self.live, Request(identity, 1, flows), self.now_s)
        assert isinstance(decision, Admitted), decision
        times = 60.0, self.now_s, 60.0
        new = Reservation(identity, number, 1, "test", State.ACTIVE, *times, decision.placements)
        self.calendar, self.live = decision.calendar, decision.others.with_reservation(new)
        self.now_s += 1
        return new

    def modify(self, number: int, down: frozenset[str], *flows: Flow) -> Reservation:
        before = self[number]
        request = Request(before.id, before.version + 1, flows)
        decision = decide(METRO, self.calendar, self.live, request, self.now_s, down)
        assert isinstance(decision, Admitted), decision
        changed = replace(before, version=before.version + 1, placements=decision.placements)
        self.calendar, self.live = decision.calendar, decision.others.with_reservation(changed)
        return changed

    def fail(self, *spans: str) -> Restoration:
        after = restore(METRO, self.calendar, self.live, self.now_s, both(*spans))
        self.calendar, self.live = after.calendar, after.live
        for link in METRO.links.values():
            assert self.calendar.reserved_bps(link.name, self.now_s) <= link.reservable_bps
        return after

    def __getitem__(self, number: int) -> Reservation:
        found = self.live.get(f"r-{number}")
        assert found is not None
        return found


def test_unaffected_flows_stay_as_they_are() -> None:
    network = Network()
    network.reserve(1, flow("a"))
    assert network.fail("r3-r4").changed == ()


def test_an_unprotected_flow_is_rerouted() -> None:
    network = Network()
    network.reserve(1, flow("a"))
    after = network.fail("r6-r1")
    assert [each.id for each in after.changed] == ["r-1"]
    moved = after.changed[0]
    assert (moved.state, moved.version, moved.reason) == (State.ACTIVE, 2, None)
    assert moved.placements[0].path != SHORT
    assert moved.placements[0].version == 2


def test_a_protected_flow_runs_on_its_backup_and_reverts() -> None:
    network = Network()
    placed = network.reserve(1, flow("a", protection="link_disjoint")).placements[0]
    network.fail("r1-r2")
    assert network[1].state is State.ACTIVE
    assert network[1].reason == "a runs on its backup path."
    assert network[1].placements == (placed,)
    network.fail()
    repaired = network[1]
    assert (repaired.state, repaired.reason) == (State.ACTIVE, None)
    assert network[1].placements == (placed,)


def test_a_protected_flow_on_its_backup_can_be_modified_and_keeps_both_paths() -> None:
    """With r1-r2 down no two paths from r6 to r2 are left."""
    network = Network()
    before = network.reserve(1, flow("a", protection="link_disjoint")).placements[0]
    network.fail("r1-r2")
    now = network.modify(1, both("r1-r2"), flow("a", rate_mbps=20, protection="link_disjoint")).placements[0]
    assert (now.path, now.backup_path) == (before.path, before.backup_path)
    assert (now.reserved_bps, now.version) == (20 * MBPS, 1)  # its entries stay
    assert network.fail("r1-r2").changed == ()
    assert network[1].reason == "a runs on its backup path."
    network.fail()
    repaired = network[1]
    assert (repaired.state, repaired.reason) == (State.ACTIVE, None)
    assert network[1].placements[0].path == before.path


def test_a_protected_flow_whose_backup_is_down_can_be_modified() -> None:
    network = Network()
    before = network.reserve(1, flow("a", protection="link_disjoint")).placements[0]
    network.fail("r4-r5")
    now = network.modify(1, both("r4-r5"), flow("a", rate_mbps=20, protection="link_disjoint")).placements[0]
    assert (now.path, now.backup_path, now.reserved_bps) == (before.path, before.backup_path, 20 * MBPS)


def test_a_protected_flow_with_both_paths_cut_is_rerouted_without_a_backup_if_need_be() -> None:
    network = Network()
    first = network.reserve(1, flow("a", protection="link_disjoint")).placements[0]
    assert first.path == SHORT and first.backup_path is not None
    network.fail("r1-r2", "r4-r5")
    third = network[1].placements[0]
    assert (third.path, third.backup_path) == (("edge1", "r6", "r1", "r4", "r3", "r2", "cloud"), None)
    assert network[1].state is State.DEGRADED
    assert network[1].reason == "a runs unprotected."
    network.fail()
    repaired = network[1]
    assert repaired.state is State.ACTIVE
    assert repaired.placements[0].backup_path is not None


def test_restoration_is_ordered_by_rank_then_age() -> None:
    """Only one of the three fits on the remaining paths."""
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


def test_a_flow_that_cannot_be_rerouted_is_suspended_and_returns_to_its_path() -> None:
    network = Network()
    before = network.reserve(1, flow("a", rate_mbps=70)).placements[0]
    network.reserve(2, flow("b", "edge3", 70, 7802))
    network.fail("r6-r1")
    suspended = network[1]
    assert suspended.state is State.DEGRADED
    assert suspended.placements[0].suspended
    assert suspended.reason is not None and suspended.reason.startswith("a needs 70 Mb/s; ")
    assert network.calendar.bookings_of("r-1") == ()
    assert suspended.carried_placements == ()
    network.fail()
    repaired = network[1].placements[0]
    assert network[1].state is State.ACTIVE
    assert (repaired.path, repaired.suspended, repaired.meter_id) == (before.path, False, before.meter_id)


def test_flows_of_the_same_reservation_that_are_not_cut_stay_where_they_are() -> None:
    network = Network()
    placements = network.reserve(1, flow("a"), flow("b", "load2", 15, 7802)).placements
    network.fail("r6-r1")
    assert network[1].placements[1] == replace(
        placements[1],
        accumulated_latency_us=network[1].placements[1].accumulated_latency_us,
        latency_variation_us=network[1].placements[1].latency_variation_us,
    )
    assert network[1].placements[0].path != SHORT


def test_a_flow_of_a_disconnected_host_is_suspended() -> None:
    network = Network()
    network.reserve(1, flow("a", protection="link_disjoint"))
    network.fail("edge1-r6")
    assert network[1].state is State.DEGRADED
    assert network[1].reason == "a: no path from edge1 to cloud: edge1-r6 is down."
    network.fail()
    repaired = network[1]
    assert repaired.state is State.ACTIVE


def test_a_scheduled_reservation_is_not_rerouted() -> None:
    network = Network()
    later = replace(network.reserve(1, flow("a")), state=State.SCHEDULED, start_at_s=1000.0)
    network.live = network.live.with_reservation(later)
    assert network.fail("r6-r1").changed == ()
