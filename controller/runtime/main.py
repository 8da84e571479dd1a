"""The process: Ryu in the main thread, the REST interface in another, the service between them."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click

from controller.api.app import create_app
from controller.api.server import STOP_S, RestThread
from controller.calculus.network_bounds import DEFAULT_CALIBRATION, Calibration
from controller.domain.network import Network
from controller.errors import StartError
from controller.openflow import ryu_app, ryu_runtime
from controller.openflow.switch_client import SwitchClient
from controller.runtime.calibration_file import load_calibration
from controller.runtime.environment import load_network, propagation_emulated
from controller.runtime.listen_address import Address, AddressType, check_free, check_near, listening
from controller.runtime.stores import Stores, open_stores
from controller.security.audit import RETENTION_DAYS
from controller.security.tls import TlsFiles, rest_tls, server_context
from controller.service.reservation_service import Service
from controller.telemetry.event_stream import EventStream
from controller.telemetry.meter_monitor import MeterMonitor
from controller.telemetry.metrics import Metrics

COLLECT_AFTER_OBJECTS = 50_000


def collect_seldom() -> None:
    """What is here by now stays, and little of what comes is in circles: to look for them often is a waste."""
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER_OBJECTS, 20, 100)


REST_DEFAULT = "127.0.0.1:8080"
OPENFLOW_DEFAULT = "127.0.0.1:6653"
RYU_REST_DEFAULT = "127.0.0.1:8081"
TURN_S = 0.0005
"""Python's threads take turns after so long at most: who only hands on a request or a switch's answer need not wait for
a decision to end. Measured beside Python's own 5 ms: half a millisecond less for a reservation."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the process is reached, by whom, and which other Ryu applications run in it."""

    rest: list[socket.socket]
    openflow: Address
    ryu_apps: tuple[str, ...]
    ryu_rest: Address
    rest_tls: TlsFiles | None
    switch_tls: TlsFiles | None


PemFile = click.Path(exists=True, dir_okay=False)


@click.command(
    "controller",
    epilog="""\b
Example:
  paceline controller metro --openflow 127.0.0.1:6653 --listen 127.0.0.1:8080
  curl -s http://127.0.0.1:8080/v1/network

Exit codes: 0 stopped by a signal, 2 asked for wrongly (map, options, ledger), 3 a port is taken.""",
)
@click.argument("map_name", metavar="MAP")
@click.option(
    "--listen", "listen", multiple=True, type=AddressType(), default=[REST_DEFAULT], show_default=True,
    help="Where the REST interface listens; may be given several times.",
)  # fmt: skip
@click.option(
    "--openflow", type=AddressType(), default=OPENFLOW_DEFAULT, show_default=True, help="Where switches connect."
)
@click.option(
    "--ryu-app", "ryu_apps", multiple=True, metavar="MODULE",
    help="Another Ryu application to run beside ours, for example ryu.app.ofctl_rest; may be given several times.",
)  # fmt: skip
@click.option(
    "--ryu-rest", type=AddressType(), default=RYU_REST_DEFAULT, show_default=True,
    help="Where Ryu's own web server listens, if one of those applications uses it.",
)  # fmt: skip
@click.option(
    "--ledger", metavar="URL", default=None,
    help="SQLAlchemy URL of what survives a restart; sqlite:// keeps it in memory. [default: a file for each map]",
)  # fmt: skip
@click.option(
    "--audit-days", type=click.IntRange(1, 36_500), default=RETENTION_DAYS, show_default=True,
    help="How long an entry of the audit log is kept.",
)  # fmt: skip
@click.option(
    "--calibration", type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="What bench/switch_latency.py measured of the switches here; the bounds count on it.",
)  # fmt: skip
@click.option("--tls-cert", type=PemFile, help="Certificate of the REST interface: it speaks https only.")
@click.option("--tls-key", type=PemFile, help="The key of that certificate.")
@click.option("--openflow-ca", type=PemFile, help="Switches must have a certificate of this authority.")
@click.option("--openflow-cert", type=PemFile, help="Our certificate towards switches.")
@click.option("--openflow-key", type=PemFile, help="The key of that certificate.")
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="warning", show_default=True,
    help="What goes to standard error.",
)  # fmt: skip
def command(
    map_name: str,
    listen: tuple[Address, ...],
    openflow: Address,
    ryu_apps: tuple[str, ...],
    ryu_rest: Address,
    ledger: str | None,
    audit_days: int,
    calibration: Path | None,
    tls_cert: str | None,
    tls_key: str | None,
    openflow_ca: str | None,
    openflow_cert: str | None,
    openflow_key: str | None,
    quiet: bool,
    log_level: str,
) -> None:
    """Run the controller of MAP (a name such as metro, or a file): OpenFlow to its switches, REST to its users."""
    level = "error" if quiet else log_level
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        https = rest_tls(tls_cert, tls_key, "--tls-cert and --tls-key")
        switch_tls = _switch_tls(openflow_ca, openflow_cert, openflow_key)
        network = load_network(map_name)
        calibrated = load_calibration(calibration) if calibration else DEFAULT_CALIBRATION
        books = open_stores(ledger, network.name, audit_days)
        if not books.tokens.is_configured:
            check_near(listen)
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(listening(address)) for address in listen]
            check_free(openflow, "OpenFlow")
            if ryu_apps:
                check_free(ryu_rest, "Ryu's web server")
            ports = Ports(sockets, openflow, ryu_apps, ryu_rest, https, switch_tls)
            greeting = None if quiet else _greeting(network, listen, ports, books.access_summary)
            _run(network, books, ports, greeting, calibrated)
    except StartError as error:
        click.echo(f"Error: {error.detail}", err=True)
        raise SystemExit(error.exit_code) from error


