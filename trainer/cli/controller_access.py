"""What the commands for a controller share: --controller, --json, and the connection."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trainer.cli.flow_options import mistake_of
from trainer.errors import NetworkError, ReservationRefusedError, UsageError

if TYPE_CHECKING:
    from trainer.reservation.controller_client import ControllerClient

UNAUTHORIZED = 401
"""HTTP status of a request without a valid token."""

F = TypeVar("F", bound=Callable[..., Any])

INVALID = 422
"""HTTP status of a request with an invalid value, which the command line treats as a usage error."""


def controller_option(command: F) -> F:
    """Add --controller."""
    text = ("URL of the controller, or of an active one and its standbys: URL,URL.  [default: that of the running "
            "emulation]  PACELINE_TOKEN: bearer token; PACELINE_CA: certificate of its authority.")
    return click.option("--controller", "url", help=text)(command)


def json_option(command: F) -> F:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print the controller's response as JSON.")(command)


@contextlib.contextmanager
def open_controller(url: str | None, as_json: bool = False, from_file: bool = False) -> Iterator[ControllerClient]:
    """Connect to the controller; with `as_json` a refusal is printed, too. `from_file`: the request is the user's own.

    Raises: NetworkError; UsageError if the controller found a value of the request invalid.
    """
    from topologies import running_emulation
    from trainer.reservation.controller_client import ControllerClient

    if url is None:
        running = running_emulation.read()
        if running is None:
            raise NetworkError("No emulation is running on this machine; set --controller URL.")
        url = running.controller_url
    client = ControllerClient(
        url, retries=0, notify=lambda sentence: click.echo(sentence, err=True),
        advice="Start it, or set --controller to the URL of one that runs.",
    )
    try:
        yield client
    except ReservationRefusedError as error:
        if as_json:
            print_json(error.problem)
        if error.problem.get("status") == INVALID:
            raise UsageError(_mistakes_by_place(error) if from_file else _mistakes_by_option(error)) from error
        if error.problem.get("status") == UNAUTHORIZED:
            raise ReservationRefusedError(f"{error} The environment variable PACELINE_TOKEN has it.", error.problem
                                          ) from error
        raise
    finally:
        client.close()


def _mistakes_by_option(error: ReservationRefusedError) -> str:
    """Name the options and arguments in the place of the fields of the REST API."""
    mistakes = error.problem.get("mistakes")
    if not isinstance(mistakes, list) or not mistakes:
        return str(error)
    sentences = dict.fromkeys(mistake_of(str(mistake["place"]), str(mistake["message"])) for mistake in mistakes)
    return "\n  ".join(sentences)


def _mistakes_by_place(error: ReservationRefusedError) -> str:
    """List all mistakes in a file, each with its place."""
    mistakes = error.problem.get("mistakes")
    if not isinstance(mistakes, list) or len(mistakes) < 2:
        return str(error)
    lines = (f"\n  {mistake['place']}: {mistake['message']}" for mistake in mistakes)
    return f"The request is not valid:{''.join(lines)}"


def print_json(content: object) -> None:
    """Print a response as JSON."""
    click.echo(json.dumps(content, indent=2))


def print_reservation(reservation: dict[str, Any]) -> None:
    """Print a reservation and its flows."""
    click.echo(f"{reservation['id']}  {reservation['state']}  owner {reservation['owner']}  "
               f"version {reservation['version']}  until {reservation['expires_at']}")
    if reservation["reason"]:
        click.echo(f"  {reservation['reason']}")
    for flow in reservation["flows"]:
        print_flow(flow)


def print_flow(flow: dict[str, Any]) -> None:
    """Print path, rate and bounds of a flow."""
    facts = [f"{flow['reserved_bps'] / 1e6:.2f} Mb/s", f"latency bound {flow['accumulated_latency_us'] / 1e3:.2f} ms"]
    if flow["requirement"].get("bound_slack") is not None:
        facts[-1] += f" (at most {flow['latency_limit_us'] / 1e3:.2f} ms as promised)"
    facts += [f"complete in {flow['completion_ms']:.1f} ms"] if flow["completion_ms"] is not None else []
    if flow["match"]["protocol"] == "udp" and "max_datagram_bytes" in flow:
        facts.append(f"datagrams up to {flow['max_datagram_bytes']} bytes")
    facts += ["suspended"] if flow["suspended"] else []
    click.echo(f"  {flow['name']:<12} {' > '.join(flow['path'])}  {'  '.join(facts)}")
    if flow["backup_path"]:
        click.echo(f"  {'  backup':<12} {' > '.join(flow['backup_path'])}")
