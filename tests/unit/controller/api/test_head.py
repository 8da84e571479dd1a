"""HEAD wherever GET is."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from controller.api.app import create_app
from controller.storage.ledger import IN_MEMORY, Ledger
from tests.unit.controller.simulated_switches import running_service, serving

OF_THE_MOMENT = {"date"}


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with running_service(Ledger(IN_MEMORY, "pair")) as service, serving(create_app(service)) as client:
        yield client


@pytest.mark.parametrize(
    "path",
    ["/", "/docs", "/v1/healthz", "/v1/network", "/v1/reservations", "/v1/reservations/none", "/v1/nothing",
     "/v1/quotes", "/qos-profiles/v1.1/qos-profiles/none"],
)
def test_head_has_the_head_of_get_and_no_content(client: httpx.Client, path: str) -> None:
    got, head = client.get(path), client.head(path)
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert {name: value for name, value in head.headers.items() if name not in OF_THE_MOMENT} == {
        name: value for name, value in got.headers.items() if name not in OF_THE_MOMENT
    }


def test_head_of_a_stream_ends(client: httpx.Client) -> None:
    head = client.head("/v1/events")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"].startswith("text/event-stream")
    assert client.get("/v1/healthz").status_code == 200


def test_requests_are_counted_with_their_route_and_own_method(client: httpx.Client) -> None:
    client.head("/v1/network")
    client.post("/v1/reservations", content="{}", headers={"content-type": "text/plain"})
    metrics = client.get("/metrics").text
    assert 'method="HEAD",route="/v1/network"' in metrics
    assert 'method="POST",route="/v1/reservations"' in metrics
    assert 'method="POST",route="none"' not in metrics
