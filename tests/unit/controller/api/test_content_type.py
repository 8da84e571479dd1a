"""A body is read as JSON whatever type it is sent with, except from web pages of another origin."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest

from controller.api.app import create_app
from controller.security.access import Quota, Scope
from controller.security.tokens import TokenStore
from controller.storage.ledger import IN_MEMORY, Ledger
from machine.polling import wait_until
from tests.unit.controller.api.test_rest_api import flow, problem
from tests.unit.controller.simulated_switches import running_service, serving

BODY = json.dumps({"flows": [flow()]})
FORM = {"content-type": "application/x-www-form-urlencoded"}
"""What `curl -d` sends."""


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with running_service(Ledger(IN_MEMORY, "pair")) as service, serving(create_app(service)) as client:
        yield client


@pytest.mark.parametrize("headers", [{}, FORM, {"content-type": "text/plain; charset=utf-8"},
                                     {"content-type": "application/json; charset=utf-8"},
                                     FORM | {"idempotency-key": "round-7"}])
def test_json_is_accepted_whatever_type_it_is_sent_with(client: httpx.Client, headers: dict[str, str]) -> None:
    made = client.post("/v1/reservations", content=BODY, headers=headers)
    assert made.status_code == 201, made.text
    changed = client.patch(f"/v1/reservations/{made.json()['id']}", content='{"lease_s": 30}', headers=headers)
    assert changed.status_code == 200, changed.text
    quoted = client.post("/v1/quotes", content=BODY.replace("7801", "7811"), headers=headers)
    assert quoted.status_code == 200, quoted.text


def test_a_form_is_refused_as_invalid_json(client: httpx.Client) -> None:
    body = problem(client.post("/v1/reservations", content="owner=me", headers=FORM), 422, "invalid_request")
    assert "JSON" in body["detail"]


@pytest.mark.parametrize(
    "sender",
    [
        {"origin": "http://example.org"},
        {"origin": "null"},
        {"sec-fetch-site": "cross-site"},
        {"origin": "http://example.org", "sec-fetch-site": "same-site"},
    ],
)
def test_a_page_of_another_origin_must_declare_json_and_have_a_token(sender: dict[str, str]) -> None:
    with (
        closing(TokenStore(IN_MEMORY)) as tokens,
        running_service(Ledger(IN_MEMORY, "pair")) as service,
        serving(create_app(service, tokens=tokens)) as client,
    ):
        problem(client.post("/v1/reservations", content=BODY, headers=sender), 403, "cross_origin")
        secret = tokens.add("page", "page", frozenset({Scope.RESERVE}), Quota())
        client.headers["Authorization"] = f"Bearer {secret}"
        wait_until(lambda: client.get("/v1/reservations", headers=sender).status_code == 200)
        for headers in ({}, FORM, {"content-type": "text/plain"}):
            answer = client.post("/v1/reservations", content=BODY, headers=headers | sender)
            problem(answer, 415, "unsupported_media_type")
        assert client.get("/v1/reservations").json() == {"reservations": []}


def test_the_page_at_docs_may_send_what_it_likes(client: httpx.Client) -> None:
    same = {"origin": str(client.base_url).rstrip("/"), "sec-fetch-site": "same-origin"}
    assert client.post("/v1/reservations", content=BODY, headers=FORM | same).status_code == 201
