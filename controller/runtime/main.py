"""`paceline controller`: one process with Ryu in the main thread, the REST API and the service in others."""

from __future__ import annotations

import contextlib
import signal
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from controller.api.app import QosOffer
from controller.api.camara.profiles import DEFAULT_PROFILES, load_profiles
from controller.calculus.network_bounds import DEFAULT_CALIBRATION, Calibration
from controller.domain.network import Network
from controller.errors import StartError
from controller.openflow import ryu_app, ryu_runtime
from controller.openflow.switch_client import SwitchClient
from controller.runtime.assembly import Assembly, RestEndpoint
from controller.runtime.calibration_file import load_calibration
from controller.runtime.environment import load_network
from controller.runtime.limits import Limits, LimitType, limits_from
from controller.runtime.listen_address import (
    Address,
    AddressType,
    listening_socket,
    require_free_port,
    require_management_addresses,
)
from controller.runtime.logging_setup import configure_logging
from controller.runtime.sink_option import SinkType
from controller.runtime.standby import StoresOpening
from controller.runtime.stores import RESERVATION_DAYS
from controller.security.audit import RETENTION_DAYS
from controller.security.tls import TlsFiles, rest_tls, server_context
from controller.telemetry.sink_delivery import Sink, SinkDelivery
from topologies.option_types import FiniteRange
from topologies.options import map_options, published_network_options

REST_DEFAULT = "127.0.0.1:8080"
OPENFLOW_DEFAULT = "127.0.0.1:6653"
RYU_REST_DEFAULT = "127.0.0.1:8081"
SWITCH_INTERVAL_S = 0.0005
"""Interval after which Python may switch threads: a short task, such as forwarding the reply of a switch, does not wait
for an admission decision to end. Measured against Python's default of 5 ms: 0.5 ms less per reservation."""

Start = Callable[[Assembly], None]


@dataclass(frozen=True, slots=True)
class Ports:
    """Listening addresses, TLS files, limits and the other Ryu applications of the process."""

    rest: list[socket.socket]
    openflow: Address
    ryu_apps: tuple[str, ...]
    ryu_rest: Address
    rest_tls: TlsFiles | None
    switch_tls: TlsFiles | None
    limits: Limits
    qos: QosOffer


PemFile = click.Path(exists=True, dir_okay=False)


