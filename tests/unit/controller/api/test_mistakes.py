"""Mistakes of request bodies: every sentence has the value and what would be right, in words of our own."""

from __future__ import annotations

from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import TypeAdapter, ValidationError
from starlette.routing import Mount

from controller.api.app import create_app
from controller.api.schemas.mistakes import mistakes_of
from controller.api.schemas.patterns import RULES
from controller.api.schemas.requests import QuoteRequest, ReservationRequest
from controller.storage.ledger import IN_MEMORY, Ledger
from tests.unit.controller.simulated_switches import running_service

MATCH = {"protocol": "tcp", "source_port": 1, "destination_port": 2}
RATE = {"min_bandwidth_bps": 1_000_000}


def flow(**changes: Any) -> dict[str, Any]:
    return {"name": "f", "source": "a", "destination": "b", "match": MATCH, "requirement": RATE, **changes}


def mistakes(kind: Any, body: Any) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        TypeAdapter(kind).validate_python(body)
    found = [{**error, "loc": ("body", *error["loc"])} for error in caught.value.errors()]
    return {mistake["place"]: mistake["message"] for mistake in mistakes_of(found)}


@pytest.mark.parametrize(("body", "place", "message"), [
    ([], "body", "it is []; it must be an object"),
    ([1, 2], "body", "it is a list of 2; it must be an object"),
    ({}, "body.flows", "it is missing"),
    ({"flows": []}, "body.flows", "it is []; it must have at least 1 entry"),
    ({"flows": {"a": 1}}, "body.flows", "it is an object; it must be a list"),
    ({"flows": [flow()], "lease_s": -1}, "body.lease_s", "it is -1; it must be at least 0.001"),
    ({"flows": [flow()], "lease_s": "60"}, "body.lease_s", 'it is "60"; give a number, not a string or a boolean'),
    ({"flows": [flow()], "hold": 1}, "body.hold", "it is 1; it must be true or false"),
    ({"flows": [flow()], "owner": ""}, "body.owner", 'it is ""; it must have at least 1 character'),
    ({"flows": [flow()], "colour": "red"}, "body.colour", "there is no field of this name"),
    ({"flows": [flow(name="ä")]}, "body.flows.0.name",
     'it is "ä"; a name has letters, digits and _ . : @ -, with spaces only between them'),
    ({"flows": [flow(match={**MATCH, "protocol": "sctp"})]}, "body.flows.0.match.protocol",
     "it is \"sctp\"; it must be 'tcp' or 'udp'"),
    ({"flows": [flow(match={**MATCH, "source_port": 70_000})]}, "body.flows.0.match.source_port",
     "it is 70000; it must be at most 65535"),
    ({"flows": [flow(requirement={"min_bandwidth_bps": 1.5e6 + 0.5})]}, "body.flows.0.requirement.min_bandwidth_bps",
     "it is 1500000.5; it must be a whole number"),
    ({"flows": [flow(requirement={"min_bandwidth_bps": 2 * 10**12})]}, "body.flows.0.requirement.min_bandwidth_bps",
     "it is 2000000000000; it must be at most 1000000000000"),
    ({"flows": [flow()], "start_at": "soon"}, "body.start_at",
     'it is "soon"; give an RFC 3339 timestamp with a time zone, for example "2026-01-01T09:30:00Z"'),
    ({"flows": [flow(destination="a")]}, "body.flows.0.destination", "source and destination are both a"),
])  # fmt: skip
def test_a_mistake_has_the_value_and_what_would_be_right(body: Any, place: str, message: str) -> None:
    assert mistakes(ReservationRequest, body)[place] == message


def test_the_fields_of_a_quote_have_their_own_names() -> None:
    transfer = {"name": "x", "source": "a", "destination": "b", "transfer_bytes": 0}
    assert mistakes(QuoteRequest, {"transfers": [transfer]}) == {
        "body.transfers.0.transfer_bytes": "it is 0; it must be at least 1"}


def test_a_body_that_is_no_json_says_where() -> None:
    error = {"type": "json_invalid", "loc": ("body", 14), "msg": "JSON decode error", "input": {},
             "ctx": {"error": "Expecting value"}}
    assert mistakes_of([error]) == [{"place": "body", "message": "it is not JSON at character 15: expecting value"}]


def test_every_pattern_of_the_api_is_explained_in_words() -> None:
    with running_service(Ledger(IN_MEMORY, "pair")) as service:
        app = create_app(service)
        mounted = [route.app for route in app.routes if isinstance(route, Mount)]
        documents = [each.openapi() for each in (app, *mounted) if isinstance(each, FastAPI)]
    found: set[str] = set()

    def search(part: object) -> None:
        if isinstance(part, dict):
            found.update({part["pattern"]} if isinstance(part.get("pattern"), str) else ())
            for value in part.values():
                search(value)
        elif isinstance(part, list):
            for value in part:
                search(value)

    assert len(documents) == 4
    search(documents)
    explained_elsewhere = {r"^\d{1,5}-\d{1,5}$"}  # ports_from_text
    assert found - explained_elsewhere == RULES.keys()
