"""`paceline reservations …` and `paceline network`: the controller's answers as tables."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import click

from trainer.errors import NetworkError

if TYPE_CHECKING:
    from trainer.reservation.controller_client import ControllerClient

F = TypeVar("F", bound=Callable[..., Any])


def controller_option(command: F) -> F:
    """Add --controller."""
    return click.option("--controller", "url", help="The controller's URL.  [default: the emulation's]  A token and "
                        "the authority's certificate come from PACELINE_TOKEN and PACELINE_CA.")(command)


@contextlib.contextmanager
def _controller(url: str | None) -> Iterator[ControllerClient]:
    from topologies import running_emulation
    from trainer.reservation.controller_client import ControllerClient

    if url is None:
        running = running_emulation.read()
        if running is None:
            raise NetworkError("No emulation runs on this machine; say where the controller is: --controller URL")
        url = running.controller_url
    client = ControllerClient(url, retries=0, notify=lambda sentence: click.echo(sentence, err=True))
    try:
        yield client
    finally:
        client.close()


@click.group(epilog="Example: paceline reservations list")
def reservations() -> None:
    """List, show or release reservations."""


@reservations.command("list", epilog="Example: paceline reservations list --state active")
@controller_option
@click.option("--state", help="Only those in this state, such as active.")
@click.option("--json", "as_json", is_flag=True, help="The controller's answer as it is.")
def list_reservations(url: str | None, state: str | None, as_json: bool) -> None:
    """List reservations, one line each."""
    with _controller(url) as client:
        answer = client.list_json(state)
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    for one in answer.get("reservations", []):
        rate = sum(flow["reserved_bps"] for flow in one["flows"]) / 1e6
        click.echo(f"{one['id']}  {one['state']:<9} {one['owner']:<10} version {one['version']:<4} "
                   f"{len(one['flows'])} flows, {rate:.1f} Mb/s, until {one['expires_at']}")
    if not answer.get("reservations"):
        click.echo("No reservations.")


@reservations.command(epilog="Example: paceline reservations show r-4f1c")
@click.argument("reservation")
@controller_option
@click.option("--json", "as_json", is_flag=True, help="The controller's answer as it is.")
def show(reservation: str, url: str | None, as_json: bool) -> None:
    """Show one reservation: its flows, and the meters and entries that serve it, with their counters."""
    with _controller(url) as client:
        one = client.get_json(reservation)
    if as_json:
        click.echo(json.dumps(one, indent=2))
        return
    click.echo(f"{one['id']}  {one['state']}  owner {one['owner']}  version {one['version']}  "
               f"until {one['expires_at']}")
    for flow in one["flows"]:
        click.echo(f"  {flow['name']:<12} {' > '.join(flow['path'])}  {flow['reserved_bps'] / 1e6:.2f} Mb/s  "
                   f"at most {flow['accumulated_latency_us'] / 1e3:.2f} ms")
    counters = one.get("counters") or {}
    for meter in counters.get("meters", []):
        click.echo(f"  meter {meter['switch']}/{meter['meter_id']} {meter['flow']} {meter['rate_kbps']} kb/s: "
                   f"{meter['packets']} packets, {meter['dropped_packets']} dropped")
    for entry in counters.get("entries", []):
        click.echo(f"  entry {entry['switch']} table {entry['table']} {entry['flow']}: {entry['packets']} packets, "
                   f"{entry['bytes']} bytes")


@reservations.command(epilog="Example: paceline reservations release r-4f1c")
@click.argument("reservation")
@controller_option
def release(reservation: str, url: str | None) -> None:
    """Give a reservation back."""
    with _controller(url) as client:
        answer = client.release(reservation)
    click.echo(f"{answer['id']}  {answer['state']}")


@click.command(epilog="Example: paceline network --controller http://127.0.0.1:8080")
@controller_option
@click.option("--json", "as_json", is_flag=True, help="The controller's answer as it is.")
def network(url: str | None, as_json: bool) -> None:
    """Print every link with its capacity, what is reserved and what is free."""
    with _controller(url) as client:
        answer = client.network_json()
    if as_json:
        click.echo(json.dumps(answer, indent=2))
        return
    click.echo(f"{answer['map']}: {answer['scale_mbps_per_gbps']:g} Mb/s emulated for each real Gb/s")
    click.echo("link             up    capacity  reserved      free  Mb/s")
    for link in answer["links"]:
        rates = (link[f"{which}_bps"] / 1e6 for which in ("capacity", "reserved", "free"))
        up = "yes" if link["up"] else "NO"
        click.echo(f"{link['link']:<16} {up:<4}" + "".join(f"{rate:>10.2f}" for rate in rates))
    for complaint in answer.get("complaints", []):
        click.echo(f"! {complaint}")
