"""Loaded by schemathesis: is what keeps to the description refused for a reason that no description can hold?"""

from __future__ import annotations

from typing import TYPE_CHECKING

import schemathesis

if TYPE_CHECKING:
    from schemathesis.specs.openapi.schemas import OpenApiCase  # defined for type checkers only

BEYOND_A_SCHEMA = (
    "each flow needs a name of its own",
    "each needs a name of its own",
    "another flow than ",
    "source and destination are both ",
    "an offset needs a period",
    "there is none without protection",
    "it must not be longer than the period",
    "it must be shorter than the period",
    "it must be later than start_at",
    "the calendar ends at ",
    "it has passed",
    "Input should be a valid datetime",
    "write a moment as RFC 3339",
)
"""What one field says about another, or about the time it is."""


@schemathesis.check
def refused_with_good_reason(
    ctx: schemathesis.CheckContext,  # noqa: ARG001 - schemathesis hands it over
    response: schemathesis.Response,
    case: OpenApiCase,
) -> None:
    """The built-in positive_data_acceptance takes every 422 for a mistake of the service."""
    keeps_to_it = case.meta is not None and case.meta.generation.mode.is_positive
    if response.status_code != 422 or not keeps_to_it:
        return
    problem = response.json()
    if problem["code"] in ("unknown_host", "idempotency_key_reused"):
        return
    unfounded = [
        mistake["message"]
        for mistake in problem["mistakes"]
        if not mistake["message"].startswith(BEYOND_A_SCHEMA)
    ]
    assert not unfounded, f"the description allows it, the service does not: {unfounded}"
