"""The state and the care of a network: paths, lightpaths, links, ducts, health, consistency, audit, metrics."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from trainer.cli.controller_access import controller_option, json_option, open_controller, print_json
from trainer.errors import EXIT_NETWORK


@click.command(epilog="Example: paceline health")
@controller_option
@json_option
def health(url: str | None, as_json: bool) -> None:
    """Print whether all switches are in sync and the audit log can be written."""
    with open_controller(url, as_json) as client:
        content = client.send("GET", "/v1/healthz")
    if as_json:
        print_json(content)
    elif content["status"] == "standby":
        click.echo(f"standby of {content['active'] or 'a controller that is not known now'}")
    else:
        click.echo(f"{content['status']}: {content['switches_up']} of {content['switches_expected']} switches in sync, "
                   f"ledger {content['ledger']}, audit log {content['audit']}")


@click.command(epilog="Example: paceline paths edge1 cloud")
@click.argument("source")
@click.argument("destination")
@controller_option
@json_option
def paths(source: str, destination: str, url: str | None, as_json: bool) -> None:
    """Print the candidate paths from SOURCE to DESTINATION, best first."""
    with open_controller(url, as_json) as client:
        content = client.send("GET", "/v1/paths", query={"source": source, "destination": destination})
    if as_json:
        print_json(content)
        return
    for path in content["paths"]:
        click.echo(f"{' > '.join(path['nodes'])}  {path['length_km']:g} km  {path['free_bps'] / 1e6:.2f} Mb/s free")
    if not content["paths"]:
        down = f": {', '.join(content['down'])} down" if content["down"] else ""
        click.echo(f"No path from {source} to {destination}{down}.")


@click.group(invoke_without_command=True, epilog="Example: paceline lightpaths")
@controller_option
@json_option
@click.pass_context
def lightpaths(context: click.Context, url: str | None, as_json: bool) -> None:
    """List the lightpaths of an optical map, show one, or move them to lower channels."""
    if context.invoked_subcommand is not None:
        return
    with open_controller(url, as_json) as client:
        content = client.send("GET", "/v1/lightpaths")
    if as_json:
        print_json(content)
        return
    for lightpath in content["lightpaths"]:
        _print_lightpath(lightpath)
    if not content["lightpaths"]:
        click.echo("No lightpaths.")
    if content["moves"]:
        click.echo(f"{content['moves']} moved to other channels since the controller's start.")


@lightpaths.command("show", epilog="Example: paceline lightpaths show r1-r2-ch3")
@click.argument("lightpath")
@controller_option
@json_option
def show_lightpath(lightpath: str, url: str | None, as_json: bool) -> None:
    """Show a lightpath and the flows in it."""
    with open_controller(url, as_json) as client:
        content = client.send("GET", f"/v1/lightpaths/{quote(lightpath, safe='')}")
    if as_json:
        print_json(content)
        return
    _print_lightpath(content)
    for flow in content["flows"]:
        click.echo(f"  {flow['reservation']}  {flow['flow']}{'  as backup' if flow['backup'] else ''}")


@lightpaths.command(epilog="Example: paceline lightpaths defragment")
@controller_option
@json_option
def defragment(url: str | None, as_json: bool) -> None:
    """Move lightpaths to lower channels without packet loss."""
    with open_controller(url, as_json) as client:
        content = client.send("POST", "/v1/lightpaths/defragment")
    if as_json:
        print_json(content)
        return
    for move in content["moves"]:
        click.echo(f"{' > '.join(move['nodes'])}  channel {move['from_channel']} to {move['to_channel']}")
    if not content["moves"]:
        click.echo("No lightpath can move to a lower channel.")


def _print_lightpath(lightpath: dict[str, Any]) -> None:
    state = "lit" if lightpath["lit"] else "booked"
    rates = f"{lightpath['reserved_bps'] / 1e6:.2f} of {lightpath['rate_bps'] / 1e6:.2f} Mb/s reserved"
    click.echo(f"{lightpath['id']}  {' > '.join(lightpath['nodes'])}  channel {lightpath['channel']} "
               f"({lightpath['central_thz']:.4f} THz)  {lightpath['modulation']}  {state}  {rates}")


@click.group(epilog="Example: paceline links down r1-r2")
def links() -> None:
    """Take a link out of service after moving its traffic, or put it back."""


@click.group(epilog="Example: paceline ducts down east-bridge")
def ducts() -> None:
    """Take all links of a duct out of service after moving their traffic, or put them back."""


def _add_maintenance(group: click.Group, kind: str, example: str) -> None:
    for action, text in (("down", "Take {} out of service; its traffic is moved first."), ("up", "Put {} back.")):
        group.add_command(_maintenance_command(kind, action, text.format(f"a {kind}"), example))


def _maintenance_command(kind: str, action: str, text: str, example: str) -> click.Command:
    @click.command(action, help=text, epilog=f"Example: paceline {kind}s {action} {example}")
    @click.argument("name")
    @controller_option
    @json_option
    def command(name: str, url: str | None, as_json: bool) -> None:
        with open_controller(url, as_json) as client:
            content = client.send("POST", f"/v1/{kind}s/{quote(name, safe='')}/{action}")
        if as_json:
            print_json(content)
            return
        state = "in service" if content["in_service"] else "out of service"
        click.echo(f"{', '.join(content['spans'])}: {state}")
        for reservation in content["degraded"]:
            click.echo(f"  degraded: {reservation}")

    return command


_add_maintenance(links, "link", "r1-r2")
_add_maintenance(ducts, "duct", "east-bridge")


@click.command(epilog="Example: paceline consistency --repair")
@click.option("--repair", is_flag=True, help="Repair missing and wrong entries first.")
@controller_option
@json_option
def consistency(repair: bool, url: str | None, as_json: bool) -> None:
    """Compare what every switch holds with what it should hold.

    Exit code 3 if they differ.
    """
    with open_controller(url, as_json) as client:
        content = client.send("POST", "/v1/consistency/repair") if repair else client.send("GET", "/v1/consistency")
    if as_json:
        print_json(content)
    else:
        click.echo("switch           state        missing  wrong  foreign")
        for switch in content["switches"]:
            counts = (len(switch[kind]) for kind in ("missing", "wrong", "foreign"))
            click.echo("{:<16} {:<12} {:>7} {:>6} {:>8}".format(switch["switch"], switch["state"], *counts))
            for kind in ("missing", "wrong", "foreign"):
                for entry in switch[kind]:
                    click.echo(f"  {kind}: {entry}")
    if not content["consistent"]:
        click.echo("Error: the switches differ from the intended state; `paceline consistency --repair` mends it.",
                   err=True)
        raise SystemExit(EXIT_NETWORK)


@click.command(epilog="Example: paceline audit --limit 20")
@click.option("--after", type=click.IntRange(0), default=0, help="Only entries after this number.")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="Number of entries.")
@controller_option
@json_option
def audit(after: int, limit: int, url: str | None, as_json: bool) -> None:
    """Print the audit log, oldest first: who asked for what, and the answer."""
    with open_controller(url, as_json) as client:
        content = client.send("GET", "/v1/audit", query={"after": str(after), "limit": str(limit)})
    if as_json:
        print_json(content)
        return
    for entry in content["entries"]:
        what = " ".join(filter(None, (entry["code"], entry["reservation"])))
        click.echo(f"{entry['number']:>6}  {entry['at']}  {entry['tenant'] or '-':<12} {entry['method']:<6} "
                   f"{entry['path']}  {entry['status']}{'  ' if what else ''}{what}")
    if not content["entries"]:
        click.echo("No entries.")


@click.command(epilog="Example: paceline metrics")
@controller_option
def metrics(url: str | None) -> None:
    """Print the metrics in the text format of Prometheus."""
    with open_controller(url) as client:
        click.echo(client.metrics(), nl=False)
