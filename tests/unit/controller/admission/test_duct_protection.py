"""Spans in one duct fail together: pairs keep apart, shared backups are not shared then, alarms say which."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.admission.admission import Admitted, Rejected, Request, decide
from controller.admission.counter_offer import decide_with_offer
from controller.admission.live_reservations import LiveReservations
from controller.admission.restoration import restore
from controller.booking.calendar import Calendar
from controller.domain.network import Network, network_from_map
from controller.domain.path import spans_of
from controller.domain.reservation import Backup, Flow, Match, Placement, Protection, Requirement, Reservation, State
from controller.errors import Refused
from topologies.maps import Map, MapLink, MapNode

RATE_BPS = 60_000_000
SWITCHES = "adxyz"
SPANS = {"ax": 10, "dx": 10, "ay": 11, "dy": 11, "az": 30, "dz": 30}


def network(**ducts: str) -> Network:
    """Three ways from a to d, over x, y and z, each with room for one flow; `ducts`: the spans that lie in each."""
    nodes = [MapNode(name, "switch", (0, 0)) for name in SWITCHES]
    nodes += [MapNode("edge1", "edge", (0, 0)), MapNode("cloud", "cloud", (0, 0))]
    lying = {span: duct for duct, spans in ducts.items() for span in spans.split()}
    links = [MapLink((span[0], span[1]), km, 1, 100, lying.get(span)) for span, km in SPANS.items()]
    links += [MapLink(ends, 2, 4, 100) for ends in (("edge1", "a"), ("cloud", "d"))]
    return network_from_map(Map("three", "", 1.0, 9000, tuple(nodes), tuple(links)))


def flow(number: int, protection: Protection, backup: Backup) -> Flow:
    requirement = Requirement(RATE_BPS, protection=protection, backup=backup)
    return Flow(f"f{number}", "edge1", "cloud", Match("udp", number, 1), requirement)


class Admissions:
    def __init__(self, where: Network) -> None:
        self.network, self.bookings, self.standing = where, Calendar(), LiveReservations(where)

    def reserve(self, number: int, protection: Protection, backup: Backup = "shared") -> Admitted | Rejected:
        request = Request(f"r-{number}", 1, (flow(number, protection, backup),))
        decision = decide(self.network, self.bookings, self.standing, request, 0.0)
        if isinstance(decision, Admitted):
            new = Reservation(request.reservation_id, number, 1, "t", State.ACTIVE, 60, 0, 60, decision.placements)
            self.bookings, self.standing = decision.bookings, decision.after.with_reservation(new)
        return decision

    def fail(self, *spans: str) -> None:
        """Exactly these are down now."""
        down = frozenset("->".join(ends) for span in spans for ends in (span, span[::-1]))
        after = restore(self.network, self.bookings, self.standing, 1.0, down)
        self.bookings, self.standing = after.bookings, after.standing

    def running(self) -> list[Reservation]:
        return list(self.standing)


def test_a_duct_with_one_span_is_no_shared_risk() -> None:
    assert network(alone="ax", both="dx dz").ducts == {"d-x": "duct:both", "d-z": "duct:both"}


@pytest.mark.parametrize(("protection", "around"), [("link_disjoint", "y"), ("duct_disjoint", "z")])
def test_only_who_asks_is_kept_out_of_the_duct(protection: Protection, around: str) -> None:
    decision = Admissions(network(trench="ax dy")).reserve(1, protection)
    assert isinstance(decision, Admitted)
    placed = decision.placements[0]
    assert placed.path == ("edge1", "a", "x", "d", "cloud")
    assert placed.backup_path == ("edge1", "a", around, "d", "cloud")


def test_without_two_ways_in_different_ducts_it_is_refused_and_told_so() -> None:
    decision = Admissions(network(trench="ax ay az")).reserve(1, "duct_disjoint")
    assert isinstance(decision, Rejected)
    assert decision.error.code == "no_disjoint_path"
    assert decision.error.detail == "f1: no two paths from edge1 to cloud without a common span or duct are up."


def test_a_search_that_takes_too_long_is_given_up_and_a_refusal_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.routing.srlg_disjoint.SOLVE_LIMIT_S", 0.0)
    refused = Admissions(network(trench="ax ay az")).reserve(1, "duct_disjoint")
    assert isinstance(refused, Rejected)
    assert refused.error.code == "no_disjoint_path"
    assert refused.error.detail == (
        "f1: no two paths from edge1 to cloud without a common span or duct were found in 3 s; there may be some."
    )
    found = Admissions(network(trench="ax dy")).reserve(1, "duct_disjoint")
    assert isinstance(found, Admitted), "the pairs among the shortest paths are looked at all the same"
    assert placed_over(found.placements[0]) == ("x", "z")


def test_what_is_offered_instead_is_the_next_best_protection() -> None:
    calendar = Admissions(network(trench="ax ay az"))
    request = Request("r-1", 1, (flow(1, "duct_disjoint", "dedicated"),))
    refused = decide_with_offer(calendar.network, calendar.bookings, calendar.standing, request, 0.0)
    assert isinstance(refused, Rejected)
    assert isinstance(refused.error, Refused)
    refused.error.add_offer()
    offered = refused.error.facts["offer"]
    assert offered == (flow(1, "link_disjoint", "dedicated"),)


def test_when_no_pair_in_different_ducts_is_left_a_flow_gets_one_in_different_spans_until_there_is() -> None:
    calendar = Admissions(network(trench="ax ay"))
    decision = calendar.reserve(1, "duct_disjoint")
    assert isinstance(decision, Admitted)
    assert [placed_over(decision.placements[0])[0], placed_over(decision.placements[0])[1]] == ["x", "z"]
    calendar.fail("ax", "az")
    (alone,) = calendar.running()
    assert (alone.state, alone.reason) == (State.DEGRADED, "f1 runs unprotected.")
    calendar.fail("az")
    (weak,) = calendar.running()
    assert weak.reason == "f1 has a backup in the same duct as its path: trench."
    assert (weak.state, sorted(placed_over(weak.placements[0]))) == (State.DEGRADED, ["x", "y"])
    assert weak.placements[0].flow == flow(1, "duct_disjoint", "shared"), "it still wants what it asked for"
    calendar.fail()
    (whole,) = calendar.running()
    assert (whole.state, whole.reason) == (State.ACTIVE, None)
    assert "z" in placed_over(whole.placements[0])


def placed_over(placement: Placement) -> tuple[str, str]:
    """The switch in the middle of its path, and of its backup."""
    assert placement.backup_path is not None
    return placement.path[2], placement.backup_path[2]


def test_backups_that_one_duct_needs_together_are_not_shared() -> None:
    """f1 goes over x and f2 over z, both back up over y, which has room for one of them."""
    apart, together = Admissions(network()), Admissions(network(trench="dx dz"))
    for calendar in (apart, together):
        first = calendar.reserve(1, "link_disjoint")
        assert isinstance(first, Admitted)
        assert spans_of(first.placements[0].path) == ("a-x", "d-x")
    assert isinstance(apart.reserve(2, "link_disjoint"), Admitted)
    refused = together.reserve(2, "link_disjoint")
    assert isinstance(refused, Rejected)
    assert refused.error.code == "no_capacity"


@pytest.mark.parametrize("which", [1, 2])
def test_a_dedicated_backup_is_shared_with_nobody(which: int) -> None:
    """As above with no duct: whichever of the two wants it for itself, the second does not fit."""
    calendar = Admissions(network())
    for number in (1, 2):
        decision = calendar.reserve(number, "link_disjoint", "dedicated" if number == which else "shared")
    assert isinstance(decision, Rejected)
    assert decision.error.code == "no_capacity"


def test_a_protected_flow_survives_its_whole_duct_and_goes_back() -> None:
    calendar = Admissions(network(trench="ax dx dy"))
    decision = calendar.reserve(1, "duct_disjoint")
    assert isinstance(decision, Admitted)
    cut = frozenset({"a->x", "x->a", "d->x", "x->d", "d->y", "y->d"})
    after = restore(calendar.network, calendar.bookings, calendar.standing, 1.0, cut)
    (moved,) = after.changed
    assert (moved.state, moved.reason) == (State.ACTIVE, "f1 runs on its backup path.")
    assert moved.placements == tuple(replace(each) for each in decision.placements)
