"""`paceline reservations …` and `paceline network`: the controller's state as text."""

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
    return click.option("--controller", "url", help="URL of the controller.  [default: that of the running emulation]  "
                        "PACELINE_TOKEN: bearer token; PACELINE_CA: certificate of its authority.")(command)


@contextlib.contextmanager
def _controller(url: str | None) -> Iterator[ControllerClient]:
    from topologies import running_emulation
    from trainer.reservation.controller_client import ControllerClient

    if url is None:
        running = running_emulation.read()
        if running is None:
            raise NetworkError("No emulation is running on this machine; set --controller URL.")
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
@click.option("--state", help="Only reservations in this state, such as active.")
@click.option("--json", "as_json", is_flag=True, help="Print the controller's response as JSON.")
def list_reservations(url: str | None, state: str | None, as_json: bool) -> None:
    """List reservations, one line each."""
    with _controller(url) as client:
        content = client.list_json(state)
    if as_json:
        click.echo(json.dumps(content, indent=2))
        return
    for reservation in content.get("reservations", []):
        flows, version = reservation["flows"], reservation["version"]
        rate = sum(flow["reserved_bps"] for flow in flows) / 1e6
        click.echo(f"{reservation['id']}  {reservation['state']:<9} {reservation['owner']:<10} version {version:<4} "
                   f"{len(flows)} flows, {rate:.1f} Mb/s, until {reservation['expires_at']}")
    if not content.get("reservations"):
        click.echo("No reservations.")


@reservations.command(short_help="Show flows and counters of a reservation.",
                      epilog="Example: paceline reservations show r-4f1c")
@click.argument("reservation")
@controller_option
@click.option("--json", "as_json", is_flag=True, help="Print the controller's response as JSON.")
def show(reservation: str, url: str | None, as_json: bool) -> None:
    """Show a reservation: flows, and the counters of its meters and flow entries."""
    with _controller(url) as client:
        found = client.get_json(reservation)
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    click.echo(f"{found['id']}  {found['state']}  owner {found['owner']}  version {found['version']}  "
               f"until {found['expires_at']}")
    for flow in found["flows"]:
        click.echo(f"  {flow['name']:<12} {' > '.join(flow['path'])}  {flow['reserved_bps'] / 1e6:.2f} Mb/s  "
                   f"latency bound {flow['accumulated_latency_us'] / 1e3:.2f} ms")
    counters = found.get("counters") or {}
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
    """Release a reservation."""
    with _controller(url) as client:
        content = client.release(reservation)
    click.echo(f"{content['id']}  {content['state']}")


@click.command(epilog="Example: paceline network --controller http://127.0.0.1:8080")
@controller_option
@click.option("--json", "as_json", is_flag=True, help="Print the controller's response as JSON.")
def network(url: str | None, as_json: bool) -> None:
    """Print the links with capacity, reserved and free rates."""
    with _controller(url) as client:
        content = client.network_json()
    if as_json:
        click.echo(json.dumps(content, indent=2))
        return
    click.echo(f"{content['map']}: {content['scale_mbps_per_gbps']:g} Mb/s emulated per Gb/s of the map")
    click.echo("link             up    capacity  reserved      free  Mb/s")
    for link in content["links"]:
        rates = (link[f"{which}_bps"] / 1e6 for which in ("capacity", "reserved", "free"))
        up = "yes" if link["up"] else "NO"
        click.echo(f"{link['link']:<16} {up:<4}" + "".join(f"{rate:>10.2f}" for rate in rates))
    for complaint in content.get("complaints", []):
        click.echo(f"! {complaint}")
