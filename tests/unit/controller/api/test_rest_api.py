"""The REST API on the real service with fake switches that confirm at once."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from controller import errors
from controller.api.middleware.body_limit import MAX_BYTES, BodyLimit
from controller.api.schemas.problem_details import EXAMPLES
from controller.api.schemas.vocabulary import DESCRIPTIONS
from controller.domain.events import SpanChanged
from controller.service.reservation_service import Service
from controller.storage.ledger import Ledger
from tests.unit.controller.simulated_switches import running_service

pytestmark = pytest.mark.usefixtures("nothing_reserved")


def flow(name: str = "edge1-up", **changes: Any) -> dict[str, Any]:
    whole = {
        "name": name,
        "source": "edge1",
        "destination": "cloud",
        "match": {"protocol": "tcp", "source_port": 7801, "destination_port": 7800},
        "requirement": {"min_bandwidth_bps": 15_000_000, "burst_bytes": 40_000},
    }
    return {**whole, **changes}


def problem(answer: Any, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert {"type", "title", "status", "detail", "code"} <= set(body)
    assert (body["status"], body["code"]) == (status, code)
    return body


def test_a_reservation_response_has_the_documented_fields(client: httpx.Client) -> None:
    answer = client.post("/v1/reservations", json={"owner": "cloud", "lease_s": 60, "flows": [flow()]})
    assert answer.status_code == 201
    body = answer.json()
    assert set(body) == {
        *("id", "version", "state", "owner", "tenant", "lease_s", "reason", "flows"),
        *("created_at", "expires_at", "start_at", "end_at"),
    }
    assert (body["version"], body["state"], body["owner"], body["reason"]) == (1, "active", "cloud", None)
    (placed,) = body["flows"]
    assert placed["path"] == ["edge1", "s1", "s2", "cloud"]
    assert (placed["reserved_bps"], placed["burst_bytes"]) == (15_000_000, 40_000)
    assert placed["accumulated_latency_us"] > placed["latency_variation_us"] > 0
    assert placed["match"] == flow()["match"]


def with_burst(name: str, port: int, burst_bytes: int, **extra: float) -> dict[str, Any]:
    match = {"protocol": "udp", "source_port": port, "destination_port": 7800}
    requirement = {"min_bandwidth_bps": 1_000_000, "burst_bytes": burst_bytes, **extra}
    return flow(name, match=match, requirement=requirement)


def test_a_bound_as_promised_is_shown_as_limit_and_kept(client: httpx.Client) -> None:
    first = client.post("/v1/reservations", json={"flows": [with_burst("a", 9001, 40_000, bound_slack=0.25)]}).json()
    (placed,) = first["flows"]
    assert placed["requirement"]["bound_slack"] == 0.25
    for limit, bound in (("latency_limit_us", "accumulated_latency_us"),
                         ("latency_variation_limit_us", "latency_variation_us")):
        assert placed[limit] == pytest.approx(1.25 * placed[bound], abs=0.2)
    burst = {"flows": [with_burst("b", 9002, 400_000)]}
    body = problem(client.post("/v1/reservations", json=burst), 409, "latency_not_met")
    assert (body["reservation"], body["bound_slack"]) == (first["id"], 0.25)
    assert "as promised" in body["detail"]
    quoted = client.post("/v1/quotes", json=burst).json()
    assert (quoted["admitted"], quoted["problem"]["code"]) == (False, "latency_not_met")
    client.delete(f"/v1/reservations/{first['id']}")
    assert client.post("/v1/reservations", json=burst).status_code == 201


def test_a_given_limit_is_shown_and_without_one_there_is_none(client: httpx.Client) -> None:
    flows = [with_burst("a", 9001, 20_000), with_burst("b", 9002, 20_000, max_latency_us=90_000, bound_slack=99)]
    first, second = client.post("/v1/reservations", json={"flows": flows}).json()["flows"]
    assert (first["latency_limit_us"], first["latency_variation_limit_us"]) == (None, None)
    assert second["latency_limit_us"] == 90_000
    assert first["requirement"]["bound_slack"] is None


def test_a_bound_that_grows_is_a_new_version_told_by_get(client: httpx.Client) -> None:
    first = client.post("/v1/reservations", json={"flows": [with_burst("a", 9001, 40_000)]}).json()
    client.post("/v1/reservations", json={"flows": [with_burst("b", 9002, 400_000)]})
    after = client.get(f"/v1/reservations/{first['id']}").json()
    before_us, after_us = (each["flows"][0]["accumulated_latency_us"] for each in (first, after))
    assert (after["version"], after["state"], after_us > 2 * before_us) == (2, "active", True)
    assert client.get(f"/v1/reservations/{first['id']}").json()["version"] == 2


@pytest.mark.parametrize("slack", [-0.1, "0.1", True, 1001])
def test_a_slack_that_is_none_is_refused(client: httpx.Client, slack: Any) -> None:
    body = {"flows": [with_burst("a", 9001, 40_000, bound_slack=slack)]}
    answer = problem(client.post("/v1/reservations", json=body), 422, "invalid_request")
    assert [mistake["place"] for mistake in answer["mistakes"]] == ["body.flows.0.requirement.bound_slack"]


def test_every_property_and_operation_is_described(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    schemas = document["components"]["schemas"]
    bare = {f"{kind}.{name}" for kind, schema in schemas.items()
            for name, told in schema.get("properties", {}).items() if not told.get("description")}  # fmt: skip
    assert bare == set()
    operations = [(path, each) for path, methods in document["paths"].items() for each in methods.values()]
    assert [path for path, each in operations if len(each["summary"].split()) < 2] == []


def test_the_vocabulary_has_no_word_that_is_not_used(client: httpx.Client) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    used = {name for schema in schemas.values() for name in schema.get("properties", {})}
    qualified = {f"{kind}.{name}" for kind, schema in schemas.items() for name in schema.get("properties", {})}
    assert {name for name in DESCRIPTIONS if name not in used | qualified} == set()


def test_the_start_page_says_where_things_are(client: httpx.Client) -> None:
    answer = client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    assert all(f'href="{path}"' in answer.text for path in ("/docs", "/openapi.json", "/v1/healthz"))


def test_a_reservation_is_read_without_asking_switches(client: httpx.Client) -> None:
    identity = client.post("/v1/reservations", json={"flows": [flow()]}).json()["id"]
    whole = client.get(f"/v1/reservations/{identity}").json()
    assert client.get(f"/v1/reservations/{identity}?counters=false").json() == {**whole, "counters": None}


def test_network_and_paths_show_reserved_bandwidth(client: httpx.Client) -> None:
    client.post("/v1/reservations", json={"flows": [flow()]})
    network = client.get("/v1/network").json()
    link = next(link for link in network["links"] if link["link"] == "s1->s2")
    assert (link["capacity_bps"], link["reservable_bps"]) == (80_000_000, 76_000_000)
    assert (link["reserved_bps"], link["free_bps"], link["up"]) == (15_000_000, 61_000_000, True)
    assert network["nodes"][0] == {
        "name": "s1", "kind": "switch", "up": True, "ip": None, "position_km": [0.0, 0.0],
    }
    (path,) = client.get("/v1/paths", params={"source": "edge1", "destination": "cloud"}).json()["paths"]
    assert (path["nodes"], path["length_km"], path["free_bps"]) == (["edge1", "s1", "s2", "cloud"], 24, 61_000_000)


def test_what_links_carry_is_counted_where_they_begin_or_from_a_host_where_they_end(client: httpx.Client) -> None:
    """Ports of the simulated switches have sent 1000 times their number, and received their switch's number."""
    answer = client.get("/v1/network/counters").json()
    carried = {each["link"]: each["bytes"] for each in answer["links"]}
    assert carried.keys() == {link["link"] for link in client.get("/v1/network").json()["links"]}
    assert (carried["s1->s2"], carried["s2->s1"]) == (1000, 1000)
    assert (carried["edge1->s1"], carried["cloud->s2"]) == (1, 2)
    assert answer["unavailable"] == []