def _switch_tls(authority: str | None, certificate: str | None, key: str | None) -> TlsFiles | None:
    given = (authority, certificate, key)
    if given == (None, None, None):
        return None
    if authority is None or certificate is None or key is None:
        needed = "--openflow-ca, --openflow-cert and --openflow-key"
        raise StartError(f"TLS for switches needs all of {needed}.", exit_code=2)
    files = TlsFiles(certificate, key, authority)
    server_context(files)
    return files


def _run(network: Network, books: Stores, ports: Ports, greeting: str | None, calibration: Calibration) -> None:
    sys.setswitchinterval(TURN_S)
    rest: list[RestThread] = []

    def assemble(front: SwitchClient) -> ryu_runtime.Stop:
        service, stream = Service(network, front, books.ledger, calibration, forgets=(books.forget,)), EventStream()
        metrics = Metrics(service)
        meters = MeterMonitor(service, metrics, stream)
        service.start()
        meters.start()
        emulated = partial(propagation_emulated, network.name)
        app = create_app(service, emulated, None, books.tokens, books.audit, stream, metrics)
        rest.append(RestThread(app, ports.rest, ports.rest_tls))
        rest[0].start()
        collect_seldom()

        def stop() -> None:
            meters.stop()
            stream.close()
            rest[0].stop()
            service.stop()
            books.close()

        return stop

    def ready(stop: ryu_runtime.Stop) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop())
        rest[0].ready.wait(STOP_S)
        if greeting:
            click.echo(greeting)

    ryu_app.attach(assemble)
    ryu_runtime.run(ports.ryu_apps, ports.openflow, ports.ryu_rest, ready, ports.switch_tls)


def _greeting(network: Network, listen: Sequence[Address], ports: Ports, doors: str) -> str:
    scheme = "https" if ports.rest_tls else "http"
    urls = ", ".join(f"{scheme}://{host}:{port}" for host, port in listen)
    how = " by TLS" if ports.switch_tls else ""
    where = f"on {ports.openflow[0]}:{ports.openflow[1]}{how}"
    switches = f"{len(network.switches)} switches expected {where}"
    return f"Controller of {network.name}: REST on {urls} (Swagger at /docs), {switches}. {doors}"


if __name__ == "__main__":
    command()
