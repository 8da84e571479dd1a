"""Reserved bandwidth from round to round, against a stub of the controller's REST API on a real socket."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from machine.polling import wait_until
from trainer.errors import ControllerUnreachableError, NetworkError, ReservationRefusedError
from trainer.planning.plan import EdgeForecast, Offer, Option, RoundPlan
from trainer.planning.planner import plan_round
from trainer.reservation.averaging_rates import averaging_time_s
from trainer.reservation.bandwidth import AssumedBandwidth, EdgeEndpoint, PlanForOffer
from trainer.reservation.controller_client import ControllerClient
from trainer.reservation.held_reservation import HeldReservation
from trainer.reservation.reserved_bandwidth import BOUND_SLACK, ReservedBandwidth

CAPACITY_BPS = 76e6


class Stub(ThreadingHTTPServer):
    """A controller with one shared link per direction; quotes do not include `hidden_bps` reserved by others."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hidden_bps = 0.0
        self.reservation: dict[str, Any] | None = None
        self.log: list[str] = []
        self.quote_requests: list[dict[str, Any]] = []
        self.on_other_path: frozenset[str] = frozenset()
        self.refuses_changes = False
        self.ledger_is_new = False
        self.busy_codes: list[str] = []
        self.protections: set[str] = set()
        self.slacks: set[float | None] = set()
        self.latency_limit_us: float | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def reserve(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        for direction in ("up", "down"):
            requested_bps = sum(flow["requirement"]["min_bandwidth_bps"] for flow in body["flows"]
                        if direction in flow["name"] and flow["name"] not in self.on_other_path)
            free_bps = CAPACITY_BPS - self.hidden_bps
            if requested_bps > free_bps:
                return 409, {
                    "type": "about:blank", "title": "No capacity", "status": 409, "code": "no_capacity",
                    "detail": f"a->b has {free_bps / 1e6:g} Mb/s free.", "flow": body["flows"][0]["name"],
                    "bottleneck": {"link": "a->b", "free_bps": free_bps, "asked_bps": requested_bps},
                }
        self.slacks = {flow["requirement"]["bound_slack"] for flow in body["flows"]}
        self.protections = {flow["requirement"]["protection"] for flow in body["flows"]}
        version = self.reservation["version"] + 1 if self.reservation else 1
        flows = [
            {"name": flow["name"], "path": [flow["source"], "s", flow["destination"]],
             "reserved_bps": flow["requirement"]["min_bandwidth_bps"], "burst_bytes": 1,
             "accumulated_latency_us": 9000.0, "latency_variation_us": 8000.0,
             "latency_limit_us": self.latency_limit_us}
            for flow in body["flows"]
        ]
        self.reservation = {"id": "r-1", "version": version, "state": "active", "flows": flows}
        return 201, self.reservation

    def quote(self, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """All flows share one link except those in `on_other_path`; `instead_of` makes the held rates count as free."""
        self.quote_requests.append(request)
        if self.ledger_is_new and request["instead_of"] and self.reservation is None:
            return 404, {"code": "not_found", "detail": f"There is no reservation {request['instead_of']}."}
        flows, free_bps = [], {}
        for transfer in request["transfers"]:
            name, source, destination = transfer["name"], transfer["source"], transfer["destination"]
            direction = name.split("-")[1]
            middle = f"{'v' if name in self.on_other_path else 's'}{direction}"
            total_bytes = sum(other["transfer_bytes"] for other in request["transfers"]
                              if (other["name"] in self.on_other_path) == (name in self.on_other_path))
            rate_bps = int(CAPACITY_BPS * transfer["transfer_bytes"] / total_bytes)
            flows.append({"name": name, "path": [source, middle, destination], "rate_bps": rate_bps})
            held = self.reservation["flows"] if self.reservation else []
            held_bps = sum(flow["reserved_bps"] for flow in held if direction in flow["name"])
            for link in (f"{source}->{middle}", f"{middle}->{destination}"):
                free_bps[link] = CAPACITY_BPS - (0 if request["instead_of"] else held_bps)
        links = [{"link": link, "free_bps": bps} for link, bps in free_bps.items()]
        return 200, {"transfer_ms": 12.5, "flows": flows, "links": links, "bottleneck": next(iter(free_bps))}


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
        if self.path.startswith("/v1/reservations/") and self.server.reservation:
            return self._answer(200, self.server.reservation)
        return self._answer(404, gone)

    def do_POST(self) -> None:
        if self.path == "/v1/quotes":
            return self._answer(*self.server.quote(json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        body = self._body()
        if self.server.busy_codes:
            code = self.server.busy_codes.pop(0)
            return self._answer(409 if code == "request_in_progress" else 503, {"code": code, "detail": "Busy."})
        return self._answer(*self.server.reserve(body))

    def do_PATCH(self) -> None:
        body = self._body()
        if self.server.reservation is None:
            return self._answer(404, {"code": "not_found", "detail": "There is no r-1."})
        if "flows" not in body:
            return self._answer(200, self.server.reservation)
        if self.server.refuses_changes:
            return self._answer(409, {"code": "out_of_reach", "detail": "edge1-up: light does not get over a->b."})
        return self._answer(*self.server.reserve(body))

    def do_DELETE(self) -> None:
        self.server.log.append("DELETE")
        self.server.reservation = None
        self._answer(200, {"id": "r-1", "state": "released"})

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing."""


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


def plan_for(offer: Offer, keep_cuts: bool = True) -> RoundPlan:  # noqa: ARG001
    return plan_round(FORECASTS, offer, 4)


@pytest.fixture
def messages() -> list[str]:
    return []


@pytest.fixture
def bandwidth(stub: Stub, messages: list[str]) -> Iterator[ReservedBandwidth]:
    controller = ControllerClient(stub.url, 2, messages.append, pause_s=0.01)
    endpoints = [EdgeEndpoint("edge1", 7801), EdgeEndpoint("edge2", 7802)]
    bandwidth = ReservedBandwidth(HeldReservation(controller, "cloud", 60, messages.append), endpoints, 7800, 0.75, 1e6)
    yield bandwidth
    bandwidth.release()
    controller.close()


def test_the_first_round_creates_and_later_rounds_modify(bandwidth: ReservedBandwidth, stub: Stub) -> None:
    first, second = bandwidth.acquire(plan_for), bandwidth.acquire(plan_for)
    bandwidth.release()
    assert stub.log == ["POST", "PATCH", "DELETE"]
    assert (first.reservation_version, second.reservation_version) == (1, 2)
    assert first.up["edge1"].network_latency_us == 9000.0


def test_the_held_bandwidth_counts_as_free(bandwidth: ReservedBandwidth, stub: Stub) -> None:
    assert bandwidth.acquire(plan_for).plan == bandwidth.acquire(plan_for).plan
    assert [request["instead_of"] for request in stub.quote_requests] == [None, None, "r-1", "r-1"]


def volumes(request: dict[str, Any]) -> dict[str, int]:
    return {transfer["name"]: transfer["transfer_bytes"] for transfer in request["transfers"]}


def test_the_volumes_of_the_plan_are_quoted(bandwidth: ReservedBandwidth, stub: Stub) -> None:
    def uneven(offer: Offer, keep_cuts: bool = True) -> RoundPlan:  # noqa: ARG001
        """The second edge sends three times as much."""
        more = EdgeForecast("edge2", (Option(1, "fp32", 0.1, 0.1, 0.0, 12e6, 4e6),), (0.0, 0.0))
        return plan_round([FORECASTS[0], more], offer, 4)

    first, second = bandwidth.acquire(uneven), bandwidth.acquire(uneven)
    assert [len(request["transfers"]) for request in stub.quote_requests] == [2] * 6
    assert volumes(stub.quote_requests[0]) == {"edge1-up": 1_000_000, "edge2-up": 1_000_000}
    for request in (stub.quote_requests[2], stub.quote_requests[4]):
        assert volumes(request) == {"edge1-up": 500_000, "edge2-up": 1_500_000}
    assert first.quote_stats
    assert second.quote_stats
    assert (first.quote_stats.quotes, second.quote_stats.quotes) == (4, 2)
    assert first.quote_stats.seconds > 0
    assert (first.quote_stats.up_s, first.quote_stats.up_bottleneck) == (0.0125, "edge1->sup")


def test_flows_quoted_on_another_path_are_planned_for_it(bandwidth: ReservedBandwidth, stub: Stub) -> None:
    together = bandwidth.acquire(plan_for).plan
    stub.on_other_path = frozenset({"edge2-up"})
    apart = bandwidth.acquire(plan_for).plan
    assert apart.transmission_delay_s == pytest.approx(together.transmission_delay_s / 2)
    assert apart.return_delay_s == together.return_delay_s


def test_a_refusal_lengthens_the_transmission_delay_and_is_reported(
    bandwidth: ReservedBandwidth, stub: Stub, messages: list[str]
) -> None:
    before = bandwidth.acquire(plan_for).plan.transmission_delay_s
    stub.hidden_bps = 50e6
    grant = bandwidth.acquire(plan_for)
    assert grant.plan.transmission_delay_s > before
    assert grant.adaptations
    assert list(grant.adaptations) == messages
    assert "a->b has 26 Mb/s free. The plan adapts" in messages[0]


def test_a_plan_made_ahead_is_reserved_without_another_quote(bandwidth: ReservedBandwidth, stub: Stub) -> None:
    first = bandwidth.acquire(plan_for)
    bandwidth.plan_ahead(plan_for)
    stub.log.clear()
    stub.quote_requests.clear()
    second = bandwidth.acquire(plan_for)
    assert (stub.log, stub.quote_requests) == (["PATCH"], [])
    assert second.plan == first.plan


def test_a_plan_made_ahead_for_other_edges_is_made_again(bandwidth: ReservedBandwidth, stub: Stub) -> None:
    bandwidth.acquire(plan_for)
    bandwidth.plan_ahead(plan_for)
    bandwidth.add_edge(EdgeEndpoint("edge2", 7805))
    stub.quote_requests.clear()
    bandwidth.acquire(plan_for)
    assert stub.quote_requests


def test_a_plan_made_ahead_of_what_is_no_longer_free_is_made_again(bandwidth: ReservedBandwidth, stub: Stub) -> None:
    bandwidth.acquire(plan_for)
    bandwidth.plan_ahead(plan_for)
    stub.hidden_bps = 50e6
    stub.log.clear()
    later = bandwidth.acquire(plan_for)
    assert stub.log == ["PATCH"] * 3  # as planned ahead, as quoted now, with a smaller share
    assert len(later.adaptations) == 1
    assert later.reserved


def test_a_protected_run_keeps_the_share_that_leaves_capacity_for_backup_paths(
    bandwidth: ReservedBandwidth, stub: Stub
) -> None:
    bandwidth.protection = "link_disjoint"
    stub.hidden_bps = 50e6
    first, second = bandwidth.acquire(plan_for), bandwidth.acquire(plan_for)
    assert (len(first.adaptations), len(second.adaptations)) == (1, 0)
    assert stub.protections == {"link_disjoint"}
    assert second.plan == first.plan


def test_a_full_network_ends_with_the_refusal_of_the_controller(bandwidth: ReservedBandwidth, stub: Stub) -> None:
    stub.hidden_bps = CAPACITY_BPS
    with pytest.raises(ReservationRefusedError, match=r"a->b has 0 Mb/s free"):
        bandwidth.acquire(plan_for)


@pytest.mark.parametrize("ledger_is_new", [False, True])
def test_a_reservation_with_an_expired_lease_is_created_again(
    bandwidth: ReservedBandwidth, stub: Stub, messages: list[str], ledger_is_new: bool
) -> None:
    """The controller either knows the expired reservation or has a new ledger without it."""
    bandwidth.acquire(plan_for)
    stub.reservation, stub.ledger_is_new = None, ledger_is_new
    assert bandwidth.acquire(plan_for).reserved
    assert stub.log == (["POST", "POST"] if ledger_is_new else ["POST", "PATCH", "POST"])
    assert "Creating a new reservation" in messages[0]


def test_a_request_is_retried_while_the_controller_is_busy(
    bandwidth: ReservedBandwidth, stub: Stub, messages: list[str]
) -> None:
    stub.busy_codes = ["request_in_progress", "overloaded"]
    assert bandwidth.acquire(plan_for).reserved
    assert [sentence.partition("; ")[2] for sentence in messages] == [
        "attempt 2 of 3 in 0.01 s.",
        "attempt 3 of 3 in 0.02 s.",
    ]
    assert stub.log == ["POST"] * 3


def test_an_unreachable_controller_is_retried_and_then_named(messages: list[str]) -> None:
    controller = ControllerClient("http://127.0.0.1:9", 2, messages.append, pause_s=0.01)
    bandwidth = ReservedBandwidth(
        HeldReservation(controller, "cloud", 60, messages.append), [EdgeEndpoint("edge1", 7801)], 7800, 0.75, 1e6
    )
    with pytest.raises(ControllerUnreachableError, match=r"after 3 attempts.*--best-effort"):
        bandwidth.acquire(plan_for)
    assert len(messages) == 2
    controller.close()


NOWHERE = "http://127.0.0.1:9"


@contextlib.contextmanager
def unreachable(bandwidth: ReservedBandwidth, messages: list[str]) -> Iterator[None]:
    """The controller does not answer within the block."""
    reachable, bandwidth.held.controller = bandwidth.held.controller, ControllerClient(NOWHERE, 0, messages.append)
    try:
        yield
    finally:
        bandwidth.held.controller.close()
        bandwidth.held.controller = reachable


def test_while_the_controller_is_unreachable_the_last_grant_continues_until_its_lease_expires(
    bandwidth: ReservedBandwidth, messages: list[str]
) -> None:
    now_s = [0.0]
    bandwidth.held.clock = lambda: now_s[0]
    first = bandwidth.acquire(plan_for)
    with unreachable(bandwidth, messages):
        now_s[0] = 59.0
        second = bandwidth.acquire(plan_for)
        assert second.plan == first.plan
        assert second.reserved
        assert second.quote_stats is None
        assert "continue while the lease lasts" in messages[-1]
        now_s[0] = 61.0
        third = bandwidth.acquire(plan_for)
        assert third.broken
        assert not third.reserved
        assert third.up["edge1"].network_latency_us is None
        assert "its guarantees are broken" in messages[-1]
        assert (bandwidth.unreachable_rounds, bandwidth.broken_rounds) == (2, 1)
    recovered = bandwidth.acquire(plan_for)
    assert recovered.reserved
    assert not recovered.broken
    assert messages[-1] == "The controller answers again; the flows are reserved again."


def test_while_changes_are_refused_the_reservation_continues(
    bandwidth: ReservedBandwidth, stub: Stub, messages: list[str]
) -> None:
    first = bandwidth.acquire(plan_for)
    stub.refuses_changes = True
    for _ in range(2):
        grant = bandwidth.acquire(plan_for)
        assert grant.plan == first.plan
        assert grant.reservation_id == first.reservation_id
        assert not grant.broken
        assert "light does not get over a->b. The last round's plan" in messages[-1]
    assert (bandwidth.unreachable_rounds, bandwidth.broken_rounds) == (0, 0)
    assert bandwidth.acquire_for_averaging(UNEVEN) is None
    stub.refuses_changes = False
    assert not bandwidth.acquire(plan_for).adaptations
    assert stub.log == ["POST", "PATCH", "PATCH", "PATCH", "PATCH"]


def test_a_lost_reservation_does_not_end_the_run(bandwidth: ReservedBandwidth, stub: Stub, messages: list[str]) -> None:
    bandwidth.acquire(plan_for)
    stub.reservation, stub.hidden_bps = None, CAPACITY_BPS  # lost, and all capacity is reserved by others
    grant = bandwidth.acquire(plan_for)
    assert grant.broken
    assert "a->b has 0 Mb/s free" in messages[-1]
    assert bandwidth.unreachable_rounds == 0
    stub.hidden_bps = 0.0
    assert bandwidth.acquire(plan_for).reserved


def test_a_lost_edge_releases_its_bandwidth_and_gets_bandwidth_after_rejoining(
    bandwidth: ReservedBandwidth, stub: Stub
) -> None:
    def plan_present(offer: Offer, keep_cuts: bool = True) -> RoundPlan:  # noqa: ARG001
        return plan_round([forecast for forecast in FORECASTS if forecast.edge in offer.up_links], offer, 4)

    bandwidth.acquire(plan_present)
    bandwidth.remove_edge("edge2")
    assert stub.reservation
    assert {flow["name"] for flow in stub.reservation["flows"]} == {"edge1-up", "edge1-down"}
    assert bandwidth.acquire(plan_present).up.keys() == {"edge1"}
    bandwidth.add_edge(EdgeEndpoint("edge2", 7802))
    assert bandwidth.acquire(plan_present).up.keys() == {"edge1", "edge2"}


def test_without_edges_nothing_stays_reserved(bandwidth: ReservedBandwidth, stub: Stub) -> None:
    bandwidth.acquire(plan_for)
    for name in ("edge1", "edge2"):
        bandwidth.remove_edge(name)
    assert stub.reservation is None
    assert stub.log[-1] == "DELETE"


def test_an_edge_lost_while_the_controller_is_unreachable_does_not_end_the_run(
    bandwidth: ReservedBandwidth, messages: list[str]
) -> None:
    bandwidth.acquire(plan_for)
    with unreachable(bandwidth, messages):
        bandwidth.remove_edge("edge2")
        assert "bandwidth of edge2 could not be released" in messages[-1]
        assert [edge.edge for edge in bandwidth.acquire(plan_for).plan.edges] == ["edge1"]
        bandwidth.release()
        assert "r-1 could not be released" in messages[-1]


def test_a_restarted_cloud_takes_over_its_reservation(
    bandwidth: ReservedBandwidth, stub: Stub, messages: list[str]
) -> None:
    reservation_id = bandwidth.acquire(plan_for).reservation_id
    assert reservation_id is not None
    controller = bandwidth.held.controller
    restarted = ReservedBandwidth(
        HeldReservation(controller, "cloud", 60, messages.append), bandwidth.endpoints, 7800, 0.75, 1e6
    )
    restarted.held.adopt(reservation_id)
    assert restarted.acquire(plan_for).reservation_id == reservation_id
    assert stub.log == ["POST", "PATCH"]
    stub.reservation = None
    other = ReservedBandwidth(
        HeldReservation(controller, "cloud", 60, messages.append), bandwidth.endpoints, 7800, 0.75, 1e6
    )
    other.held.adopt(reservation_id)
    assert "cannot be taken over" in messages[-1]
    assert other.acquire(plan_for).reserved
    for resumed in (restarted, other):
        resumed.release()


def test_the_lease_is_renewed_during_a_long_round(bandwidth: ReservedBandwidth, stub: Stub) -> None:
    bandwidth.held.lease_s = 0.15
    bandwidth.acquire(plan_for)
    wait_until(lambda: stub.log.count("PATCH") >= 2)
    bandwidth.release()
    assert stub.log[-1] == "DELETE"


UNEVEN = {"edge1": (3_000_000, 700_000), "edge2": (30_000, 700_000)}
"""Bytes of an averaging in which edge1 has many more layers."""


def test_promised_bounds_with_their_slack_are_asked_for_and_guaranteed(
    bandwidth: ReservedBandwidth, stub: Stub
) -> None:
    stub.latency_limit_us = 9000.0 * (1 + BOUND_SLACK)
    grant = bandwidth.acquire(plan_for)
    assert stub.slacks == {BOUND_SLACK}
    assert grant.down["edge2"].network_latency_us == 9000.0 * (1 + BOUND_SLACK)


def test_a_bound_that_has_grown_beyond_its_slack_counts_from_the_next_step(
    bandwidth: ReservedBandwidth, stub: Stub, messages: list[str]
) -> None:
    stub.latency_limit_us = 22_500.0
    grant = bandwidth.acquire(plan_for)
    assert bandwidth.with_present_bounds(grant) is grant
    assert stub.reservation is not None
    flow = next(flow for flow in stub.reservation["flows"] if flow["name"] == "edge1-up")
    flow |= {"accumulated_latency_us": 40_000.0, "latency_limit_us": 100_000.0}
    stub.reservation["version"] += 1
    bandwidth.held._renew()
    after = bandwidth.with_present_bounds(grant)
    assert (after.up["edge1"].network_latency_us, after.down["edge1"].network_latency_us) == (100_000.0, 22_500.0)
    assert (after.reservation_version, after.plan) == (2, grant.plan)
    assert bandwidth.with_present_bounds(after) is after
    assert messages == ["Bounds of reservation r-1 have grown beyond their slack; from now on the new ones count."]


def test_averaging_rates_are_proportional_to_bytes(
    bandwidth: ReservedBandwidth, stub: Stub, messages: list[str]
) -> None:
    grant = bandwidth.acquire(plan_for)
    round_rates = {edge: (grant.up[edge].rate_bps, grant.down[edge].rate_bps) for edge in UNEVEN}
    rates = bandwidth.acquire_for_averaging(UNEVEN)
    assert rates is not None
    assert stub.reservation is not None
    held = {flow["name"]: flow["reserved_bps"] for flow in stub.reservation["flows"]}
    assert rates == {edge: (held[f"{edge}-up"], held[f"{edge}-down"]) for edge in UNEVEN}
    assert rates["edge2"][0] == pytest.approx(1e6, rel=1e-3)  # the floor
    assert sum(up_bps for up_bps, _ in rates.values()) == pytest.approx(0.75 * CAPACITY_BPS, rel=1e-3)
    assert rates["edge1"][1] == rates["edge2"][1]
    assert averaging_time_s(UNEVEN, rates) < 0.7 * averaging_time_s(UNEVEN, round_rates)
    following = bandwidth.acquire(plan_for)
    assert {edge: (following.up[edge].rate_bps, following.down[edge].rate_bps) for edge in UNEVEN} == round_rates
    assert not messages


def test_a_small_averaging_keeps_the_rates_of_the_round(bandwidth: ReservedBandwidth, stub: Stub) -> None:
    assert bandwidth.acquire_for_averaging(UNEVEN) is None
    bandwidth.acquire(plan_for)
    assert (
        bandwidth.acquire_for_averaging({edge: (up // 100, down // 100) for edge, (up, down) in UNEVEN.items()}) is None
    )
    assert stub.log == ["POST"]


def test_an_averaging_keeps_the_rates_of_the_round_if_a_change_is_refused(
    bandwidth: ReservedBandwidth, stub: Stub, messages: list[str]
) -> None:
    before = bandwidth.acquire(plan_for)
    stub.hidden_bps = CAPACITY_BPS / 2
    assert bandwidth.acquire_for_averaging(UNEVEN) is None
    assert messages[-1].endswith("The averaging continues at the rates of the round.")
    with unreachable(bandwidth, messages):
        assert bandwidth.acquire_for_averaging(UNEVEN) is None
        assert bandwidth.acquire(plan_for).plan == before.plan


def test_if_the_controller_is_lost_after_an_averaging_its_rates_are_planned_for(
    bandwidth: ReservedBandwidth, stub: Stub, messages: list[str]
) -> None:
    bandwidth.acquire(plan_for)
    rates = bandwidth.acquire_for_averaging(UNEVEN)
    assert rates is not None
    with unreachable(bandwidth, messages):
        grants = [bandwidth.acquire(plan_for), bandwidth.acquire(plan_for)]
    for grant in grants:
        assert grant.reserved
        assert {edge: (grant.up[edge].rate_bps, grant.down[edge].rate_bps) for edge in rates} == rates
        for edge in grant.plan.edges:
            assert (edge.up_bps, edge.down_bps) <= rates[edge.edge]
    assert (bandwidth.unreachable_rounds, bandwidth.broken_rounds) == (2, 0)
    assert stub.log == ["POST", "PATCH"]


def test_a_response_outside_the_rest_api_is_a_network_error(stub: Stub, messages: list[str]) -> None:
    controller = ControllerClient(stub.url, 0, messages.append)
    stub.reservation = {"id": "r-1", "version": "x", "flows": []}
    with pytest.raises(NetworkError):
        controller.modify("r-1", 60, [])
    controller.close()


def with_bits(up_bits: dict[str, float], down_bits: dict[str, float]) -> PlanForOffer:
    """Plan for edges that send and receive so many bits of a micro-batch."""
    forecasts = [EdgeForecast(name, (Option(1, "fp32", 0.1, 0.1, 0.0, up_bits[name], down_bits[name]),), (0.0, 0.0))
                 for name in up_bits]

    def plan(offer: Offer, keep_cuts: bool = True) -> RoundPlan:  # noqa: ARG001
        return plan_round(forecasts, offer, 4)

    return plan


def flow_names(stub: Stub) -> list[str]:
    return [] if stub.reservation is None else [flow["name"] for flow in stub.reservation["flows"]]


def test_an_edge_to_which_nothing_comes_back_has_no_downlink_flow(bandwidth: ReservedBandwidth, stub: Stub) -> None:
    frozen_front = with_bits({"edge1": 4e6, "edge2": 4e6}, {"edge1": 0.0, "edge2": 4e6})
    grant = bandwidth.acquire(frozen_front)
    assert flow_names(stub) == ["edge1-up", "edge2-up", "edge2-down"]
    assert (grant.down["edge1"].rate_bps, grant.down["edge1"].network_latency_us) == (0, None)
    assert grant.down["edge2"].rate_bps == grant.plan.edges[1].down_bps > 0
    assert bandwidth.with_present_bounds(grant) is grant
    assert bandwidth.acquire_for_averaging(UNEVEN) is not None
    assert flow_names(stub) == ["edge1-up", "edge1-down", "edge2-up", "edge2-down"]


def test_while_nothing_is_sent_nothing_is_reserved_but_for_averagings(
    bandwidth: ReservedBandwidth, stub: Stub, messages: list[str]
) -> None:
    edges = {"edge1": 0.0, "edge2": 0.0}
    bandwidth.acquire(plan_for)
    assert not bandwidth.acquire(with_bits(edges, edges)).reserved
    assert stub.reservation is None
    rates = bandwidth.acquire_for_averaging(UNEVEN)
    assert rates is not None
    assert flow_names(stub) == ["edge1-up", "edge1-down", "edge2-up", "edge2-down"]
    assert not bandwidth.acquire(with_bits(edges, edges)).reserved
    assert stub.reservation is None
    assert bandwidth.acquire(plan_for).reserved
    assert not messages


def test_assumed_rates_guarantee_nothing() -> None:
    grant = AssumedBandwidth([EdgeEndpoint("edge1", 1), EdgeEndpoint("edge2", 2)], 60e6, 1e6).acquire(plan_for)
    assert not grant.reserved
    assert grant.rates_are_assumed
    assert grant.up["edge1"].network_latency_us is None