def test_a_reservation_from_post_to_delete(client: httpx.Client) -> None:
    identity = client.post("/v1/reservations", json={"flows": [flow()]}).json()["id"]
    assert [found["id"] for found in client.get("/v1/reservations?state=active").json()["reservations"]] == [identity]
    assert client.get(f"/v1/reservations/{identity}").json()["counters"]["unavailable"] == []
    assert client.patch(f"/v1/reservations/{identity}", json={"lease_s": 5}).json()["lease_s"] == 5
    for _ in range(2):
        answer = client.delete(f"/v1/reservations/{identity}")
        assert (answer.status_code, answer.json()["state"]) == (200, "released")
    problem(client.patch(f"/v1/reservations/{identity}", json={}), 409, "not_live")


def test_a_refusal_for_capacity_names_the_bottleneck(client: httpx.Client) -> None:
    big = flow(requirement={"min_bandwidth_bps": 90_000_000})
    body = problem(client.post("/v1/reservations", json={"flows": [big]}), 409, "no_capacity")
    assert body["flow"] == "edge1-up"
    assert set(body["bottleneck"]) == {"link", "capacity_bps", "reserved_bps", "free_bps", "asked_bps"}


def test_a_five_tuple_in_use_is_refused(client: httpx.Client) -> None:
    first = client.post("/v1/reservations", json={"flows": [flow()]}).json()
    body = problem(client.post("/v1/reservations", json={"flows": [flow("again")]}), 409, "flow_in_use")
    assert body["reservation"] == first["id"]


