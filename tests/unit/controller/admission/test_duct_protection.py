"""Ducts (shared risk link groups): disjoint pairs, backup sharing, degraded protection."""

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
    """Three paths from a to d, over x, y and z, each with capacity for one flow; `ducts`: the spans in each duct."""
    nodes = [MapNode(name, "switch", (0, 0)) for name in SWITCHES]
    nodes += [MapNode("edge1", "edge", (0, 0)), MapNode("cloud", "cloud", (0, 0))]
    duct_of = {span: duct for duct, spans in ducts.items() for span in spans.split()}
    links = [MapLink((span[0], span[1]), km, 1, 100, duct_of.get(span)) for span, km in SPANS.items()]
    links += [MapLink(ends, 2, 4, 100) for ends in (("edge1", "a"), ("cloud", "d"))]
    return network_from_map(Map("three", "", 1.0, 9000, tuple(nodes), tuple(links)))


def flow(number: int, protection: Protection, backup: Backup) -> Flow:
    requirement = Requirement(RATE_BPS, protection=protection, backup=backup)
    return Flow(f"f{number}", "edge1", "cloud", Match("udp", number, 1), requirement)


class Admissions:
    def __init__(self, network: Network) -> None:
        self.network, self.calendar, self.live = network, Calendar(), LiveReservations(network)

    def reserve(self, number: int, protection: Protection, backup: Backup = "shared") -> Admitted | Rejected:
        request = Request(f"r-{number}", 1, (flow(number, protection, backup),))
        decision = decide(self.network, self.calendar, self.live, request, 0.0)
        if isinstance(decision, Admitted):
            new = Reservation(request.reservation_id, number, 1, "t", State.ACTIVE, 60, 0, 60, decision.placements)
            self.calendar, self.live = decision.calendar, decision.others.with_reservation(new)
        return decision

    def fail(self, *spans: str) -> None:
        """Set exactly these spans down."""
        down = frozenset("->".join(ends) for span in spans for ends in (span, span[::-1]))
        after = restore(self.network, self.calendar, self.live, 1.0, down)
        self.calendar, self.live = after.calendar, after.live

    def running(self) -> list[Reservation]:
        return list(self.live)


def test_a_duct_with_one_span_is_no_shared_risk_group() -> None:
    assert network(alone="ax", both="dx dz").srlg_by_span == {"d-x": "duct:both", "d-z": "duct:both"}


@pytest.mark.parametrize(("protection", "via"), [("link_disjoint", "y"), ("duct_disjoint", "z")])
def test_only_duct_disjoint_flows_avoid_a_shared_duct(protection: Protection, via: str) -> None:
    decision = Admissions(network(trench="ax dy")).reserve(1, protection)
    assert isinstance(decision, Admitted)
    placed = decision.placements[0]
    assert placed.path == ("edge1", "a", "x", "d", "cloud")
    assert placed.backup_path == ("edge1", "a", via, "d", "cloud")


def test_without_duct_disjoint_paths_the_request_is_refused() -> None:
    decision = Admissions(network(trench="ax ay az")).reserve(1, "duct_disjoint")
    assert isinstance(decision, Rejected)
    assert decision.error.code == "no_disjoint_path"
    assert decision.error.detail == "f1: no two paths from edge1 to cloud without a common span or duct are up."


def test_a_disjoint_path_search_that_exceeds_its_time_limit_says_so_in_the_refusal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("controller.routing.srlg_disjoint.SOLVE_LIMIT_S", 0.0)
    refused = Admissions(network(trench="ax ay az")).reserve(1, "duct_disjoint")
    assert isinstance(refused, Rejected)
    assert refused.error.code == "no_disjoint_path"
    assert refused.error.detail == (
        "f1: no two paths from edge1 to cloud without a common span or duct were found in 3 s; there may be some."
    )
    found = Admissions(network(trench="ax dy")).reserve(1, "duct_disjoint")
    assert isinstance(found, Admitted), "the pairs among the shortest paths are tried all the same"
    assert placed_over(found.placements[0]) == ("x", "z")