@click.command(
    "controller",
    epilog="""\b
Example:
  paceline controller metro --openflow 127.0.0.1:6653 --listen 127.0.0.1:8080
  curl -s http://127.0.0.1:8080/v1/network

Exit codes: 0 stopped by a signal, 2 usage error (map, options, ledger), 3 a port or the ledger is in use, 4 it can no
longer accept connections.""",
)
@click.argument("map_name", metavar="MAP")
@published_network_options
@click.option(
    "--listen", "listen", multiple=True, type=AddressType(), default=[REST_DEFAULT], show_default=True,
    help="Address of the REST API; repeatable.",
)  # fmt: skip
@click.option(
    "--openflow",
    type=AddressType(),
    default=OPENFLOW_DEFAULT,
    show_default=True,
    help="Address for OpenFlow connections of switches.",
)
@click.option(
    "--ryu-app", "ryu_apps", multiple=True, metavar="MODULE",
    help="Another Ryu application to run in the same process, for example ryu.app.ofctl_rest; repeatable.",
)  # fmt: skip
@click.option(
    "--ryu-rest", type=AddressType(), default=RYU_REST_DEFAULT, show_default=True,
    help="Address of Ryu's web server, if one of those applications uses it.",
)  # fmt: skip
@click.option(
    "--ledger", metavar="URL", default=None,
    help="SQLAlchemy URL of the database; sqlite:// keeps it in memory.  [default: one file per map]",
)  # fmt: skip
@click.option(
    "--audit-days", type=click.IntRange(1, 36_500), default=RETENTION_DAYS, show_default=True,
    help="Days an entry of the audit log is kept.",
)  # fmt: skip
@click.option(
    "--reservation-days", type=FiniteRange(0.001, 36_500), default=RESERVATION_DAYS, show_default=True,
    help="Days a reservation that has ended is kept.",
)  # fmt: skip
@click.option(
    "--calibration", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Switch latencies measured by bench/switch_latency.py, used for the latency bounds.",
)  # fmt: skip
@click.option(
    "--qos-profiles", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="YAML file with the QoS profiles that are offered over the APIs of CAMARA.  [default: QOS_E, QOS_S, QOS_M, "
    "QOS_L]",
)  # fmt: skip
@click.option(
    "--event-sink", "event_sinks", multiple=True, type=SinkType(), metavar="HOST[:PORT]",
    help="Host that may get events of QoS sessions and bookings over HTTPS; repeatable.  [default: none]",
)  # fmt: skip
@click.option("--tls-cert", type=PemFile, help="Certificate of the REST API; enables HTTPS.")
@click.option("--tls-key", type=PemFile, help="Private key of that certificate.")
@click.option("--openflow-ca", type=PemFile, help="CA that must have signed the certificates of switches; enables TLS.")
@click.option("--openflow-cert", type=PemFile, help="Certificate presented to switches.")
@click.option("--openflow-key", type=PemFile, help="Private key of that certificate.")
@click.option(
    "--limit", "limits", multiple=True, type=LimitType(),
    help="Change a limit on clients or switches, for example rest.header_bytes=8192; repeatable.",
)  # fmt: skip
@click.option(
    "--standby", is_flag=True,
    help="If another controller is the writer of the ledger, wait and take over when it ends or stops responding; the "
    "ledger must be on PostgreSQL.",
)  # fmt: skip
@click.option(
    "--advertise", metavar="URL", help="URL of this REST API for clients of a standby.  [default: the first --listen]"
)
@click.option("--quiet", is_flag=True, help="Print errors only.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="warning", show_default=True,
    help="Least severe level that is logged to standard error.",
)  # fmt: skip
def command(
    map_name: str,
    listen: tuple[Address, ...],
    openflow: Address,
    ryu_apps: tuple[str, ...],
    ryu_rest: Address,
    ledger: str | None,
    audit_days: int,
    reservation_days: float,
    calibration: Path | None,
    qos_profiles: Path | None,
    event_sinks: tuple[Sink, ...],
    tls_cert: str | None,
    tls_key: str | None,
    openflow_ca: str | None,
    openflow_cert: str | None,
    openflow_key: str | None,
    limits: tuple[tuple[str, str, float], ...],
    standby: bool,
    advertise: str | None,
    quiet: bool,
    log_level: str,
    **map_values: Any,
) -> None:
    """Run the controller of MAP: a map name such as metro, a map file, or a published network."""
    configure_logging("error" if quiet else log_level)
    process_limits = limits_from(limits)
    try:
        https = rest_tls(tls_cert, tls_key, "--tls-cert and --tls-key")
        switch_tls = _switch_tls(openflow_ca, openflow_cert, openflow_key)
        network = load_network(map_name, map_options(map_values))
        switch_calibration = load_calibration(calibration) if calibration else DEFAULT_CALIBRATION
        profiles = load_profiles(qos_profiles) if qos_profiles else DEFAULT_PROFILES
        qos = QosOffer(profiles, SinkDelivery(event_sinks))
        with contextlib.ExitStack() as stack:
            address = advertise or f"{'https' if https else 'http'}://{listen[0][0]}:{listen[0][1]}"
            opening = StoresOpening(ledger, network.name, audit_days, reservation_days, address)
            opened = stack.enter_context(opening.as_standby() if standby else opening.as_writer())
            if not opened.tokens.is_configured:
                require_management_addresses(listen)
            sockets = [stack.enter_context(listening_socket(address)) for address in listen]
            require_free_port(openflow, "OpenFlow")
            if ryu_apps:
                require_free_port(ryu_rest, "Ryu's web server")
            ports = Ports(sockets, openflow, ryu_apps, ryu_rest, https, switch_tls, process_limits, qos)
            greeting = None if quiet else _greeting(network, listen, ports, opened.summary)
            _run(network, opened.start, ports, greeting, switch_calibration)
            if opened.lock.is_lost:
                raise StartError("Another controller writes the ledger now; this one has ended.", exit_code=3)
    except StartError as error:
        click.echo(f"Error: {error.detail}", err=True)
        raise SystemExit(error.exit_code) from error


def _switch_tls(authority: str | None, certificate: str | None, key: str | None) -> TlsFiles | None:
    if authority is None and certificate is None and key is None:
        return None
    if authority is None or certificate is None or key is None:
        options = "--openflow-ca, --openflow-cert and --openflow-key"
        raise StartError(f"TLS for switches needs all of {options}.", exit_code=2)
    files = TlsFiles(certificate, key, authority)
    server_context(files)
    return files


def _run(network: Network, start: Start, ports: Ports, greeting: str | None, calibration: Calibration) -> None:
    sys.setswitchinterval(SWITCH_INTERVAL_S)

    def assemble(switch_client: SwitchClient) -> ryu_runtime.Stop:
        endpoint = RestEndpoint(ports.rest, ports.rest_tls, ports.limits)
        assembly = Assembly(network, switch_client, calibration, endpoint, ports.qos)
        start(assembly)
        return assembly.stop

    def ready(stop: ryu_runtime.Stop) -> None:
        for signal_number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(signal_number, lambda *_: stop())
        if greeting:
            click.echo(greeting)

    ryu_app.attach(assemble)
    ryu_runtime.run(
        ports.ryu_apps, ports.openflow, ports.ryu_rest, ready, ports.switch_tls, ports.limits.openflow
    )


def _greeting(network: Network, listen: Sequence[Address], ports: Ports, access_summary: str) -> str:
    scheme = "https" if ports.rest_tls else "http"
    urls = ", ".join(f"{scheme}://{host}:{port}" for host, port in listen)
    host, port = ports.openflow
    switches = f"{len(network.switches)} switches expected on {host}:{port}{' over TLS' if ports.switch_tls else ''}"
    return f"Controller of {network.name}: REST on {urls} (Swagger at /docs), {switches}. {access_summary}"


if __name__ == "__main__":
    command()
