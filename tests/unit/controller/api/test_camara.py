"""The APIs of CAMARA on the real service: what maps to a reservation, what is refused, and the events."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from controller.api.app import QosOffer, create_app
from controller.api.camara.profiles import DEFAULT_PROFILES, OfferedProfile, load_profiles
from controller.errors import StartError
from controller.security.access import Quota, Scope
from controller.security.tokens import TokenStore
from controller.service.reservation_service import Service
from controller.storage.ledger import IN_MEMORY, Ledger
from controller.telemetry.sink_delivery import SinkDelivery
from machine.polling import wait_until
from tests.https_sink import HttpsSink, https_sink
from tests.unit.controller.simulated_switches import PAIR, running_service, serving

pytestmark = pytest.mark.usefixtures("nothing_reserved")

QOD = "/quality-on-demand/v1"
BOOKING = "/qos-booking/v0.1"
HOSTS = {host.name: host.ip for host in PAIR.hosts}
HUGE = OfferedProfile.model_validate({
    "name": "HUGE", "targetMinUpstreamRate": {"value": 1, "unit": "Tbps"}, "maxDuration": {"value": 1, "unit": "Hours"},
})  # fmt: skip
OLD = HUGE.model_copy(update={"name": "OLD", "status": "DEPRECATED"})
GAME = OfferedProfile.model_validate({
    "name": "GAME", "targetMinUpstreamRate": {"value": 500, "unit": "kbps"},
    "targetMinDownstreamRate": {"value": 2, "unit": "Mbps"}, "packetDelayBudget": {"value": 80, "unit": "Milliseconds"},
    "jitter": {"value": 120, "unit": "Milliseconds"}, "priority": 1, "protocol": "tcp",
    "minDuration": {"value": 2, "unit": "Seconds"}, "maxDuration": {"value": 100, "unit": "Seconds"},
})  # fmt: skip


@pytest.fixture(scope="module")
def sink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpsSink]:
    with https_sink(tmp_path_factory.mktemp("sink")) as running:
        yield running


@pytest.fixture(scope="module")
def client(service: Service, sink: HttpsSink) -> Iterator[httpx.Client]:
    delivery = SinkDelivery({("localhost", sink.port)}, first_delay_s=0.05)
    offer = QosOffer((*DEFAULT_PROFILES, HUGE, OLD, GAME), delivery)
    with serving(create_app(service, qos=offer)) as client:
        yield client
    delivery.stop()


def device(host: str = "edge1") -> dict[str, Any]:
    return {"ipv4Address": {"publicAddress": HOSTS[host], "privateAddress": HOSTS[host]}}


def session(**changes: Any) -> dict[str, Any]:
    body = {
        "device": device(),
        "applicationServer": {"ipv4Address": HOSTS["cloud"]},
        "applicationServerPorts": {"ports": [5060]},
        "qosProfile": "GAME",
        "duration": 60,
    }
    return {name: value for name, value in {**body, **changes}.items() if value is not None}


def booking(start_s: float = 600, **changes: Any) -> dict[str, Any]:
    start = datetime.now(UTC) + timedelta(seconds=start_s)
    area = {"areaType": "AREANAME", "areaName": "pair"}
    return {**session(), "startTime": start.isoformat(), "serviceArea": area, **changes}


def refused(answer: httpx.Response) -> tuple[int, str]:
    body = answer.json()
    assert set(body) == {"status", "code", "message"}, answer.text
    assert (body["status"], answer.headers["content-type"]) == (answer.status_code, "application/json")
    assert body["message"].endswith(".")
    return answer.status_code, body["code"]


def reservations(client: httpx.Client) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = client.get("/v1/reservations").json()["reservations"]
    return [found for found in listed if found["state"] in ("active", "scheduled")]


def test_a_session_is_a_reservation_with_the_attributes_of_its_profile(client: httpx.Client) -> None:
    answer = client.post(f"{QOD}/sessions", json=session(devicePorts={"ranges": [{"from": 5010, "to": 5020}]}),
                         headers={"x-correlator": "b4333c46-49c0"})
    assert (answer.status_code, answer.headers["x-correlator"]) == (201, "b4333c46-49c0"), answer.text
    told = answer.json()
    assert {name: told[name] for name in ("qosStatus", "qosProfile", "duration", "device", "applicationServer")} == {
        "qosStatus": "AVAILABLE", "qosProfile": "GAME", "duration": 60, "device": device(),
        "applicationServer": {"ipv4Address": HOSTS["cloud"]},
    }  # fmt: skip
    assert told["devicePorts"] == {"ranges": [{"from": 5010, "to": 5020}]}
    assert "statusInfo" not in told and "sink" not in told
    (reservation,) = reservations(client)
    up, down = reservation["flows"]
    assert (up["source"], up["destination"]) == (down["destination"], down["source"]) == ("edge1", "cloud")
    assert up["match"] == {"protocol": "tcp", "source_port": "5010-5020", "destination_port": 5060}
    assert down["match"] == {"protocol": "tcp", "source_port": 5060, "destination_port": "5010-5020"}
    wanted = [(flow["requirement"]["min_bandwidth_bps"], flow["requirement"]["rank"]) for flow in (up, down)]
    assert wanted == [(500_000, 0), (2_000_000, 0)]
    for flow in (up, down):  # the jitter of the profile is that of the round trip
        assert flow["requirement"]["max_latency_us"] == 80_000
        assert flow["requirement"]["max_latency_variation_us"] == 60_000
        assert flow["accumulated_latency_us"] <= 80_000
    assert client.get(f"{QOD}/sessions/{told['sessionId']}").json() == told
    found = client.post(f"{QOD}/retrieve-sessions", json={"device": device()}).json()
    assert [each["sessionId"] for each in found if each["qosStatus"] == "AVAILABLE"] == [told["sessionId"]]
    others = client.post(f"{QOD}/retrieve-sessions", json={"device": device("edge2")})
    assert (others.status_code, others.json()) == (200, [])
    assert client.delete(f"{QOD}/sessions/{told['sessionId']}").status_code == 204
    assert reservations(client) == []
    assert refused(client.get(f"{QOD}/sessions/{told['sessionId']}")) == (404, "NOT_FOUND")


def test_a_session_is_extended_to_at_most_the_longest_duration(client: httpx.Client) -> None:
    told = client.post(f"{QOD}/sessions", json=session()).json()
    path = f"{QOD}/sessions/{told['sessionId']}/extend"
    longer = client.post(path, json={"requestedAdditionalDuration": 30})
    assert (longer.status_code, longer.json()["duration"]) == (200, 90), longer.text
    assert client.post(path, json={"requestedAdditionalDuration": 30}).json()["duration"] == 100
    (reservation,) = reservations(client)
    assert reservation["expires_at"][:19] == client.get(f"{QOD}/sessions/{told['sessionId']}").json()["expiresAt"][:19]


def test_the_end_of_the_duration_is_told_to_the_sink_with_its_token(client: httpx.Client, sink: HttpsSink) -> None:
    until = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    credential = {"credentialType": "ACCESSTOKEN", "accessToken": "abc.def", "accessTokenType": "bearer",
                  "accessTokenExpiresUtc": until}  # fmt: skip
    told = client.post(f"{QOD}/sessions", json=session(duration=2, sink=sink.url, sinkCredential=credential)).json()
    assert told["sink"] == sink.url and "sinkCredential" not in told
    wait_until(lambda: len(sink.events_of(told["sessionId"])) == 2)
    events = sink.events_of(told["sessionId"])
    assert {event.headers["authorization"] for event in events} == {"Bearer abc.def"}
    assert {event.headers["content-type"] for event in events} == {"application/cloudevents+json"}
    bodies = [event.body for event in events]
    assert [body["data"] for body in bodies] == [
        {"sessionId": told["sessionId"], "qosStatus": "AVAILABLE"},
        {"sessionId": told["sessionId"], "qosStatus": "UNAVAILABLE", "statusInfo": "DURATION_EXPIRED"},
    ]
    assert {body["type"] for body in bodies} == {"org.camaraproject.quality-on-demand.v1.qos-status-changed"}
    assert {body["specversion"] for body in bodies} == {"1.0"}
    assert len({body["id"] for body in bodies}) == 2
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", body["time"]) for body in bodies)
    after = client.get(f"{QOD}/sessions/{told['sessionId']}").json()
    assert (after["qosStatus"], after["statusInfo"], after["duration"]) == ("UNAVAILABLE", "DURATION_EXPIRED", 2)
    path = f"{QOD}/sessions/{told['sessionId']}/extend"
    conflict = client.post(path, json={"requestedAdditionalDuration": 1})
    assert refused(conflict) == (409, "QUALITY_ON_DEMAND.SESSION_EXTENSION_NOT_ALLOWED")


def test_a_sink_that_fails_is_tried_again_and_one_that_hangs_delays_no_answer(
    client: httpx.Client, sink: HttpsSink
) -> None:
    sink.statuses[:] = [503, 500]
    told = client.post(f"{QOD}/sessions", json=session(sink=sink.url)).json()
    wait_until(lambda: len(sink.events_of(told["sessionId"])) == 3)
    assert len({event.body["id"] for event in sink.events_of(told["sessionId"])}) == 1
    client.delete(f"{QOD}/sessions/{told['sessionId']}")
    wait_until(lambda: len(sink.events_of(told["sessionId"])) == 4)
    assert sink.events_of(told["sessionId"])[-1].body["data"]["statusInfo"] == "DELETE_REQUESTED"
    with sink.held():
        answer = client.post(f"{QOD}/sessions", json=session(sink=sink.url))
        assert answer.status_code == 201
        path = f"{QOD}/sessions/{answer.json()['sessionId']}"
        assert client.get(path).json()["qosStatus"] == "AVAILABLE"
        assert sink.events_of(answer.json()["sessionId"]) == []
    wait_until(lambda: len(sink.events_of(answer.json()["sessionId"])) == 1)


def test_a_booking_is_a_reservation_with_start_and_end(client: httpx.Client, sink: HttpsSink) -> None:
    body = booking(sink=sink.url)
    answer = client.post(f"{BOOKING}/device-qos-bookings", json=body)
    assert answer.status_code == 201, answer.text
    told = answer.json()
    assert (told["status"], told["duration"], told["serviceArea"]) == ("SCHEDULED", 60, body["serviceArea"])
    assert datetime.fromisoformat(told["startTime"]) == datetime.fromisoformat(body["startTime"])
    (reservation,) = reservations(client)
    start, end = (datetime.fromisoformat(reservation[name]) for name in ("start_at", "end_at"))
    assert (reservation["state"], end - start) == ("scheduled", timedelta(seconds=60))
    assert start == datetime.fromisoformat(body["startTime"])
    path = f"{BOOKING}/device-qos-bookings/{told['bookingId']}"
    assert client.get(path).json() == told
    again = client.post(f"{BOOKING}/device-qos-bookings", json=body)
    assert refused(again) == (409, "CONFLICT")
    assert client.delete(path).status_code == 204
    after = client.get(path).json()
    assert (after["status"], after["statusInfo"]) == ("UNAVAILABLE", "DELETE_REQUESTED")
    wait_until(lambda: len(sink.events_of(told["bookingId"])) == 2)
    bodies = [event.body for event in sink.events_of(told["bookingId"])]
    assert [each["data"]["status"] for each in bodies] == ["SCHEDULED", "UNAVAILABLE"]
    assert bodies[1]["type"] == "org.camaraproject.qos-booking.v0.status-changed"
    found = client.post(f"{BOOKING}/retrieve-device-qos-bookings", json={"device": device()}).json()
    assert told["bookingId"] in {each["bookingId"] for each in found}


def test_a_booking_becomes_active_and_ends(client: httpx.Client) -> None:
    told = client.post(f"{BOOKING}/device-qos-bookings", json=booking(0.5, duration=2)).json()
    path = f"{BOOKING}/device-qos-bookings/{told['bookingId']}"
    assert told["status"] == "SCHEDULED" and "startedAt" not in told
    wait_until(lambda: client.get(path).json()["status"] == "AVAILABLE")
    assert abs(datetime.fromisoformat(client.get(path).json()["startedAt"]).timestamp() - time.time()) < 60
    wait_until(lambda: client.get(path).json()["status"] == "UNAVAILABLE")
    assert client.get(path).json()["statusInfo"] == "DURATION_EXPIRED"


def test_what_admission_refuses(client: httpx.Client) -> None:
    answer = client.post(f"{QOD}/sessions", json=session(qosProfile="HUGE"))
    assert refused(answer) == (422, "QUALITY_ON_DEMAND.QOS_PROFILE_NOT_APPLICABLE")
    declined = client.post(f"{BOOKING}/device-qos-bookings", json=booking(qosProfile="HUGE"))
    assert declined.status_code == 201
    assert (declined.json()["status"], "statusInfo" in declined.json()) == ("UNAVAILABLE", False)
    assert client.post(f"{QOD}/sessions", json=session()).status_code == 201
    assert refused(client.post(f"{QOD}/sessions", json=session())) == (409, "CONFLICT")


IPV6 = {"ipv6Address": "2001:db8::1"}
EXPIRES = "2030-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"device": None}, (422, "MISSING_IDENTIFIER")),
        ({"device": {}}, (400, "INVALID_ARGUMENT")),
        ({"device": {**device(), "phoneNumber": None}}, (400, "INVALID_ARGUMENT")),
        ({"device": {"phoneNumber": "+123456789"}}, (422, "UNSUPPORTED_IDENTIFIER")),
        ({"device": {"phoneNumber": "123"}}, (400, "INVALID_ARGUMENT")),
        ({"device": IPV6}, (422, "UNSUPPORTED_IDENTIFIER")),
        ({"device": {"ipv4Address": {"publicAddress": "10.0.0.1"}}}, (400, "INVALID_ARGUMENT")),
        ({"device": {"ipv4Address": {"publicAddress": "9.9.9.9", "publicPort": 1}}}, (404, "IDENTIFIER_NOT_FOUND")),
        ({"device": {"ipv4Address": {"publicAddress": "9.9.9.999", "publicPort": 1}}}, (400, "INVALID_ARGUMENT")),
        ({"applicationServer": IPV6}, (422, "SERVICE_NOT_APPLICABLE")),
        ({"applicationServer": {"ipv4Address": "0.0.0.0/0"}}, (422, "SERVICE_NOT_APPLICABLE")),
        ({"applicationServer": {"ipv4Address": HOSTS["edge1"]}}, (422, "SERVICE_NOT_APPLICABLE")),
        ({"applicationServer": None}, (400, "INVALID_ARGUMENT")),
        ({"devicePorts": {"ports": [1, 3]}}, (400, "INVALID_ARGUMENT")),
        ({"devicePorts": {"ranges": [{"from": 9, "to": 3}]}}, (400, "INVALID_ARGUMENT")),
        ({"qosProfile": "NOT_THERE"}, (400, "INVALID_ARGUMENT")),
        ({"qosProfile": "OLD"}, (422, "QUALITY_ON_DEMAND.QOS_PROFILE_NOT_APPLICABLE")),
        ({"duration": 1}, (400, "QUALITY_ON_DEMAND.DURATION_OUT_OF_RANGE")),
        ({"duration": 101}, (400, "QUALITY_ON_DEMAND.DURATION_OUT_OF_RANGE")),
        ({"duration": 0}, (400, "INVALID_ARGUMENT")),
        ({"extra": 1}, (400, "INVALID_ARGUMENT")),
        ({"sink": "http://localhost/"}, (400, "INVALID_ARGUMENT")),
        ({"sink": "https://user@localhost/"}, (400, "INVALID_SINK")),
        ({"sink": "https://169.254.169.254/latest"}, (400, "INVALID_SINK")),
        ({"sink": "https://localhost:1/"}, (400, "INVALID_SINK")),
        ({"sink": "SINK", "sinkCredential": {"credentialType": "PLAIN"}}, (400, "INVALID_CREDENTIAL")),
        ({"sink": "SINK", "sinkCredential": {"credentialType": "ACCESSTOKEN", "accessToken": "a\r\nb: c",
          "accessTokenType": "bearer", "accessTokenExpiresUtc": EXPIRES}}, (400, "INVALID_TOKEN")),
    ],
)  # fmt: skip
def test_what_does_not_map_is_refused_with_its_code(
    client: httpx.Client, sink: HttpsSink, changes: dict[str, Any], expected: tuple[int, str]
) -> None:
    if changes.get("sink") == "SINK":
        changes = {**changes, "sink": sink.url}
    assert refused(client.post(f"{QOD}/sessions", json=session(**changes))) == expected
    assert reservations(client) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"serviceArea": {"areaType": "AREANAME", "areaName": "metro"}}, (422, "QOS_BOOKING.AREA_NOT_COVERED")),
        ({"serviceArea": {"areaType": "CIRCLE", "center": {"latitude": 1, "longitude": 1}, "radius": 9}},
         (422, "QOS_BOOKING.NOT_MANAGED_AREA_TYPE")),
        ({"startTime": "2020-01-01T00:00:00Z"}, (400, "OUT_OF_RANGE")),
        ({"startTime": "2099-01-01T00:00:00Z"}, (400, "OUT_OF_RANGE")),
        ({"startTime": "tomorrow"}, (400, "INVALID_ARGUMENT")),
        ({"duration": 101}, (400, "QOS_BOOKING.DURATION_OUT_OF_RANGE")),
        ({"qosProfile": "OLD"}, (422, "SERVICE_NOT_APPLICABLE")),
    ],
)  # fmt: skip
def test_bookings_that_do_not_map(client: httpx.Client, changes: dict[str, Any], expected: tuple[int, str]) -> None:
    assert refused(client.post(f"{BOOKING}/device-qos-bookings", json=booking(**changes))) == expected


def test_errors_of_every_layer_have_the_form_of_camara(client: httpx.Client) -> None:
    headers = {"x-correlator": "a-1"}
    unknown = client.get(f"{QOD}/nothing", headers=headers)
    assert (refused(unknown), unknown.headers["x-correlator"]) == ((404, "NOT_FOUND"), "a-1")
    assert refused(client.put(f"{QOD}/sessions")) == (405, "METHOD_NOT_ALLOWED")
    assert refused(client.post(f"{QOD}/sessions", content=b"{")) == (400, "INVALID_ARGUMENT")
    assert refused(client.post(f"{QOD}/sessions", content=b"x" * (2 << 20))) == (413, "TOO_LARGE")
    assert refused(client.get(f"{QOD}/sessions/1")) == (400, "INVALID_ARGUMENT")


def test_tokens_scopes_and_tenants_hold_here_too(service: Service) -> None:
    with closing(TokenStore(IN_MEMORY)) as tokens:
        secrets = {name: tokens.add(name, name, frozenset({scope}), Quota(reservations=1))
                   for name, scope in (("lab", Scope.RESERVE), ("other", Scope.RESERVE), ("guest", Scope.READ))}
        with serving(create_app(service, tokens=tokens)) as client:
            assert refused(client.get(f"{QOD}/sessions/1")) == (401, "UNAUTHENTICATED")
            assert client.get(f"{QOD}/openapi.json").json()["info"]["version"] == "1.1.0"
            headers = {name: {"Authorization": f"Bearer {secret}"} for name, secret in secrets.items()}
            body = session(qosProfile="QOS_M")
            guest = client.post(f"{QOD}/sessions", json=body, headers=headers["guest"])
            assert refused(guest) == (403, "PERMISSION_DENIED")
            told = client.post(f"{QOD}/sessions", json=body, headers=headers["lab"])
            assert told.status_code == 201
            path = f"{QOD}/sessions/{told.json()['sessionId']}"
            assert refused(client.get(path, headers=headers["other"])) == (404, "NOT_FOUND")
            assert refused(client.delete(path, headers=headers["other"])) == (404, "NOT_FOUND")
            more = client.post(f"{QOD}/sessions", json={**body, "device": device("edge2")}, headers=headers["lab"])
            assert refused(more) == (429, "QUOTA_EXCEEDED")


def test_profiles_are_listed_without_what_is_not_camara_s(client: httpx.Client) -> None:
    listed = client.post("/qos-profiles/v1/retrieve-qos-profiles", json={"status": "ACTIVE"}).json()
    assert [each["name"] for each in listed] == [*(each.name for each in DEFAULT_PROFILES), "HUGE", "GAME"]
    game = client.get("/qos-profiles/v1/qos-profiles/GAME").json()
    assert game["packetDelayBudget"] == {"value": 80, "unit": "Milliseconds"} and "protocol" not in game
    assert refused(client.get("/qos-profiles/v1/qos-profiles/NONE")) == (404, "NOT_FOUND")


def test_sessions_survive_a_restart_and_what_ended_meanwhile_is_told(tmp_path: Path, sink: HttpsSink) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    offer = QosOffer((GAME,), SinkDelivery({("localhost", sink.port)}))
    with running_service(Ledger(url, "pair")) as service, serving(create_app(service, qos=offer)) as client:
        stays = client.post(f"{QOD}/sessions", json=session(sink=sink.url)).json()
        ends = client.post(f"{QOD}/sessions", json=session(sink=sink.url, device=device("edge2"), duration=2)).json()
        wait_until(lambda: bool(sink.events_of(ends["sessionId"])))
    time.sleep(2)  # the duration passes without a controller
    with running_service(Ledger(url, "pair")) as service:
        app = create_app(service, qos=offer)
        app.state.qos_sessions.load()
        with serving(app) as client:
            assert client.get(f"{QOD}/sessions/{stays['sessionId']}").json()["qosStatus"] == "AVAILABLE"
            wait_until(lambda: len(sink.events_of(ends["sessionId"])) == 2)
    assert sink.events_of(ends["sessionId"])[1].body["data"]["statusInfo"] == "DURATION_EXPIRED"
    offer.delivery.stop()


def test_a_file_of_profiles_is_read_or_its_mistakes_are_told(tmp_path: Path) -> None:
    file = tmp_path / "profiles.yaml"
    file.write_text("- {name: voice, targetMinUpstreamRate: {value: 100, unit: kbps}, protocol: udp}\n")
    (voice,) = load_profiles(file)
    assert (voice.name, voice.flows("edge1", "cloud", None, 7)[0].requirement.min_bandwidth_bps) == ("voice", 100_000)
    file.write_text("- {name: voice}\n- {name: data, targetMinUpstreamRate: {value: 100, unit: furlongs}}\n")
    with pytest.raises(StartError) as error:
        load_profiles(file)
    assert "0: it needs targetMinUpstreamRate or targetMinDownstreamRate" in error.value.detail.replace("it is ", "")
    assert "1.targetMinUpstreamRate.unit" in error.value.detail
