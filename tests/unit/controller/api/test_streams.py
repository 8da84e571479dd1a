"""/v1/streams: requests in terms of IEEE 802.1Qcc, with and without a time-aware talker."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from controller.api.app import create_app
from controller.api.routes.streams import EXAMPLE
from controller.api.schemas.stream_bodies import StreamBody
from controller.domain.network import network_from_map
from controller.errors import InvalidRequest
from controller.storage.ledger import Ledger
from controller.tsn.network import tsn_network_from_map
from controller.tsn.simulation import simulate
from tests.unit.controller.simulated_switches import PAIR, running_service, serving
from topologies.map_file.loader import load_map

pytestmark = pytest.mark.usefixtures("nothing_reserved")


def stream(number: int = 1, time_aware: bool = True, **requirements: Any) -> dict[str, Any]:
    body = deepcopy(EXAMPLE)
    body["StreamID"]["UniqueID"] = number
    talker = body["Talker"]
    talker["DataFrameSpecification"]["IPv4-tuple"]["SourcePort"] = 7800 + number
    if not time_aware:
        del talker["TrafficSpecification"]["TSpecTimeAware"]
    talker["UserToNetworkRequirements"] |= requirements
    return body


def identity(number: int) -> str:
    return f"02-00-00-00-00-01:00-{number:02X}"


def test_without_a_time_aware_talker_the_latency_is_the_proven_bound(client: httpx.Client) -> None:
    answer = client.post("/v1/streams", json=stream(time_aware=False))
    assert answer.status_code == 201, answer.text
    body = answer.json()
    assert body["StreamID"] == identity(1)
    assert body["StatusInfo"] == {"TalkerStatus": "Ready", "ListenerStatus": "Ready", "FailureCode": 0}
    assert body["AccumulatedLatency"] == body["FallbackLatency"] > 0
    assert (body["scheduled"], body["InterfaceConfiguration"][0]["TimeAwareOffset"]) == (False, None)
    (flow,) = client.get(f"/v1/reservations/{body['reservation']}").json()["flows"]
    assert (flow["name"], flow["requirement"]["burst_bytes"]) == (identity(1), 214)
    assert flow["requirement"]["min_bandwidth_bps"] == 214 * 8 * 50
    assert flow["requirement"]["max_latency_us"] == 20_000
    assert flow["accumulated_latency_us"] * 1000 == pytest.approx(body["AccumulatedLatency"], abs=100)


def test_time_aware_talkers_get_instants_that_a_simulation_of_the_gates_confirms(client: httpx.Client) -> None:
    answers = [client.post("/v1/streams", json=stream(number)).json() for number in (1, 2, 3)]
    offsets = [answer["InterfaceConfiguration"][0]["TimeAwareOffset"] for answer in answers]
    assert len(set(offsets)) == 3
    assert all(answer["scheduled"] and answer["AccumulatedLatency"] <= 20_000_000 for answer in answers)
    gates = client.get("/v1/gates").json()
    result = simulate(tsn_network_from_map(PAIR, 1_000_000, 1000), gates)
    assert (len(gates["streams"]), result.lost, result.late, result.jitter_ns) == (3, 0, 0, 0)
    assert any("dev edge1-eth1 " in line for line in gates["taprio"])
    assert [found["StreamID"] for found in client.get("/v1/streams").json()["streams"]] == [*map(identity, (1, 2, 3))]


def test_a_stream_that_ends_frees_its_instant_and_moves_no_other(client: httpx.Client) -> None:
    first, second = (client.post("/v1/streams", json=stream(number)).json() for number in (1, 2))
    released = client.delete(f"/v1/streams/{identity(1)}")
    assert (released.status_code, released.json()["StatusInfo"]["TalkerStatus"]) == (200, "None")
    assert client.get(f"/v1/streams/{identity(1)}").status_code == 404
    assert client.get(f"/v1/streams/{identity(2)}").json() == second
    again = client.post("/v1/streams", json=stream(3)).json()
    assert again["InterfaceConfiguration"] == first["InterfaceConfiguration"]


def test_a_reservation_that_ends_takes_its_stream_along(client: httpx.Client) -> None:
    body = client.post("/v1/streams", json=stream()).json()
    client.delete(f"/v1/reservations/{body['reservation']}")
    assert client.get("/v1/streams").json() == {"streams": []}
    assert client.post("/v1/streams", json=stream()).status_code == 201


def failed(answer: httpx.Response, code: str, failure: int) -> dict[str, Any]:
    assert answer.status_code == 409, answer.text
    body: dict[str, Any] = answer.json()
    assert (body["code"], body["StatusInfo"]["FailureCode"]) == (code, failure)
    assert body["StatusInfo"]["TalkerStatus"] == "Failed"
    return body


def test_refusals_have_the_failure_code_and_keep_nothing(client: httpx.Client) -> None:
    failed(client.post("/v1/streams", json=stream(time_aware=False, MaxLatency=1000)), "latency_not_met", 21)
    big = stream(time_aware=False, MaxLatency=0)
    big["Talker"]["TrafficSpecification"] |= {"MaxFramesPerInterval": 64, "MaxFrameSize": 1486}
    big["Talker"]["TrafficSpecification"]["Interval"] = {"Numerator": 1, "Denominator": 1000}
    body = failed(client.post("/v1/streams", json=big), "no_capacity", 1)
    (interface,) = body["FailedInterfaces"]
    assert interface["InterfaceName"] == "edge1-eth1"
    failed(client.post("/v1/streams", json=stream(MaxLatency=100_000)), "no_schedule", 21)
    failed(client.post("/v1/streams", json=stream(time_aware=False, NumSeamlessTrees=2)), "no_disjoint_path", 1)
    assert client.get("/v1/streams").json() == {"streams": []}
    assert client.get("/v1/reservations?state=active").json()["reservations"] == []
    client.post("/v1/streams", json=stream())
    failed(client.post("/v1/streams", json=stream()), "stream_in_use", 4)


@pytest.mark.parametrize(
    ("path", "value", "place"),
    [
        (("Talker", "TrafficSpecification", "Interval"), {"Numerator": 1, "Denominator": 3}, "Interval"),
        (("Talker", "TrafficSpecification", "TSpecTimeAware", "LatestTransmitOffset"), 20_000_000, "TSpecTimeAware"),
        (("Talker", "EndStationInterfaces"), [{"InterfaceName": "edge9"}], "EndStationInterfaces.0"),
        (("Talker", "DataFrameSpecification", "IPv4-tuple", "Protocol"), 1, "Protocol"),
        (("Talker", "DataFrameSpecification", "IPv4-tuple", "SourceIpAddress"), "10.9.9.9", "SourceIpAddress"),
        (("Talker", "UserToNetworkRequirements", "NumSeamlessTrees"), 2, "NumSeamlessTrees"),
        (("Talker", "UserToNetworkRequirements", "NumSeamlessTrees"), True, "NumSeamlessTrees"),
        (("Talker", "TrafficSpecification", "TransmissionSelection"), False, "TransmissionSelection"),
        (("Listeners",), [{"EndStationInterfaces": [{"InterfaceName": "edge1"}]}], "Listeners.0"),
    ],
)
def test_what_is_not_possible_is_told_with_its_place(
    client: httpx.Client, path: tuple[str, ...], value: Any, place: str
) -> None:
    body = stream()
    within = body
    for name in path[:-1]:
        within = within[name]
    within[path[-1]] = value
    answer = client.post("/v1/streams", json=body)
    assert answer.status_code == 422, answer.text
    assert any(place in mistake["place"] for mistake in answer.json()["mistakes"])


def test_streams_and_their_instants_survive_a_restart(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    with running_service(Ledger(url, "pair")) as running, serving(create_app(running)) as client:
        before = client.post("/v1/streams", json=stream()).json()
    with running_service(Ledger(url, "pair")) as running, serving(create_app(running)) as client:
        after = client.get(f"/v1/streams/{identity(1)}").json()
        assert after["InterfaceConfiguration"] == before["InterfaceConfiguration"]
        assert after["scheduled"]
        failed(client.post("/v1/streams", json=stream()), "stream_in_use", 4)


def test_the_shapers_of_the_map_are_those_of_the_stream() -> None:
    """A talker behind a credit-based shaper says 1 or nothing; a schedule needs strict priority alone."""
    spans = load_map("pair").links
    shaped = network_from_map(replace(load_map("pair"), links=tuple(replace(k, idle_slope_gbps=50.0) for k in spans)))
    plain = stream(time_aware=False)
    for selection, networks in ((0, [PAIR]), (1, [shaped]), (None, [PAIR, shaped])):
        plain["Talker"]["TrafficSpecification"]["TransmissionSelection"] = selection
        body = StreamBody.model_validate(plain)
        for network in (PAIR, shaped):
            if network in networks:
                body.to_request(network)
            else:
                with pytest.raises(InvalidRequest, match="selects frames by"):
                    body.to_request(network)
    for network in (shaped, network_from_map(replace(load_map("pair"), ats=True))):
        with pytest.raises(InvalidRequest, match="TSpecTimeAware: ports of this map have shapers"):
            StreamBody.model_validate(stream()).to_request(network)
