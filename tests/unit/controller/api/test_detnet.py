"""/v1/detnet: documents of RFC 9633 as reservations, and back."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import httpx
import pytest

from controller.api.schemas.detnet_document import EXAMPLE

pytestmark = pytest.mark.usefixtures("nothing_reserved")

Json = dict[str, Any]


def document() -> Json:
    made: Json = deepcopy(EXAMPLE)
    made["ietf-detnet:detnet"]["app-flows"]["app-flow"][0]["ingress"]["ip-app-flow"]["dest-ip-prefix"] = "10.0.0.3/32"
    return made


def flow_of(made: Json) -> Json:
    found: Json = made["ietf-detnet:detnet"]["app-flows"]["app-flow"][0]
    return found


def test_a_document_is_a_reservation(client: httpx.Client) -> None:
    answer = client.post("/v1/detnet", json=document())
    assert answer.status_code == 201, answer.text
    reservation = client.get(answer.headers["location"]).json()
    (flow,) = reservation["flows"]
    requirement = flow["requirement"]
    assert (reservation["owner"], flow["name"], flow["source"], flow["destination"]) == (
        "detnet", "camera", "edge1", "cloud",
    )  # fmt: skip
    assert flow["match"] == {"protocol": "udp", "source_port": 7811, "destination_port": 7810}
    assert (requirement["min_bandwidth_bps"], requirement["burst_bytes"]) == (1_000_000, 2 * 1014)
    assert (requirement["max_latency_us"], requirement["rank"]) == (40_000, 64)
    told = flow_of(answer.json())
    assert told["name"] == f"{reservation['id']}/camera"
    assert told["ingress"]["app-flow-status"] == "ietf-detnet:ready"


def test_what_is_told_can_be_posted_and_is_the_same_again(client: httpx.Client) -> None:
    """Also of a reservation that was made otherwise, with a range of ports, and over both paths."""
    body = {"flows": [{
        "name": "wide", "source": "edge1", "destination": "cloud",
        "match": {"protocol": "tcp", "source_port": "49152-65535", "destination_port": None},
        "requirement": {"min_bandwidth_bps": 3_000_000, "burst_bytes": 45_070, "max_latency_us": 90_000, "rank": 3},
    }], "lease_s": 60}  # fmt: skip
    made = client.post("/v1/reservations", json=body)
    assert made.status_code == 201, made.text
    told = client.get("/v1/detnet").json()
    client.delete(f"/v1/reservations/{made.json()['id']}")
    again = client.post("/v1/detnet", json=told)
    assert again.status_code == 201, again.text

    def facts(found: Json) -> Json:
        """Without what has the id of the reservation."""
        inner = found["ietf-detnet:detnet"]
        (profile,), (flow,), (service,) = (
            inner["traffic-profile"], inner["app-flows"]["app-flow"], inner["service"]["sub-layer"],
        )  # fmt: skip
        return {"needs": profile["traffic-requirements"], "spec": profile["traffic-spec"],
                "header": flow["ingress"]["ip-app-flow"], "rank": service["service-rank"]}  # fmt: skip

    assert facts(again.json()) == facts(told)
    assert facts(told)["needs"] == {"min-bandwidth": "375000", "max-latency": 90_000_000}
    assert facts(told)["header"]["source-port"] == {"lower-port": 49152, "upper-port": 65535}
    assert facts(told)["spec"]["max-pkts-per-interval"] == 5


def test_without_flows_the_document_is_empty(client: httpx.Client) -> None:
    inner = client.get("/v1/detnet").json()["ietf-detnet:detnet"]
    assert inner == {"traffic-profile": [], "app-flows": {"app-flow": []}, "service": {"sub-layer": []}}


@pytest.mark.parametrize(
    ("change", "place", "words"),
    [
        (lambda m: flow_of(m)["ingress"]["ip-app-flow"].update({"src-ip-prefix": "10.9.9.9/32"}),
         "app-flow.0.ingress.ip-app-flow.src-ip-prefix", "no host of map pair"),
        (lambda m: flow_of(m)["ingress"]["ip-app-flow"].update({"src-ip-prefix": "10.0.0.0/24"}),
         "app-flow.0.ingress.ip-app-flow.src-ip-prefix", "no host of map pair"),
        (lambda m: flow_of(m)["ingress"]["ip-app-flow"].update({"dest-ip-prefix": "10.0.0.1/32"}),
         "app-flow.0.destination", "are both edge1"),
        (lambda m: flow_of(m).update({"traffic-profile": "other"}),
         "app-flow.0.traffic-profile", "no traffic-profile: other"),
        (lambda m: flow_of(m).update({"bidir-congruent": True}), "bidir-congruent", "it must be"),
        (lambda m: (m["ietf-detnet:detnet"].pop("service"), flow_of(m).update({"name": "a/(b)"})),
         "app-flow.0.name", "a name has letters"),
        (lambda m: flow_of(m)["ingress"]["ip-app-flow"].update({"source-port": {"lower-port": 3}}),
         "source-port", "lower-port and upper-port"),
        (lambda m: m["ietf-detnet:detnet"]["traffic-profile"][0]["traffic-requirements"].update({"max-loss": "0.1"}),
         "max-loss", "there is no field of this name"),
        (lambda m: m["ietf-detnet:detnet"]["traffic-profile"].__setitem__(0, {"name": "control"}),
         "traffic-profile.0", "min-bandwidth above 0"),
        (lambda m: m["ietf-detnet:detnet"]["service"]["sub-layer"][0]["incoming"]["app-flow"].update({"flow": ["x"]}),
         "sub-layer.0.incoming.app-flow.flow", "there is no app-flow x"),
        (lambda m: m["ietf-detnet:detnet"].update({"forwarding": {}}), "forwarding", "there is no field"),
    ],
)  # fmt: skip
def test_what_does_not_map_is_named(client: httpx.Client, change: Any, place: str, words: str) -> None:
    made = document()
    change(made)
    answer = client.post("/v1/detnet", json=made)
    assert answer.status_code == 422, answer.text
    mistakes = answer.json()["mistakes"]
    assert any(place in mistake["place"] and words in mistake["message"] for mistake in mistakes), mistakes
    assert client.get("/v1/reservations").json()["reservations"] == [] or all(
        each["state"] == "released" for each in client.get("/v1/reservations").json()["reservations"]
    )


def test_a_limit_that_cannot_be_proven_is_refused(client: httpx.Client) -> None:
    made = document()
    made["ietf-detnet:detnet"]["traffic-profile"][0]["traffic-requirements"]["max-latency"] = 1000
    answer = client.post("/v1/detnet", json=made)
    assert (answer.status_code, answer.json()["code"]) == (409, "latency_not_met")


def test_replication_needs_two_paths(client: httpx.Client) -> None:
    made = document()
    made["ietf-detnet:detnet"]["service"]["sub-layer"][0]["service-protection"] = {"protection": "replication"}
    answer = client.post("/v1/detnet", json=made)
    assert (answer.status_code, answer.json()["code"]) == (409, "no_disjoint_path")