@pytest.mark.parametrize(("given", "answered"), [
    ({"source_port": "49152-65535"}, "49152-65535"),
    ({"source_port": "7801-7801"}, 7801),
    ({"source_port": None}, None),
    ({}, None),
])  # fmt: skip
def test_a_source_port_may_be_a_range_or_left_out(
    client: httpx.Client, given: dict[str, Any], answered: object
) -> None:
    wide = flow(match={"protocol": "tcp", "destination_port": 7800, **given})
    body = client.post("/v1/reservations", json={"flows": [wide]}).json()
    assert body["flows"][0]["match"] == {"protocol": "tcp", "source_port": answered, "destination_port": 7800}
    quoted = client.post("/v1/quotes", json={"flows": [wide]}).json()
    assert (quoted["admitted"], quoted["problem"]["code"]) == (False, "flow_in_use")
    changed = client.patch(f"/v1/reservations/{body['id']}", json={"flows": [wide]})
    assert changed.status_code == 200, changed.text


def test_a_flow_without_ports_is_all_traffic_of_its_protocol(client: httpx.Client) -> None:
    first = client.post("/v1/reservations", json={"flows": [flow(match={"protocol": "tcp"})]}).json()
    body = problem(client.post("/v1/reservations", json={"flows": [flow("part")]}), 409, "flow_in_use")
    assert body["detail"] == f"part: tcp from edge1:7801 to cloud:7800 is in part already reserved by {first['id']}."
    udp = flow(match={"protocol": "udp"})
    assert client.post("/v1/reservations", json={"flows": [udp]}).status_code == 201


@pytest.mark.parametrize(("match", "words"), [
    ({"source_port": "49152"}, "body.flows.0.match.source_port: '49152' is not a range of ports"),
    ({"source_port": "9-8"}, "9-8 is not a range of ports; it must go from a lower to a higher one of 1 to 65535"),
    ({"source_port": "0-8"}, "0-8 is not a range of ports"),
    ({"source_port": [1, 2]}, "body.flows.0.match.source_port: it is a list of 2; it must be a whole number"),
    ({"source_port": "1-65534", "destination_port": "1-65534"}, "match: its two ranges of ports take 900 flow entries"),
])  # fmt: skip
def test_a_range_of_ports_that_is_none_is_named(client: httpx.Client, match: dict[str, Any], words: str) -> None:
    wrong = flow(match={"protocol": "tcp", "source_port": 1, "destination_port": 1, **match})
    assert words in problem(client.post("/v1/reservations", json={"flows": [wrong]}), 422, "invalid_request")["detail"]


def test_all_mistakes_of_a_request_are_listed(client: httpx.Client) -> None:
    wrong = flow(match={"protocol": "sctp", "source_port": 0, "destination_port": 7800}, colour="red")
    body = problem(client.post("/v1/reservations", json={"flows": [wrong], "lease_s": -1}), 422, "invalid_request")
    assert sorted(mistake["place"] for mistake in body["mistakes"]) == [
        "body.flows.0.colour",
        "body.flows.0.match.protocol",
        "body.flows.0.match.source_port",
        "body.lease_s",
    ]


@pytest.mark.parametrize(
    ("flows", "words"),
    [
        ([], "it is []; it must have at least 1 entry"),
        ([flow(), flow()], "must be unique"),
        ([flow(), flow("other")], "same source, destination, protocol and ports"),
        ([flow(destination="edge1")], "both edge1"),
        ([flow(), flow("any", match={"protocol": "tcp"})], "flow any has packets of the same source, destination"),
    ],
)
def test_flows_of_a_request_must_be_consistent(client: httpx.Client, flows: list[dict[str, Any]], words: str) -> None:
    body = problem(client.post("/v1/reservations", json={"flows": flows}), 422, "invalid_request")
    assert words in body["detail"]


