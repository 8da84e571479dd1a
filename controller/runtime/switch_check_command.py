"""`paceline switch-check`: asks a switch what it can do, and says what would not hold."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

import click

from controller.domain.network import Network
from controller.errors import ControllerError, StartError
from controller.runtime import rest_query
from controller.runtime.environment import load_network
from controller.runtime.listen_address import Address, AddressType, listening_socket
from controller.security.tls import TlsFiles, server_context
from topologies.option_types import FiniteRange

EXIT_FAILS = 1
EXIT_USAGE, EXIT_NETWORK = 2, 3
WAIT_S = 60.0

PemFile = click.Path(exists=True, dir_okay=False)


@click.command(
    "switch-check",
    epilog="""\b
Examples:
  paceline switch-check sw1 --controller http://127.0.0.1:8080
  paceline switch-check 00000000000000a1 --listen 0.0.0.0:6653 --map lab.yaml

Exit codes: 0 all that the switch states holds, 1 something would not hold, 2 usage error, 3 no answer.""",
)
@click.argument("switch", metavar="DPID")
@click.option("--controller", "url", metavar="URL",
              help="URL of the controller to which the switch is connected, or of several: URL,URL.  [default: that of "
              "the running emulation]  PACELINE_TOKEN: bearer token; PACELINE_CA: certificate of its authority.")
@click.option("--listen", type=AddressType(),
              help="Without a controller: wait at this address for the switch to connect; nothing of it is changed.")
@click.option("--map", "map_name", metavar="MAP",
              help="With --listen: the map of the switch, so that its ports are compared.")
@click.option("--wait", "wait_s", type=FiniteRange(0, 86_400, min_open=True), default=WAIT_S, show_default=True,
              metavar="SECONDS", help="With --listen: how long to wait.")
@click.option("--openflow-ca", type=PemFile, help="With --listen: CA of the switches' certificates; enables TLS.")
@click.option("--openflow-cert", type=PemFile, help="Certificate presented to the switch.")
@click.option("--openflow-key", type=PemFile, help="Private key of that certificate.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")  # fmt: skip
def command(
    switch: str, url: str | None, listen: Address | None, map_name: str | None, wait_s: float, openflow_ca: str | None,
    openflow_cert: str | None, openflow_key: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Ask the switch DPID what it can do, and print what Paceline needs of it and what would not hold.

    DPID is a datapath id in up to 16 hexadecimal digits, or the switch's name on the map.
    """
    tls_files = (openflow_ca, openflow_cert, openflow_key)
    if listen is not None and url is not None:
        raise click.UsageError("Give either --controller or --listen: a switch that is connected is asked by its "
                               "controller.")
    if listen is None and (map_name is not None or any(tls_files)):
        raise click.UsageError("--map and --openflow-… go with --listen; a controller has its own.")
    try:
        if listen is None:
            content = rest_query.get(url, f"/v1/switches/{quote(switch, safe='')}/capabilities")
        else:
            network = load_network(map_name) if map_name is not None else None
            content = _ask(switch, listen, network, wait_s, _context(*tls_files))
    except StartError as error:
        click.echo(f"Error: {error.detail}", err=True)
        raise SystemExit(error.exit_code) from error
    click.echo(json.dumps(content, indent=2)) if as_json else _print(content)
    if not content["holds"]:
        raise SystemExit(EXIT_FAILS)


def _context(authority: str | None, certificate: str | None, key: str | None) -> Any:
    if authority is None and certificate is None and key is None:
        return None
    if authority is None or certificate is None or key is None:
        raise StartError("TLS for switches needs all of --openflow-ca, --openflow-cert and --openflow-key.", EXIT_USAGE)
    return server_context(TlsFiles(certificate, key, authority))


def _ask(switch: str, listen: Address, network: Network | None, wait_s: float, context: Any) -> dict[str, Any]:
    """Wait for the switch and ask it; the answer is that of the REST API."""
    from controller.api.schemas.switch_responses import switch_body
    from controller.dataplane.switch_check import Place, check_switch, switch_named
    from controller.openflow.switch_inquiry import ask_switch

    if network is not None:
        try:
            name = switch_named(network, switch)
        except ControllerError as error:
            raise StartError(error.detail, EXIT_USAGE) from error
        place: Place | None = Place(network, name)
        datapath_id = network.nodes[name].datapath_id or 0
    else:
        if re.fullmatch("(0x)?[0-9a-fA-F]{1,16}", switch) is None:
            sentence = f"{switch!r} is not a datapath id; write it as 00000000000000a1, or give its map with --map."
            raise StartError(sentence, EXIT_USAGE)
        place, datapath_id = None, int(switch, 16)
    with listening_socket(listen) as listener:
        host, port = listen
        click.echo(f"Waiting at {host}:{port} for switch {datapath_id:016x}.", err=True)
        said = ask_switch(listener, datapath_id, wait_s, lambda line: click.echo(line, err=True), context)
    if said is None:
        raise StartError(f"Switch {datapath_id:016x} has not connected within {wait_s:g} s.", EXIT_NETWORK)
    body: dict[str, Any] = switch_body(place.name if place else None, said, check_switch(said, place)).model_dump()
    return body


_MARKS = {"holds": "holds", "fails": "FAILS", "not_stated": "not stated"}


def _print(content: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    description = content["description"] or {}
    made = ", ".join(filter(None, (description.get(name) for name in ("manufacturer", "hardware", "software"))))
    click.echo(f"{content['switch'] or 'switch'} {content['datapath_id']}{f': {made}' if made else ''}")
    table = Table("", "needed", "the switch says", "")
    for check in content["checks"]:
        table.add_row(*(escape(check[name]) for name in ("subject", "needed", "stated")), _MARKS[check["verdict"]])
    Console().print(table)
    for check in content["checks"]:
        if check["verdict"] != "holds":
            click.echo(f"{_MARKS[check['verdict']]}: {check['subject']}: {check['reason']}")
    failing = sum(check["verdict"] == "fails" for check in content["checks"])
    click.echo(f"{failing} of {len(content['checks'])} would not hold." if failing else "All that it states holds.")


if __name__ == "__main__":
    command()