def test_the_counter_offer_has_the_next_lower_protection() -> None:
    admissions = Admissions(network(trench="ax ay az"))
    request = Request("r-1", 1, (flow(1, "duct_disjoint", "dedicated"),))
    refused = decide_with_offer(admissions.network, admissions.calendar, admissions.live, request, 0.0)
    assert isinstance(refused, Rejected)
    assert isinstance(refused.error, Refused)
    refused.error.add_offer()
    offered = refused.error.facts["offer"]
    assert offered == (flow(1, "link_disjoint", "dedicated"),)


def test_without_duct_disjoint_paths_a_flow_gets_link_disjoint_ones_until_the_failure_is_repaired() -> None:
    admissions = Admissions(network(trench="ax ay"))
    decision = admissions.reserve(1, "duct_disjoint")
    assert isinstance(decision, Admitted)
    assert [placed_over(decision.placements[0])[0], placed_over(decision.placements[0])[1]] == ["x", "z"]
    admissions.fail("ax", "az")
    (unprotected,) = admissions.running()
    assert (unprotected.state, unprotected.reason) == (State.DEGRADED, "f1 runs unprotected.")
    admissions.fail("az")
    (degraded,) = admissions.running()
    assert degraded.reason == "f1 has a backup in the same duct as its path: trench."
    assert (degraded.state, sorted(placed_over(degraded.placements[0]))) == (State.DEGRADED, ["x", "y"])
    assert degraded.placements[0].flow == flow(1, "duct_disjoint", "shared"), "the requested protection is unchanged"
    admissions.fail()
    (repaired,) = admissions.running()
    assert (repaired.state, repaired.reason) == (State.ACTIVE, None)
    assert "z" in placed_over(repaired.placements[0])


def placed_over(placement: Placement) -> tuple[str, str]:
    """The middle switch of the path and of the backup path."""
    assert placement.backup_path is not None
    return placement.path[2], placement.backup_path[2]


def test_backups_for_failures_of_one_duct_are_not_shared() -> None:
    """f1 goes over x and f2 over z, both back up over y, which has capacity for one of them."""
    apart, together = Admissions(network()), Admissions(network(trench="dx dz"))
    for admissions in (apart, together):
        first = admissions.reserve(1, "link_disjoint")
        assert isinstance(first, Admitted)
        assert spans_of(first.placements[0].path) == ("a-x", "d-x")
    assert isinstance(apart.reserve(2, "link_disjoint"), Admitted)
    refused = together.reserve(2, "link_disjoint")
    assert isinstance(refused, Rejected)
    assert refused.error.code == "no_capacity"


@pytest.mark.parametrize("dedicated", [1, 2])
def test_a_dedicated_backup_is_not_shared(dedicated: int) -> None:
    """As above with no duct: whichever of the two is dedicated, the second does not fit."""
    admissions = Admissions(network())
    for number in (1, 2):
        decision = admissions.reserve(number, "link_disjoint", "dedicated" if number == dedicated else "shared")
    assert isinstance(decision, Rejected)
    assert decision.error.code == "no_capacity"


def test_a_protected_flow_survives_the_failure_of_its_duct() -> None:
    admissions = Admissions(network(trench="ax dx dy"))
    decision = admissions.reserve(1, "duct_disjoint")
    assert isinstance(decision, Admitted)
    cut = frozenset({"a->x", "x->a", "d->x", "x->d", "d->y", "y->d"})
    after = restore(admissions.network, admissions.calendar, admissions.live, 1.0, cut)
    (moved,) = after.changed
    assert (moved.state, moved.reason) == (State.ACTIVE, "f1 runs on its backup path.")
    assert moved.placements == tuple(replace(each) for each in decision.placements)