def test_an_unknown_host_is_named_with_the_known_hosts(client: httpx.Client) -> None:
    body = problem(client.post("/v1/reservations", json={"flows": [flow(source="edge9")]}), 422, "unknown_host")
    assert "edge1, edge2, cloud" in body["detail"]
    problem(client.get("/v1/paths?source=s1&destination=cloud"), 422, "unknown_host")


def test_reservations_are_listed_in_pages_that_each_name_the_next(client: httpx.Client) -> None:
    def made(port: int) -> str:
        changed = flow(match={**flow()["match"], "source_port": port}, requirement={"min_bandwidth_bps": 1_000_000})
        return str(client.post("/v1/reservations", json={"flows": [changed]}).json()["id"])

    ids = [made(7801 + number) for number in range(5)]
    pages, path = [], "/v1/reservations?state=active&limit=2"
    while True:
        answer = client.get(path)
        content = answer.json()
        pages.append([found["id"] for found in content["reservations"]])
        if "next" not in content:
            break
        assert answer.headers["Link"] == f'<{content["next"]}>; rel="next"'
        path = content["next"]
        client.delete(f"/v1/reservations/{pages[0][0]}")  # pages do not shift
    assert pages == [ids[:2], ids[2:4], ids[4:]]
    for query in ("limit=0", "limit=2001", "cursor=1", "cursor=_r-00000001", "cursor=1e999_r-00000001"):
        problem(client.get(f"/v1/reservations?{query}"), 422, "invalid_request")
    assert client.get("/v1/reservations?cursor=99999999999_r-00000001").json() == {"reservations": []}


@pytest.mark.parametrize("method", ["GET", "PATCH", "DELETE"])
def test_unknown_resources_are_not_found(client: httpx.Client, method: str) -> None:
    body: dict[str, object] | None = {} if method == "PATCH" else None
    problem(client.request(method, "/v1/reservations/r-00000000", json=body), 404, "not_found")
    problem(client.get("/nowhere"), 404, "not_found")
    problem(client.put("/v1/reservations"), 405, "method_not_allowed")


@pytest.mark.parametrize(("body", "message"), [
    (b"", "it is missing; the request needs a JSON object"),
    (b"null", "it is null; it must be an object"),
    (b"{", "it is not JSON at character 2: expecting property name enclosed in double quotes"),
    (b'{"lease_s": ' + 5000 * b"9" + b"}",
     "it is not JSON: it is not UTF-8, nested too deeply, or has a number of thousands of digits"),
])  # fmt: skip
def test_a_body_that_is_no_request_is_told_why(client: httpx.Client, body: bytes, message: str) -> None:
    answer = client.post("/v1/quotes", content=body)
    assert problem(answer, 422, "invalid_request")["mistakes"] == [{"place": "body", "message": message}]


def test_a_path_with_a_slash_at_its_end_is_another_path(client: httpx.Client) -> None:
    """A redirect would look like that of a standby."""
    for path in ("/v1/reservations/", "/v1/network/"):
        assert f"There is no path {path}" in problem(client.get(path), 404, "not_found")["detail"]


def test_there_are_no_paths_from_a_host_to_itself(client: httpx.Client) -> None:
    answer = client.get("/v1/paths", params={"source": "edge1", "destination": "edge1"})
    (mistake,) = problem(answer, 422, "invalid_request")["mistakes"]
    assert mistake == {"place": "query.destination", "message": "source and destination are both edge1"}


def test_an_id_of_events_is_shown_where_none_was_given(client: httpx.Client) -> None:
    answer = client.get("/v1/events", headers={"Last-Event-ID": "last"})
    (mistake,) = problem(answer, 422, "invalid_request")["mistakes"]
    assert mistake["message"] == 'it is "last"; an event\'s id looks like 1a22e1d1bb5-7, and 0-0 is before all events'


def test_a_body_that_is_too_large_is_rejected_with_any_transfer_encoding(client: httpx.Client) -> None:
    problem(client.post("/v1/reservations", content=b"x" * (MAX_BYTES + 1)), 413, "too_large")
    pieces = (b"x" * 65536 for _ in range(17))
    problem(client.post("/v1/reservations", content=pieces), 413, "too_large")


