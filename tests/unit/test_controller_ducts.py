"""Spans in one duct fail together: pairs keep apart, shared backups are not shared then, alarms say which."""

from __future__ import annotations

from dataclasses import replace

import pytest

from controller.admission import Admitted, Rejected, Request, decide
from controller.bookings import Bookings
from controller.network import Network, network_from_map
from controller.reservation import Backup, Flow, Match, Protection, Requirement, Reservation, State
from controller.routes import spans_of
from controller.standing import Standing
from controller.survival import survive
from topologies.maps import Map, MapLink, MapNode

RATE_BPS = 60_000_000
SWITCHES = "adxyz"
SPANS = {"ax": 10, "dx": 10, "ay": 11, "dy": 11, "az": 30, "dz": 30}


def network(**ducts: str) -> Network:
    """Three ways from a to d, over x, y and z, each with room for one flow; `ducts`: the spans that lie in each."""
    nodes = [MapNode(name, "switch", (0, 0)) for name in SWITCHES]
    nodes += [MapNode("edge1", "edge", (0, 0)), MapNode("cloud", "cloud", (0, 0))]
    lying = {span: duct for duct, spans in ducts.items() for span in spans.split()}
    links = [MapLink((a, b), km, 1, 100, lying.get(a + b)) for (a, b), km in SPANS.items()]
    links += [MapLink(ends, 2, 4, 100) for ends in (("edge1", "a"), ("cloud", "d"))]
    return network_from_map(Map("three", "", 1.0, 9000, tuple(nodes), tuple(links)))


def flow(number: int, protection: Protection, backup: Backup) -> Flow:
    requirement = Requirement(RATE_BPS, protection=protection, backup=backup)
    return Flow(f"f{number}", "edge1", "cloud", Match("udp", number, 1), requirement)


class Calendar:
    def __init__(self, where: Network) -> None:
        self.network, self.bookings, self.standing = where, Bookings(), Standing(where)

    def reserve(self, number: int, protection: Protection, backup: Backup = "shared") -> Admitted | Rejected:
        request = Request(f"r-{number}", 1, (flow(number, protection, backup),))
        decision = decide(self.network, self.bookings, self.standing, request, 0.0)
        if isinstance(decision, Admitted):
            new = Reservation(request.reservation_id, number, 1, "t", State.ACTIVE, 60, 0, 60, decision.placements)
            self.bookings, self.standing = decision.bookings, decision.after.having(new)
        return decision


def test_a_duct_with_one_span_is_no_shared_risk() -> None:
    assert network(alone="ax", both="dx dz").ducts == {"d-x": "duct:both", "d-z": "duct:both"}


@pytest.mark.parametrize(("protection", "around"), [("link_disjoint", "y"), ("duct_disjoint", "z")])
def test_only_who_asks_is_kept_out_of_the_duct(protection: Protection, around: str) -> None:
    decision = Calendar(network(trench="ax dy")).reserve(1, protection)
    assert isinstance(decision, Admitted)
    placed = decision.placements[0]
    assert placed.path == ("edge1", "a", "x", "d", "cloud")
    assert placed.backup_path == ("edge1", "a", around, "d", "cloud")


def test_without_two_ways_in_different_ducts_it_is_refused_and_told_so() -> None:
    decision = Calendar(network(trench="ax ay az")).reserve(1, "duct_disjoint")
    assert isinstance(decision, Rejected)
    assert decision.error.code == "no_disjoint_path"
    assert decision.error.detail == "f1: no two paths from edge1 to cloud without a common span or duct are up."


def test_backups_that_one_duct_needs_together_are_not_shared() -> None:
    """f1 goes over x and f2 over z, both back up over y, which has room for one of them."""
    apart, together = Calendar(network()), Calendar(network(trench="dx dz"))
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
    calendar = Calendar(network())
    for number in (1, 2):
        decision = calendar.reserve(number, "link_disjoint", "dedicated" if number == which else "shared")
    assert isinstance(decision, Rejected)
    assert decision.error.code == "no_capacity"


def test_a_protected_flow_survives_its_whole_duct_and_goes_back() -> None:
    calendar = Calendar(network(trench="ax dx dy"))
    decision = calendar.reserve(1, "duct_disjoint")
    assert isinstance(decision, Admitted)
    cut = frozenset({"a->x", "x->a", "d->x", "x->d", "d->y", "y->d"})
    after = survive(calendar.network, calendar.bookings, calendar.standing, 1.0, cut)
    (moved,) = after.changed
    assert (moved.state, moved.reason) == (State.ACTIVE, "f1 runs on its backup path.")
    assert moved.placements == tuple(replace(each) for each in decision.placements)
