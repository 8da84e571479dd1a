"""Quantities of the command line in their base units."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import click
import pytest

from trainer.cli.flow_options import as_options, mistake_of, option_of, request_of
from trainer.cli.quantities import DURATION_S, INSTANT, OFFSET_US, PORTS, RATE, SIZE, TIME_US
from trainer.errors import UsageError


@pytest.mark.parametrize(("kind", "text", "value"), [
    (RATE, "20M", 20_000_000),
    (RATE, "1.5G", 1_500_000_000),
    (RATE, "64 kbit/s", 64_000),
    (RATE, "100Mb/s", 100_000_000),
    (RATE, "2.5Mbps", 2_500_000),
    (RATE, "15000000", 15_000_000),
    (SIZE, "200kB", 200_000),
    (SIZE, "1.1MB", 1_100_000),
    (SIZE, "64KiB", 65_536),
    (SIZE, "45000", 45_000),
    (TIME_US, "45ms", 45_000.0),
    (TIME_US, "250us", 250.0),
    (TIME_US, "250µs", 250.0),
    (TIME_US, "1.5s", 1_500_000.0),
    (OFFSET_US, "0s", 0.0),
    (OFFSET_US, "0.5ms", 500.0),
    (DURATION_S, "90", 90.0),
    (DURATION_S, "10min", 600.0),
    (PORTS, "7801", 7801),
    (PORTS, "49152-65535", "49152-65535"),
    (INSTANT, "2027-01-31T18:00:00+00:00", "2027-01-31T18:00:00+00:00"),
])  # fmt: skip
def test_a_quantity_is_read_in_its_base_unit(kind: Any, text: str, value: object) -> None:
    read = kind.convert(text, None, None)
    assert (read, type(read)) == (value, type(value))


def test_a_time_may_be_given_from_now_on() -> None:
    before = datetime.now(UTC)
    moment = datetime.fromisoformat(INSTANT.convert("+10min", None, None))
    assert before <= moment - timedelta(minutes=10) <= datetime.now(UTC)


@pytest.mark.parametrize(("kind", "text", "words"), [
    (RATE, "", "'' is not a rate; write for example 20M"),
    (RATE, "20x", "'x' is no unit of a rate"),
    (RATE, "-1M", "is not a rate"),
    (RATE, "0M", "is not a rate above 0"),
    (RATE, "nan", "is not a rate"),
    (RATE, "1e6", "'e6' is no unit of a rate"),
    (SIZE, "0.5", "'0.5' is not a whole number of bytes"),
    (TIME_US, "45", "the unit is missing; write for example 45ms"),
    (PORTS, "0", "is not a port of 1 to 65535"),
    (PORTS, "http", "is not a port of 1 to 65535"),
    (INSTANT, "2027-01-31T18:00:00", "is not a time with its zone"),
    (INSTANT, "+soon", "'soon' is not a time"),
    (INSTANT, "+99999999999h", "lies beyond all calendars"),
    (RATE, 31 * "9", "is not a rate"),
    (TIME_US, f"{400 * '9'}s", "is not a time"),
    (SIZE, 5000 * "9", "is not a size"),
    (TIME_US, "0ms", "is not a time above 0"),
])  # fmt: skip
def test_what_is_no_quantity_is_named_with_an_example(kind: Any, text: str, words: str) -> None:
    with pytest.raises(click.BadParameter, match=words.replace("+", r"\+")):
        kind.convert(text, None, None)


def test_an_offer_is_written_as_options_that_give_it_exactly() -> None:
    requirement = {
        "min_bandwidth_bps": 60_123_456, "burst_bytes": 150_307, "max_latency_us": 45_400.1, "rank": 3,
        "protection": "link_disjoint",
    }  # fmt: skip
    text = as_options(requirement)
    assert text == "--rate 60.123456M --burst 150.307kB --latency 45.4001ms --rank 3 --protection link_disjoint"
    options = dict(zip(*[iter(text.split())] * 2, strict=True))
    assert RATE.convert(options["--rate"], None, None) == requirement["min_bandwidth_bps"]
    assert SIZE.convert(options["--burst"], None, None) == requirement["burst_bytes"]
    assert TIME_US.convert(options["--latency"], None, None) == requirement["max_latency_us"]


@pytest.mark.parametrize(("place", "option"), [
    ("body.flows.0.requirement.min_bandwidth_bps", "--rate, in bit/s"),
    ("body.flows.0.requirement.deadline_ms", "--deadline, in milliseconds"),
    ("body.flows.0.match.source_port", "--source-port"),
    ("body.flows.0.destination", "DESTINATION"),
    ("body.lease_s", "--lease, in seconds"),
    ("query.after", "--after"),
    ("body.transfers.0.transfer_bytes", "--volume"),
    ("body.something", "body.something"),
])  # fmt: skip
def test_the_command_line_names_the_option_of_a_field(place: str, option: str) -> None:
    assert option_of(place) == option


@pytest.mark.parametrize(("place", "message", "sentence"), [
    ("body.flows.0.requirement.offset_ms", "it is 5.0; an offset needs a period; give period_ms or leave it out",
     "--offset, in milliseconds: it is 5.0; an offset needs --period."),
    ("body.end_at", "it must be later than start_at", "--end: it must be later than --start."),
    ("body.flows.0.requirement.analysis", "there is no field of this name",
     "--analysis: it does not apply to this kind of requirement."),
    ("header.last-event-id", 'it is "x"', '--after: it is "x".'),
])  # fmt: skip
def test_a_mistake_names_options_instead_of_fields(place: str, message: str, sentence: str) -> None:
    assert mistake_of(place, message) == sentence


@pytest.mark.parametrize(("options", "words"), [
    ({}, "Give either --rate"),
    ({"rate": 1, "transfer": 1, "deadline": 1}, "Give either --rate"),
    ({"transfer": 1}, "--transfer with --deadline"),
    ({"rate": 1, "deadline": 1}, "--deadline needs --transfer"),
    ({"rate": 1, "period": 1}, "--period belongs to --transfer"),
    ({"rate": 1, "offset": 0.0}, "--offset belongs to --transfer"),
    ({"transfer": 1, "deadline": 1, "analysis": "total_flow"}, "--analysis belongs to --rate"),
])  # fmt: skip
def test_options_of_the_other_kind_of_requirement_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        request_of("edge1", "cloud", options)