GARBAGE = [
    b"",
    b"{",
    b"\xff\xfe",
    b"null",
    b"[]",
    b'"\\ud800"',
    b'{"\\ud800": 1}',
    b'{"flows": NaN}',
    b'{"lease_s": Infinity, "flows": []}',
    b'{"lease_s": 1e999, "flows": []}',
    b'{"owner": "\\ud83d", "flows": []}',
    b"[" * 100_000,
    b'{"flows": [' + b'{"name": 1},' * 5000 + b"{}]}",
    b'{"lease_s": ' + b"9" * 5000 + b"}",
    json.dumps({"flows": [flow(requirement={"min_bandwidth_bps": 10**400})]}).encode(),
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_malformed_bodies_are_client_errors(client: httpx.Client, garbage: bytes, method: str) -> None:
    path = "/v1/reservations" + ("/r-1" if method == "PATCH" else "")
    answer = client.request(method, path, content=garbage, headers={"content-type": "application/json"})
    body = problem(answer, 422, "invalid_request")
    assert len(answer.content) < 50_000
    assert body["detail"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text() | st.sampled_from(list(flow())), inner),
    max_leaves=20,
)


@given(body=JSON | st.fixed_dictionaries({"flows": st.lists(JSON, max_size=3)}, optional={"lease_s": JSON}))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_json_body_causes_a_server_error(client: httpx.Client, body: Any) -> None:
    answer = client.post("/v1/reservations", content=json.dumps(body), headers={"content-type": "application/json"})
    problem(answer, 422, "invalid_request")


@given(path=st.text(min_size=1, max_size=30), query=st.text(max_size=20))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_path_causes_a_server_error(client: httpx.Client, path: str, query: str) -> None:
    from urllib.parse import quote

    answer = client.get(f"/v1/reservations/{quote(path, safe='')}", params={"state": query})
    assert answer.status_code in (200, 307, 404, 422)


def test_openapi_describes_the_problems(client: httpx.Client) -> None:
    spec = client.get("/openapi.json").json()
    responses = spec["paths"]["/v1/reservations"]["post"]["responses"]
    assert {"201", "409", "413", "422", "500", "503"} <= set(responses)
    assert list(responses["409"]["content"]) == ["application/problem+json"]
    assert "Problem" in spec["components"]["schemas"]
    assert "HTTPValidationError" not in spec["components"]["schemas"]
    assert client.get("/docs").status_code == 200


def has_example(spec: dict[str, Any], content: dict[str, Any]) -> bool:
    """Whether a body has an example of its own or in its schema."""
    name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
    shape = spec["components"]["schemas"].get(name, {})
    return bool(content.get("example") or content.get("examples") or shape.get("examples"))


def test_every_request_and_response_has_an_example(client: httpx.Client) -> None:
    spec = client.get("/openapi.json").json()
    bare = [
        f"{method} {path} {status} {media_type}"
        for path, operations in spec["paths"].items()
        for method, operation in operations.items()
        for status, body in {**operation["responses"], "body": operation.get("requestBody", {})}.items()
        for media_type, content in body.get("content", {}).items()
        if not has_example(spec, content)
    ]
    assert bare == []


def test_every_error_has_an_example() -> None:
    def kinds(of: type[errors.ControllerError]) -> set[type[errors.ControllerError]]:
        return {of} | {each for kind in of.__subclasses__() for each in kinds(kind)}

    refusals = {errors.Refused, errors.StreamError, errors.SwitchError}
    bases = {errors.RequestError, errors.Denied, *kinds(errors.StartError), *refusals}
    assert kinds(errors.ControllerError) - bases == {type(error) for error in EXAMPLES}


