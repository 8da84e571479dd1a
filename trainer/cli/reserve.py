"""`paceline reserve` and `paceline quote`: ask the controller for a promise, or what it would promise."""

from __future__ import annotations

import json
from typing import IO, Any

import click

from trainer.cli.controller_access import (
    controller_option,
    json_option,
    open_controller,
    print_flow,
    print_json,
    print_reservation,
)
from trainer.cli.flow_options import Json, as_options, flow_options, request_of
from trainer.cli.quantities import SIZE
from trainer.errors import ReservationRefusedError, UsageError

_FILE_HELP = "Request as JSON, as in docs/rest-api.md (- for stdin), instead of SOURCE DESTINATION and their options."


def _file_option(command: Any) -> Any:
    return click.option("--file", "file", type=click.File("r", encoding="utf-8"), help=_FILE_HELP)(command)


@click.command(epilog="Example: paceline reserve edge1 cloud --rate 20M --latency 45ms")
@click.argument("source", required=False)
@click.argument("destination", required=False)
@flow_options
@click.option("--hold", is_flag=True, help="Hold the capacity until `paceline reservations commit`.")
@click.option("--idempotency-key", "key", help="A repetition with the same key gets the first answer again.")
@_file_option
@controller_option
@json_option
def reserve(
    source: str | None, destination: str | None, hold: bool, key: str | None, file: IO[str] | None, url: str | None,
    as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Reserve a rate, or a transfer within a deadline, from SOURCE to DESTINATION."""
    body = _request(source, destination, file, options)
    if hold:
        body["hold"] = True
    with open_controller(url, as_json, from_file=file is not None) as client:
        try:
            content = client.send("POST", "/v1/reservations", body, key=key)
        except ReservationRefusedError as error:
            raise ReservationRefusedError(f"{error}{_advice(error.problem)}", error.problem) from error
    if as_json:
        print_json(content)
    else:
        print_reservation(content)


@click.command(epilog="Example: paceline quote edge1 cloud --rate 20M --latency 45ms")
@click.argument("source", required=False)
@click.argument("destination", required=False)
@flow_options
@click.option("--volume", "volumes", multiple=True, metavar="SOURCE:DESTINATION:SIZE",
              help="Instead: the shortest time for these volumes together, such as edge1:cloud:1MB. Repeatable.")
@click.option("--instead-of", metavar="ID", help="With --volume: count this reservation's bandwidth as free.")
@_file_option
@controller_option
@json_option
def quote(
    source: str | None, destination: str | None, volumes: tuple[str, ...], instead_of: str | None,
    file: IO[str] | None, url: str | None, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Show what `paceline reserve` would get, or the shortest time of volumes; nothing is reserved.

    Exit code 3 if the reservation would be refused.
    """
    if volumes:
        if source is not None or file is not None:
            raise UsageError("Give either --volume, or SOURCE DESTINATION with --rate or --transfer, or --file.")
        if given := [name for name, value in options.items() if value is not None]:
            raise UsageError(f"--volume asks for the shortest time; it takes no --{given[0].replace('_', '-')}.")
        body: Json = {"transfers": [_volume(text) for text in volumes]}
        body |= {"instead_of": instead_of} if instead_of else {}
    else:
        if instead_of is not None:
            raise UsageError("--instead-of belongs to --volume.")
        body = _request(source, destination, file, options)
    with open_controller(url, as_json, from_file=file is not None) as client:
        content = client.send("POST", "/v1/quotes", body)
        if as_json:
            print_json(content)
        elif "transfer_ms" in content:
            _print_volumes(content)
        elif content["admitted"]:
            click.echo("It would be admitted:")
            for flow in content["flows"]:
                print_flow(flow)
    if content.get("admitted") is False:
        raise ReservationRefusedError(f"{content['problem']['detail']}{_advice(content['problem'])}")


def _request(source: str | None, destination: str | None, file: IO[str] | None, options: dict[str, Any]) -> Json:
    """The request of a file, or of the arguments and options."""
    if file is None:
        if source is None or destination is None:
            raise UsageError("Give SOURCE and DESTINATION, such as `edge1 cloud --rate 20M`, or --file.")
        return request_of(source, destination, options)
    if source is not None or any(value is not None for value in options.values()):
        raise UsageError("--file has the whole request; leave out SOURCE, DESTINATION and the flow's options.")
    try:
        content = json.load(file)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{file.name} is not JSON: {error}.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{file.name} has no JSON object; a request looks like {{\"flows\": […]}}.")
    return content


def _volume(text: str) -> Json:
    parts = text.split(":")
    if len(parts) != 3 or not all(parts):
        raise UsageError(f"--volume is {text!r}; write SOURCE:DESTINATION:SIZE, such as edge1:cloud:1MB.")
    source, destination, size = parts
    try:
        transfer_bytes = SIZE.convert(size, None, None)
    except click.BadParameter as error:
        raise UsageError(f"--volume {text}: {error.message}") from error
    return {"name": text[:64], "source": source, "destination": destination, "transfer_bytes": transfer_bytes}


def _print_volumes(content: Json) -> None:
    certainty = "the shortest" if content["exact"] else f"at most {content['gap'] * 100:.1f} % above the shortest"
    click.echo(f"{content['transfer_ms']:.1f} ms for all together, {certainty}; {content['bottleneck']} limits it")
    for flow in content["flows"]:
        click.echo(f"  {' > '.join(flow['path'])}  {flow['rate_bps'] / 1e6:.2f} Mb/s  {flow['transfer_ms']:.1f} ms")


def _advice(problem: Json) -> str:
    """When the request would fit, and the nearest one that would be accepted now, as lines after the refusal."""
    lines = [f"It would fit at {problem['fits_at']}."] if problem.get("fits_at") else []
    flows = (problem.get("offer") or {}).get("flows", [])
    lines += [f"{flow['name']} would be accepted now with {as_options(flow['requirement'])}" for flow in flows]
    return "".join(f"\n  {line}" for line in lines)
