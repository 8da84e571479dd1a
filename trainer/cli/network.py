"""`paceline reservations …` and `paceline network`: the controller's reservations and links."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from trainer.cli.controller_access import (
    controller_option,
    json_option,
    open_controller,
    print_json,
    print_reservation,
)
from trainer.cli.flow_options import requirement_of, requirement_options
from trainer.cli.quantities import DURATION_S
from trainer.errors import UsageError


@click.group(epilog="Example: paceline reservations list")
def reservations() -> None:
    """List, show, renew, change, commit or release reservations."""


@reservations.command("list", epilog="Example: paceline reservations list --state active")
@controller_option
@click.option("--state", help="Only reservations in this state, such as active.")
@json_option
def list_reservations(url: str | None, state: str | None, as_json: bool) -> None:
    """List reservations, one line each."""
    with open_controller(url) as client:
        content = client.list_json(state)
    if as_json:
        print_json(content)
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
@json_option
def show(reservation: str, url: str | None, as_json: bool) -> None:
    """Show a reservation: flows, and the counters of its meters and flow entries."""
    with open_controller(url) as client:
        found = client.get_json(reservation)
    if as_json:
        print_json(found)
        return
    print_reservation(found)
    counters = found.get("counters") or {}
    for meter in counters.get("meters", []):
        click.echo(f"  meter {meter['switch']}/{meter['meter_id']} {meter['flow']} {meter['rate_kbps']} kb/s: "
                   f"{meter['packets']} packets, {meter['dropped_packets']} dropped")
    for entry in counters.get("entries", []):
        click.echo(f"  entry {entry['switch']} table {entry['table']} {entry['flow']}: {entry['packets']} packets, "
                   f"{entry['bytes']} bytes")
    for count in counters.get("fragments", []):
        if count["packets"]:
            click.echo(f"  fragments of {count['protocol']} {count['source']} > {count['destination']} at "
                       f"{count['switch']}: {count['packets']} packets, neither metered nor marked")


@reservations.command(epilog="Example: paceline reservations release r-4f1c")
@click.argument("reservation")
@controller_option
@json_option
def release(reservation: str, url: str | None, as_json: bool) -> None:
    """Release a reservation."""
    with open_controller(url, as_json) as client:
        content = client.release(reservation)
    if as_json:
        print_json(content)
    else:
        click.echo(f"{content['id']}  {content['state']}")


@reservations.command(epilog="Example: paceline reservations renew r-4f1c --lease 10min")
@click.argument("reservation")
@click.option("--lease", type=DURATION_S, help="New lease, such as 10min.  [default: as before]")
@controller_option
@json_option
def renew(reservation: str, lease: float | None, url: str | None, as_json: bool) -> None:
    """Renew the lease of a reservation."""
    _send(url, as_json, "PATCH", _path(reservation), {} if lease is None else {"lease_s": lease})


@reservations.command(epilog="Example: paceline reservations commit r-4f1c")
@click.argument("reservation")
@controller_option
@json_option
def commit(reservation: str, url: str | None, as_json: bool) -> None:
    """Commit a held reservation, so that it is installed."""
    _send(url, as_json, "POST", f"{_path(reservation)}/commit", None)


@reservations.command(short_help="Change the requirement of a flow without interruption.",
                      epilog="Example: paceline reservations change r-4f1c --rate 30M")
@click.argument("reservation")
@click.option("--flow", help="Name of the flow to change, if there are several.")
@requirement_options
@click.option("--lease", type=DURATION_S, help="New lease, such as 10min.  [default: as before]")
@controller_option
@json_option
def change(
    reservation: str, flow: str | None, lease: float | None, url: str | None, as_json: bool, **options: Any
) -> None:
    """Change the requirement of a flow without interrupting it; what is not given stays."""
    given = requirement_of(options)
    if not given:
        raise UsageError("Give what is to change, such as --rate 30M; `paceline reservations renew` renews the lease.")
    with open_controller(url, as_json) as client:
        flows = client.get_json(reservation)["flows"]
        names = [found["name"] for found in flows]
        if flow is None and len(flows) > 1:
            raise UsageError(f"{reservation} has {len(flows)} flows; name one with --flow: {', '.join(names)}.")
        if flow is not None and flow not in names:
            raise UsageError(f"{reservation} has no flow {flow!r}; its flows are {', '.join(names)}.")
        changed = [
            {name: found[name] for name in ("name", "source", "destination", "match")}
            | {"requirement": _changed(found["requirement"], given if found["name"] == (flow or names[0]) else {})}
            for found in flows
        ]
    body = {"flows": changed} | ({} if lease is None else {"lease_s": lease})
    _send(url, as_json, "PATCH", _path(reservation), body)


def _changed(requirement: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
    """The requirement with these fields; a rate takes the place of a transfer and the other way round."""
    rate, transfer = {"min_bandwidth_bps"}, {"transfer_bytes", "deadline_ms", "period_ms", "offset_ms"}
    dropped = transfer if "min_bandwidth_bps" in given else rate if "transfer_bytes" in given else set()
    return {name: value for name, value in requirement.items() if value is not None and name not in dropped} | given


def _path(reservation: str) -> str:
    return f"/v1/reservations/{quote(reservation, safe='')}"


def _send(url: str | None, as_json: bool, method: str, path: str, body: dict[str, Any] | None) -> None:
    """Send a change of a reservation and print the reservation after it."""
    with open_controller(url, as_json) as client:
        content = client.send(method, path, body)
    if as_json:
        print_json(content)
    else:
        print_reservation(content)


@click.command(epilog="Example: paceline network --controller http://127.0.0.1:8080")
@controller_option
@json_option
def network(url: str | None, as_json: bool) -> None:
    """Print the links with capacity, reserved and free rates."""
    with open_controller(url) as client:
        content = client.network_json()
    if as_json:
        print_json(content)
        return
    click.echo(f"{content['map']}: {content['scale_mbps_per_gbps']:g} Mb/s emulated per Gb/s of the map")
    click.echo("link             up    capacity  reserved      free  Mb/s")
    for link in content["links"]:
        rates = (link[f"{which}_bps"] / 1e6 for which in ("capacity", "reserved", "free"))
        up = "yes" if link["up"] else "NO"
        click.echo(f"{link['link']:<16} {up:<4}" + "".join(f"{rate:>10.2f}" for rate in rates))
    for complaint in content.get("complaints", []):
        click.echo(f"! {complaint}")