@pytest.mark.parametrize(
    ("requirement", "places"),
    [
        ({}, ["requirement"]),
        ({"min_bandwidth_bps": 1000, "transfer_bytes": 1000, "deadline_ms": 1}, ["requirement"]),
        ({"min_bandwidth_bps": 1000, "deadline_ms": 1}, ["requirement.deadline_ms"]),
        ({"transfer_bytes": 1000}, ["requirement.deadline_ms"]),
        ({"transfer_bytes": 1000, "deadline_ms": 1, "offset_ms": 1}, ["requirement.offset_ms"]),
        (
            {"transfer_bytes": 1000, "deadline_ms": 3000, "period_ms": 2000, "offset_ms": 2000},
            ["requirement.deadline_ms", "requirement.offset_ms"],
        ),
        ({"transfer_bytes": 1000, "deadline_ms": 1, "period_ms": 10}, ["requirement.period_ms"]),
        ({"transfer_bytes": True, "deadline_ms": "1"}, ["requirement.transfer_bytes", "requirement.deadline_ms"]),
        ({"min_bandwidth_bps": 1000, "rank": 256, "protection": "all"}, ["requirement.rank", "requirement.protection"]),
        ({"min_bandwidth_bps": 1000, "backup": "dedicated"}, ["requirement.backup"]),
        ({"min_bandwidth_bps": 1000, "analysis": "exact"}, ["requirement.analysis"]),
        ({"transfer_bytes": 1000, "deadline_ms": 1, "analysis": "linear_programme"}, ["requirement.analysis"]),
    ],
)
def test_a_requirement_has_one_consistent_form(
    client: httpx.Client, requirement: dict[str, Any], places: list[str]
) -> None:
    answer = client.post("/v1/reservations", json={"flows": [flow(requirement=requirement)]})
    body = problem(answer, 422, "invalid_request")
    assert sorted(mistake["place"] for mistake in body["mistakes"]) == sorted(f"body.flows.0.{p}" for p in places)


def test_linear_programmes_prove_smaller_bounds_on_demand(client: httpx.Client) -> None:
    def told_us(analysis: str) -> float:
        requirement = {"min_bandwidth_bps": 5_000_000, "burst_bytes": 40_000, "analysis": analysis}
        answer = client.post("/v1/reservations", json={"flows": [flow(requirement=requirement)]})
        assert answer.status_code == 201
        told = answer.json()["flows"][0]
        assert told["requirement"]["analysis"] == analysis
        client.delete(f"/v1/reservations/{answer.json()['id']}")
        return float(told["accumulated_latency_us"])

    assert told_us("linear_programme") < told_us("total_flow")


@pytest.mark.parametrize(
    ("times", "place", "words"),
    [
        ({"start_at": "2999-01-01T00:00:00Z"}, "body.start_at", "the calendar ends at "),
        ({"end_at": "2020-01-01T00:00:00Z"}, "body.end_at", "it has passed"),
        ({"start_at": "2030-01-02T00:00:00Z", "end_at": "2030-01-01T00:00:00Z"}, "body.end_at", "later than start_at"),
        ({"start_at": "2030-01-01T00:00:00"}, "body.start_at", "RFC 3339 timestamp with a time zone"),
        ({"start_at": 1893456000}, "body.start_at", "RFC 3339 timestamp with a time zone"),
    ],
)
def test_times_are_within_the_calendar(
    client: httpx.Client, times: dict[str, Any], place: str, words: str
) -> None:
    body = problem(client.post("/v1/reservations", json={"flows": [flow()], **times}), 422, "invalid_request")
    (mistake,) = body["mistakes"]
    assert mistake["place"] == place
    assert words in mistake["message"]


def test_method_not_allowed_lists_the_allowed_methods(client: httpx.Client) -> None:
    assert client.put("/v1/reservations").headers["allow"] == "GET, POST"
    assert client.put("/v1/reservations/r-1").headers["allow"] == "DELETE, GET, PATCH"


def test_a_slow_body_times_out() -> None:
    async def scenario() -> list[Any]:
        sent: list[Any] = []

        async def app(*_arguments: Any) -> None:
            raise AssertionError("the body never came")

        async def receive() -> Any:
            await asyncio.sleep(60)

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": "/v1/quotes", "headers": []}
        await BodyLimit(app, timeout_s=0.01)(scope, receive, send)
        return sent

    start, body = asyncio.run(scenario())
    assert (start["status"], json.loads(body["body"])["code"]) == (408, "request_timeout")


def test_health_counts_the_switches(client: httpx.Client) -> None:
    expected = {"status": "ok", "switches_up": 2, "switches_expected": 2, "audit": "ok", "ledger": "ok"}
    assert client.get("/v1/healthz").json() == expected


def test_transfers_are_quoted_their_shortest_common_time(client: httpx.Client) -> None:
    transfers = [
        {"name": f"v{number}", "source": f"edge{number}", "destination": "cloud", "transfer_bytes": number * 1_000_000}
        for number in (1, 2)
    ]
    answer = client.post("/v1/quotes", json={"transfers": transfers}).json()
    assert (answer["bottleneck"], answer["exact"], answer["gap"]) == ("s1->s2", True, 0)
    rates = {flow["name"]: flow["rate_bps"] for flow in answer["flows"]}
    assert rates["v2"] == pytest.approx(2 * rates["v1"], rel=1e-3)
    assert answer["transfer_ms"] == pytest.approx(24e9 / sum(rates.values()), rel=1e-3)


