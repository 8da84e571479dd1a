"""Loaded by schemathesis: requests that match the OpenAPI document may be rejected only for rules it cannot express."""

from __future__ import annotations

from typing import TYPE_CHECKING

import schemathesis

if TYPE_CHECKING:
    from schemathesis.specs.openapi.schemas import OpenApiCase  # defined for type checkers only

NOT_IN_SCHEMA = (
    "names of flows must be unique",
    "names of transfers must be unique",
    "another flow than ",
    "source and destination are both ",
    "an offset needs a period",
    "a backup needs protection",
    "it must not be longer than the period",
    "it must be shorter than the period",
    "it must be later than start_at",
    "more than 0.25 s after its start",
    "the calendar ends at ",
    "it has passed",
    "there is no such time",
    "give an RFC 3339 timestamp",
    "it must be an interface of a host",
    "it must be a whole number of ns",
    "LatestTransmitOffset must be from",
    "it must be less than half of the interval",
    "a schedule has one path",
    "talker and listener are both ",
    "the address of ",
    " selects frames by ",
    "there is no app-flow ",
    "its hosts are ",
    "it needs port, or lower-port and upper-port",
    "there is no port",
    "it needs a min-bandwidth above 0",
    "what it names is no traffic-profile",
)
"""Messages of rules that concern several fields or the present time."""

NOT_IN_CAMARA = (
    "There is no QoS profile",
    "There is no IPv4 address",
    "one port or one range is supported",
    "has no port",
    "serviceArea.areaName is missing",
    "there is no such time",
    "give an RFC 3339 timestamp",
)
"""The same, of the APIs of CAMARA."""

RANGE_OF_PORTS = " is not a range of ports; it must go from a lower to a higher one of "
"""After the value."""


@schemathesis.check
def rejected_for_documented_reason(
    ctx: schemathesis.CheckContext,  # noqa: ARG001 - required by schemathesis
    response: schemathesis.Response,
    case: OpenApiCase,
) -> None:
    """Replaces positive_data_acceptance, which reports every 422 as an error of the service."""
    is_valid = case.meta is not None and case.meta.generation.mode.is_positive
    if response.status_code not in (400, 422) or not is_valid:
        return
    problem = response.json()
    if "message" in problem:  # an error of CAMARA, which has a code for what only the service can know
        is_known = problem["code"] != "INVALID_ARGUMENT" or any(words in problem["message"] for words in NOT_IN_CAMARA)
        assert is_known, f"allowed by the OpenAPI document, rejected by the service: {problem}"
        return
    if problem["code"] in ("unknown_host", "idempotency_key_reused"):
        return
    unexpected = [
        mistake["message"]
        for mistake in problem["mistakes"]
        if not any(words in mistake["message"] for words in (*NOT_IN_SCHEMA, RANGE_OF_PORTS))
    ]
    assert not unexpected, f"allowed by the OpenAPI document, rejected by the service: {unexpected}"
