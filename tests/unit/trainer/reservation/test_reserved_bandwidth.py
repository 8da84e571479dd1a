"""Reservations from round to round, against a controller that speaks the contract on a real socket."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from tests.waiting import wait_until
from trainer.errors import ControllerUnreachableError, NetworkError, ReservationRefusedError
from trainer.planning.plan import EdgeForecast, Offer, Option, RoundPlan
from trainer.planning.planner import plan_round
from trainer.reservation.averaging_rates import haul_s
from trainer.reservation.bandwidth import BestEffortBandwidth, EdgeEndpoint
from trainer.reservation.controller_client import Controller
from trainer.reservation.held_reservation import HeldReservation
from trainer.reservation.reserved_bandwidth import ReservedBandwidth

CAPACITY_BPS = 76e6


class Stub(ThreadingHTTPServer):
    """One link everybody shares; `hidden_bps` are taken without the offer telling."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hidden_bps = 0.0
        self.live: dict[str, Any] | None = None
        self.log: list[str] = []
        self.asked: list[dict[str, Any]] = []
        self.other_way: frozenset[str] = frozenset()
        self.out_of_reach = False
        self.forgetful = False
        self.busy: list[str] = []
        self.protections: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def reserve(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        for direction in ("up", "down"):
            asked = sum(flow["requirement"]["min_bandwidth_bps"] for flow in body["flows"]
                        if direction in flow["name"] and flow["name"] not in self.other_way)
            free = CAPACITY_BPS - self.hidden_bps
            if asked > free:
                return 409, {
                    "type": "about:blank", "title": "No capacity", "status": 409, "code": "no_capacity",
                    "detail": f"a->b has {free / 1e6:g} Mb/s free.", "flow": body["flows"][0]["name"],
                    "bottleneck": {"link": "a->b", "free_bps": free, "asked_bps": asked},
                }
        self.protections = {flow["requirement"]["protection"] for flow in body["flows"]}
        version = self.live["version"] + 1 if self.live else 1
        flows = [
            {"name": flow["name"], "path": [flow["source"], "s", flow["destination"]],
             "reserved_bps": flow["requirement"]["min_bandwidth_bps"], "burst_bytes": 1,
             "accumulated_latency_us": 9000.0, "latency_variation_us": 8000.0}
            for flow in body["flows"]
        ]
        self.live = {"id": "r-1", "version": version, "state": "active", "flows": flows}
        return 201, self.live

    def quote(self, question: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """All flows share `s->t`, but those in `other_way`; what we hold counts as free only if we say so."""
        self.asked.append(question)
        if self.forgetful and question["instead_of"] and self.live is None:
            return 404, {"code": "not_found", "detail": f"There is no reservation {question['instead_of']}."}
        flows, free = [], {}
        for each in question["transfers"]:
            way = each["name"].split("-")[1]
            middle = f"{'v' if each['name'] in self.other_way else 's'}{way}"
            together = sum(one["transfer_bytes"] for one in question["transfers"]
                           if (one["name"] in self.other_way) == (each["name"] in self.other_way))
            rate_bps = int(CAPACITY_BPS * each["transfer_bytes"] / together)
            flows.append({"name": each["name"], "path": [each["source"], middle, each["destination"]],
                          "rate_bps": rate_bps})
            held = sum(f["reserved_bps"] for f in self.live["flows"] if way in f["name"]) if self.live else 0
            for link in (f"{each['source']}->{middle}", f"{middle}->{each['destination']}"):
                free[link] = CAPACITY_BPS - (0 if question["instead_of"] else held)
        links = [{"link": link, "free_bps": bps} for link, bps in free.items()]
        return 200, {"transfer_ms": 12.5, "flows": flows, "links": links, "bottleneck": next(iter(free))}


class _Handler(BaseHTTPRequestHandler):
    server: Stub

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if status == 503:
            self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(data)

    def _body(self) -> dict[str, Any]:
        self.server.log.append(self.command)
        content: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        return content

    def do_GET(self) -> None:
        gone = {"code": "not_found", "detail": "There is no reservation r-1."}
        if self.path.startswith("/v1/reservations/") and self.server.live:
            return self._answer(200, self.server.live)
        return self._answer(404, gone)

    def do_POST(self) -> None:
        if self.path == "/v1/quotes":
            return self._answer(*self.server.quote(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        body = self._body()
        if self.server.busy:
            code = self.server.busy.pop(0)
            return self._answer(409 if code == "request_in_progress" else 503, {"code": code, "detail": "Busy."})
        return self._answer(*self.server.reserve(body))

    def do_PATCH(self) -> None:
        body = self._body()
        if self.server.live is None:
            return self._answer(404, {"code": "not_found", "detail": "There is no r-1."})
        if "flows" not in body:
            return self._answer(200, self.server.live)
        if self.server.out_of_reach:
            return self._answer(409, {"code": "out_of_reach", "detail": "edge1-up: light does not get over a->b."})
        return self._answer(*self.server.reserve(body))

    def do_DELETE(self) -> None:
        self.server.log.append("DELETE")
        self.server.live = None
        self._answer(200, {"id": "r-1", "state": "released"})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


FORECASTS = [
    EdgeForecast(name, (Option(1, "fp32", 0.1, 0.1, 0.0, 4e6, 4e6),), (0.0, 0.0)) for name in ("edge1", "edge2")
]


def draft(offer: Offer, keep: bool = True) -> RoundPlan:  # noqa: ARG001
    return plan_round(FORECASTS, offer, 4)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def road(stub: Stub, said: list[str]) -> Iterator[ReservedBandwidth]:
    controller = Controller(stub.url, 2, said.append, pause_s=0.01)
    travellers = [EdgeEndpoint("edge1", 7801), EdgeEndpoint("edge2", 7802)]
    road = ReservedBandwidth(HeldReservation(controller, "cloud", 60, said.append), travellers, 7800, 0.75, 1e6)
    yield road
    road.release()
    controller.close()


def test_the_first_round_posts_and_later_ones_patch(road: ReservedBandwidth, stub: Stub) -> None:
    first, second = road.acquire(draft), road.acquire(draft)
    road.release()
    assert stub.log == ["POST", "PATCH", "DELETE"]
    assert (first.reservation_version, second.reservation_version) == (1, 2)
    assert first.up["edge1"].network_latency_us == 9000.0


def test_what_we_hold_counts_as_free(road: ReservedBandwidth, stub: Stub) -> None:
    assert road.acquire(draft).plan == road.acquire(draft).plan
    assert [question["instead_of"] for question in stub.asked] == [None, None, "r-1", "r-1"]


def volumes(question: dict[str, Any]) -> dict[str, int]:
    return {each["name"]: each["transfer_bytes"] for each in question["transfers"]}


def test_the_controller_is_asked_for_the_volumes_that_the_plan_sends(road: ReservedBandwidth, stub: Stub) -> None:
    def uneven(offer: Offer, keep: bool = True) -> RoundPlan:  # noqa: ARG001
        """The second edge sends three times as much."""
        more = EdgeForecast("edge2", (Option(1, "fp32", 0.1, 0.1, 0.0, 12e6, 4e6),), (0.0, 0.0))
        return plan_round([FORECASTS[0], more], offer, 4)

    first, second = road.acquire(uneven), road.acquire(uneven)
    assert [len(question["transfers"]) for question in stub.asked] == [2] * 6
    assert volumes(stub.asked[0]) == {"edge1-up": 1_000_000, "edge2-up": 1_000_000}
    for question in (stub.asked[2], stub.asked[4]):
        assert volumes(question) == {"edge1-up": 500_000, "edge2-up": 1_500_000}
    assert first.enquiry
    assert second.enquiry
    assert (first.enquiry.quotes, second.enquiry.quotes) == (4, 2)
    assert first.enquiry.seconds > 0
    assert (first.enquiry.up_s, first.enquiry.up_bottleneck) == (0.0125, "edge1->sup")


def test_flows_that_would_go_another_way_are_planned_for_that_way(road: ReservedBandwidth, stub: Stub) -> None:
    together = road.acquire(draft).plan
    stub.other_way = frozenset({"edge2-up"})
    apart = road.acquire(draft).plan
    assert apart.transmission_delay_s == pytest.approx(together.transmission_delay_s / 2)
    assert apart.return_delay_s == together.return_delay_s


def test_a_refusal_makes_the_transmission_delay_longer_and_is_told(
    road: ReservedBandwidth, stub: Stub, said: list[str]
) -> None:
    before = road.acquire(draft).plan.transmission_delay_s
    stub.hidden_bps = 50e6
    grant = road.acquire(draft)
    assert grant.plan.transmission_delay_s > before
    assert grant.adaptations
    assert list(grant.adaptations) == said
    assert "a->b has 26 Mb/s free. The plan adapts" in said[0]


def test_a_protected_run_learns_what_its_spare_paths_take(road: ReservedBandwidth, stub: Stub) -> None:
    road.protection = "link_disjoint"
    stub.hidden_bps = 50e6
    first, second = road.acquire(draft), road.acquire(draft)
    assert (len(first.adaptations), len(second.adaptations)) == (1, 0)
    assert stub.protections == {"link_disjoint"}
    assert second.plan == first.plan


def test_a_network_without_room_ends_in_the_controllers_own_words(road: ReservedBandwidth, stub: Stub) -> None:
    stub.hidden_bps = CAPACITY_BPS
    with pytest.raises(ReservationRefusedError, match=r"a->b has 0 Mb/s free"):
        road.acquire(draft)


@pytest.mark.parametrize("forgetful", [False, True])
def test_a_reservation_whose_lease_has_ended_is_made_anew(
    road: ReservedBandwidth, stub: Stub, said: list[str], forgetful: bool
) -> None:
    """The controller knows what has ended, or has a new ledger and does not."""
    road.acquire(draft)
    stub.live, stub.forgetful = None, forgetful
    assert road.acquire(draft).reserved
    assert stub.log == (["POST", "POST"] if forgetful else ["POST", "PATCH", "POST"])
    assert "A new one is made" in said[0]


def test_a_controller_that_is_still_busy_with_the_request_is_asked_again(
    road: ReservedBandwidth, stub: Stub, said: list[str]
) -> None:
    stub.busy = ["request_in_progress", "overloaded"]
    assert road.acquire(draft).reserved
    assert [sentence.partition("; ")[2] for sentence in said] == ["try 2 of 3 in 0.01 s.", "try 3 of 3 in 0.02 s."]
    assert stub.log == ["POST"] * 3


def test_a_controller_that_is_not_there_is_tried_again_and_then_named(said: list[str]) -> None:
    controller = Controller("http://127.0.0.1:9", 2, said.append, pause_s=0.01)
    road = ReservedBandwidth(
        HeldReservation(controller, "cloud", 60, said.append), [EdgeEndpoint("edge1", 7801)], 7800, 0.75, 1e6
    )
    with pytest.raises(ControllerUnreachableError, match=r"tried 3 times.*--best-effort"):
        road.acquire(draft)
    assert len(said) == 2
    controller.close()


NOWHERE = "http://127.0.0.1:9"


@contextlib.contextmanager
def away(road: ReservedBandwidth, said: list[str]) -> Iterator[None]:
    """The controller does not answer as long as the block lasts."""
    there, road.holding.controller = road.holding.controller, Controller(NOWHERE, 0, said.append)
    try:
        yield
    finally:
        road.holding.controller.close()
        road.holding.controller = there


def test_while_the_controller_is_away_the_last_grant_goes_on_as_long_as_its_lease(
    road: ReservedBandwidth, said: list[str]
) -> None:
    now_s = [0.0]
    road.holding.clock = lambda: now_s[0]
    first = road.acquire(draft)
    with away(road, said):
        now_s[0] = 59.0
        second = road.acquire(draft)
        assert second.plan == first.plan
        assert second.reserved
        assert second.enquiry is None
        assert "go on while the lease lasts" in said[-1]
        now_s[0] = 61.0
        third = road.acquire(draft)
        assert third.broken
        assert not third.reserved
        assert third.up["edge1"].network_latency_us is None
        assert "its promises are broken" in said[-1]
        assert (road.unreachable_rounds, road.broken_rounds) == (2, 1)
    back = road.acquire(draft)
    assert back.reserved
    assert not back.broken
    assert said[-1] == "The controller answers, and the flows are reserved again."


def test_while_no_change_can_be_had_what_is_reserved_goes_on(
    road: ReservedBandwidth, stub: Stub, said: list[str]
) -> None:
    first = road.acquire(draft)
    stub.out_of_reach = True
    for _ in range(2):
        grant = road.acquire(draft)
        assert grant.plan == first.plan
        assert grant.reservation_id == first.reservation_id
        assert not grant.broken
        assert "light does not get over a->b. The last round's plan" in said[-1]
    assert (road.unreachable_rounds, road.broken_rounds) == (0, 0)
    assert road.acquire_for_averaging(UNEVEN) is None
    stub.out_of_reach = False
    assert not road.acquire(draft).adaptations
    assert stub.log == ["POST", "PATCH", "PATCH", "PATCH", "PATCH"]


def test_a_reservation_lost_for_good_is_no_reason_to_stop(road: ReservedBandwidth, stub: Stub, said: list[str]) -> None:
    road.acquire(draft)
    stub.live, stub.hidden_bps = None, CAPACITY_BPS  # gone, and somebody else has taken everything
    grant = road.acquire(draft)
    assert grant.broken
    assert "a->b has 0 Mb/s free" in said[-1]
    assert road.unreachable_rounds == 0
    stub.hidden_bps = 0.0
    assert road.acquire(draft).reserved


def test_who_leaves_gives_its_bandwidth_back_at_once_and_gets_some_when_it_is_back(
    road: ReservedBandwidth, stub: Stub
) -> None:
    def draft_for(offer: Offer, keep: bool = True) -> RoundPlan:  # noqa: ARG001
        return plan_round([one for one in FORECASTS if one.edge in offer.up_links], offer, 4)

    road.acquire(draft_for)
    road.remove_edge("edge2")
    assert stub.live
    assert {flow["name"] for flow in stub.live["flows"]} == {"edge1-up", "edge1-down"}
    assert road.acquire(draft_for).up.keys() == {"edge1"}
    road.add_edge("edge2", 7802)
    assert road.acquire(draft_for).up.keys() == {"edge1", "edge2"}


def test_when_the_last_leaves_nothing_stays_reserved(road: ReservedBandwidth, stub: Stub) -> None:
    road.acquire(draft)
    for name in ("edge1", "edge2"):
        road.remove_edge(name)
    assert stub.live is None
    assert stub.log[-1] == "DELETE"


def test_an_edge_lost_while_the_controller_is_away_does_not_end_the_run(
    road: ReservedBandwidth, said: list[str]
) -> None:
    road.acquire(draft)
    with away(road, said):
        road.remove_edge("edge2")
        assert "bandwidth of edge2 could not be given back" in said[-1]
        assert [edge.edge for edge in road.acquire(draft).plan.edges] == ["edge1"]
        road.release()
        assert "could not be released" in said[-1]


def test_a_cloud_that_was_killed_goes_on_with_what_it_had_reserved(
    road: ReservedBandwidth, stub: Stub, said: list[str]
) -> None:
    reserved = road.acquire(draft).reservation_id
    assert reserved is not None
    controller = road.holding.controller
    again = ReservedBandwidth(HeldReservation(controller, "cloud", 60, said.append), road.travellers, 7800, 0.75, 1e6)
    again.holding.adopt(reserved)
    assert again.acquire(draft).reservation_id == reserved
    assert stub.log == ["POST", "PATCH"]
    stub.live = None
    other = ReservedBandwidth(HeldReservation(controller, "cloud", 60, said.append), road.travellers, 7800, 0.75, 1e6)
    other.holding.adopt(reserved)
    assert "cannot be gone on with" in said[-1]
    assert other.acquire(draft).reserved
    for one in (again, other):
        one.release()


def test_the_lease_is_renewed_in_a_round_that_takes_longer(road: ReservedBandwidth, stub: Stub) -> None:
    road.holding.lease_s = 0.15
    road.acquire(draft)
    wait_until(lambda: stub.log.count("PATCH") >= 2)
    road.release()
    assert stub.log[-1] == "DELETE"


UNEVEN = {"edge1": (3_000_000, 700_000), "edge2": (30_000, 700_000)}
"""Bytes of an averaging: edge1 has far more layers."""


def test_an_averaging_has_rates_in_proportion_to_its_bytes(
    road: ReservedBandwidth, stub: Stub, said: list[str]
) -> None:
    grant = road.acquire(draft)
    now = {edge: (grant.up[edge].rate_bps, grant.down[edge].rate_bps) for edge in UNEVEN}
    rates = road.acquire_for_averaging(UNEVEN)
    assert rates is not None
    assert stub.live is not None
    held = {flow["name"]: flow["reserved_bps"] for flow in stub.live["flows"]}
    assert rates == {edge: (held[f"{edge}-up"], held[f"{edge}-down"]) for edge in UNEVEN}
    assert rates["edge2"][0] == pytest.approx(1e6, rel=1e-3)  # the floor
    assert sum(up_bps for up_bps, _ in rates.values()) == pytest.approx(0.75 * CAPACITY_BPS, rel=1e-3)
    assert rates["edge1"][1] == rates["edge2"][1]
    assert haul_s(UNEVEN, rates) < 0.7 * haul_s(UNEVEN, now)
    back = road.acquire(draft)
    assert {edge: (back.up[edge].rate_bps, back.down[edge].rate_bps) for edge in UNEVEN} == now
    assert not said


def test_an_averaging_of_little_stays_at_the_rates_of_the_round(road: ReservedBandwidth, stub: Stub) -> None:
    assert road.acquire_for_averaging(UNEVEN) is None
    road.acquire(draft)
    assert road.acquire_for_averaging({edge: (up // 100, down // 100) for edge, (up, down) in UNEVEN.items()}) is None
    assert stub.log == ["POST"]


def test_an_averaging_for_which_no_other_rates_are_to_be_had_goes_on_at_those_of_the_round(
    road: ReservedBandwidth, stub: Stub, said: list[str]
) -> None:
    before = road.acquire(draft)
    stub.hidden_bps = CAPACITY_BPS / 2
    assert road.acquire_for_averaging(UNEVEN) is None
    assert said[-1].endswith("The averaging goes on at the rates of the round.")
    with away(road, said):
        assert road.acquire_for_averaging(UNEVEN) is None
        assert road.acquire(draft).plan == before.plan


def test_without_the_controller_after_an_averaging_its_rates_are_planned_for(
    road: ReservedBandwidth, stub: Stub, said: list[str]
) -> None:
    road.acquire(draft)
    rates = road.acquire_for_averaging(UNEVEN)
    assert rates is not None
    with away(road, said):
        grants = [road.acquire(draft), road.acquire(draft)]
    for grant in grants:
        assert grant.reserved
        assert {edge: (grant.up[edge].rate_bps, grant.down[edge].rate_bps) for edge in rates} == rates
        for edge in grant.plan.edges:
            assert (edge.up_bps, edge.down_bps) <= rates[edge.edge]
    assert (road.unreachable_rounds, road.broken_rounds) == (2, 0)
    assert stub.log == ["POST", "PATCH"]


def test_an_answer_outside_the_contract_is_named(stub: Stub, said: list[str]) -> None:
    controller = Controller(stub.url, 0, said.append)
    stub.live = {"id": "r-1", "version": "x", "flows": []}
    with pytest.raises(NetworkError):
        controller.modify("r-1", 60, [])
    controller.close()


def test_the_open_road_promises_nothing() -> None:
    grant = BestEffortBandwidth([EdgeEndpoint("edge1", 1), EdgeEndpoint("edge2", 2)], 60e6, 1e6).acquire(draft)
    assert not grant.reserved
    assert grant.up["edge1"].network_latency_us is None