def test_a_quote_shows_free_bandwidth_and_can_count_an_own_reservation_as_free(client: httpx.Client) -> None:
    question: dict[str, Any] = {
        "transfers": [{"name": "v", "source": "edge1", "destination": "cloud", "transfer_bytes": 1_000_000}]
    }
    before = client.post("/v1/quotes", json=question).json()
    assert [link["link"] for link in before["links"]] == ["edge1->s1", "s1->s2", "s2->cloud"]
    reserved = client.post("/v1/reservations", json={"flows": [flow()]}).json()["id"]
    after = client.post("/v1/quotes", json=question).json()
    taken = [a["free_bps"] - b["free_bps"] for a, b in zip(before["links"], after["links"], strict=True)]
    assert taken == [15_000_000] * 3
    assert client.post("/v1/quotes", json={**question, "instead_of": reserved}).json() == before
    problem(client.post("/v1/quotes", json={**question, "instead_of": "r-nobody"}), 404, "not_found")


def test_the_offer_of_a_refusal_is_accepted(client: httpx.Client) -> None:
    wanted = {
        "name": "a",
        "source": "edge1",
        "destination": "cloud",
        "match": {"protocol": "tcp", "source_port": 999, "destination_port": 999},
        "requirement": {"min_bandwidth_bps": 90_000_000},
    }
    refusal = client.post("/v1/reservations", json={"flows": [wanted]})
    assert (refusal.status_code, refusal.json()["ieee8021q_failure_code"]) == (409, 1)
    offer = refusal.json()["offer"]
    assert offer["flows"][0]["requirement"]["min_bandwidth_bps"] < 90_000_000
    accepted = client.post("/v1/reservations", json=offer)
    assert accepted.status_code == 201
    assert client.delete(f"/v1/reservations/{accepted.json()['id']}").status_code == 200


def test_a_span_is_taken_out_of_service_and_put_back(client: httpx.Client, service: Service) -> None:
    alarms: list[SpanChanged] = []
    stop = service.queries.subscribe(lambda event: alarms.append(event) if isinstance(event, SpanChanged) else None)
    made = client.post("/v1/reservations", json={"flows": [flow()]}).json()
    try:
        gone = client.post("/v1/links/s2->s1/down")
        assert (gone.status_code, gone.json()) == (
            200, {"spans": ["s1-s2"], "in_service": False, "degraded": [made["id"]]},
        )  # fmt: skip
        links = {link["link"]: link for link in client.get("/v1/network").json()["links"]}
        assert [(links[name]["up"], links[name]["in_service"]) for name in ("s1->s2", "edge1->s1")] == [
            (False, False), (True, True),
        ]  # fmt: skip
        assert client.post("/v1/reservations", json={"flows": [flow(source="edge2")]}).json()["code"] == "no_path"
        back = client.post("/v1/links/s1-s2/up").json()
        assert back == {"spans": ["s1-s2"], "in_service": True, "degraded": []}
        assert client.get(f"/v1/reservations/{made['id']}").json()["state"] == "active"
    finally:
        client.post("/v1/links/s1-s2/up")
        stop()
    assert [alarm.text for alarm in alarms] == ["Span s1-s2 of 20 km is out of service.", "Span s1-s2 of 20 km is up."]


def test_unknown_spans_and_ducts_are_not_found(client: httpx.Client) -> None:
    no_span = client.post("/v1/links/s1-s9/down")
    assert (no_span.status_code, no_span.json()["code"]) == (404, "not_found")
    assert no_span.json()["detail"].startswith("There is no link 's1-s9'; the spans are cloud-s2, ")
    no_duct = client.post("/v1/ducts/east/down").json()
    assert no_duct["detail"] == "There is no duct 'east'; the map has no ducts."


def test_spans_out_of_service_stay_so_after_a_restart(tmp_path: Path) -> None:
    for again in (False, True):
        with running_service(Ledger(f"sqlite:///{tmp_path}/ledger.db", "pair")) as running:
            if not again:
                running.maintenance.set_in_service({"s1-s2"}, in_service=False)
            assert running.queries.snapshot().closed == {"s1-s2"}
