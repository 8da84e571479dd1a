"""The process: Ryu in the main thread, the REST interface in another, the service between them."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
from fastapi import FastAPI

from controller import southbound
from controller.api import create_app
from controller.errors import StartError
from controller.front import Front
from controller.ledger import Ledger
from controller.network import Network, network_from_map
from controller.rest import STOP_S, RestThread
from controller.service import Service
from controller.tls import TlsFiles, server_context
from controller.wsgi import plain_call, wsgi_of
from topologies import running

log = logging.getLogger(__name__)

Address = tuple[str, int]

REST_DEFAULT = "127.0.0.1:8080"
OPENFLOW_DEFAULT = "127.0.0.1:6653"
RYU_REST_DEFAULT = "127.0.0.1:8081"


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the process is reached, by whom, and which other Ryu applications run in it."""

    rest: list[socket.socket]
    openflow: Address
    ryu_apps: tuple[str, ...]
    ryu_rest: Address
    rest_tls: TlsFiles | None
    switch_tls: TlsFiles | None


class AddressType(click.ParamType[Address]):
    """HOST:PORT with a numeric host, as `127.0.0.1:8080` or `[::1]:8080`."""

    name = "HOST:PORT"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Address:
        """Read it, or say what would be right."""
        host, colon, port = str(value).rpartition(":")
        host = host.removeprefix("[").removesuffix("]")
        try:
            ipaddress.ip_address(host)
            number = int(port)
        except ValueError:
            number = 0
        if not colon or not 1 <= number <= 65535:
            self.fail(f"{value!r} is not an address; write it as 127.0.0.1:8080.", param, ctx)
        return host, number


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
        rest_tls = _rest_tls(tls_cert, tls_key)
        switch_tls = _switch_tls(openflow_ca, openflow_cert, openflow_key)
        network = load_network(map_name)
        book = Ledger(ledger or default_ledger(network.name), network.name)
        with contextlib.ExitStack() as stack:
            sockets = [stack.enter_context(_listening(address)) for address in listen]
            _check_free(openflow, "OpenFlow")
            if ryu_apps:
                _check_free(ryu_rest, "Ryu's web server")
            greeting = None if quiet else _greeting(network, listen, openflow, rest_tls, switch_tls)
            ports = Ports(sockets, openflow, tuple(ryu_apps), ryu_rest, rest_tls, switch_tls)
            _run(network, book, ports, greeting)
    except StartError as error:
        click.echo(f"Error: {error.detail}", err=True)
        raise SystemExit(error.exit_code) from error


def assemble(front: Front, settings: southbound.Settings) -> southbound.Stop:
    """Build on the switches in a process that somebody else started; ryu-manager calls it by name.

    Raises: SystemExit with a sentence.
    """
    try:
        if not settings.map_name:
            raise StartError("Name a map: PACELINE_MAP=metro ryu-manager controller.southbound", exit_code=2)
        network = load_network(settings.map_name)
        addresses = [AddressType()(address) for address in settings.listen]
        service = Service(network, front, Ledger(settings.ledger or default_ledger(network.name), network.name))
    except (StartError, click.UsageError) as error:
        raise SystemExit(f"paceline: {error}") from error
    service.start()
    rest = _rest_on_hub(service, addresses) if settings.green else _rest_in_thread(service, addresses)
    log.warning(_greeting(network, addresses, None, None, None))

    def stop() -> None:
        rest()
        service.stop()

    return stop


def _rest_on_hub(service: Service, addresses: Sequence[Address]) -> southbound.Stop:
    emulated = partial(propagation_emulated, service.network.name)
    application = wsgi_of(create_app(service, emulated, plain_call))
    try:
        stops = [southbound.serve_wsgi(application, host, port) for host, port in addresses]
    except OSError as error:
        raise SystemExit(f"paceline: the REST interface cannot listen on {addresses}: {error}") from error

    def stop() -> None:
        for each in stops:
            each()

    return stop


def _rest_in_thread(service: Service, addresses: Sequence[Address]) -> southbound.Stop:
    stack = contextlib.ExitStack()
    rest = RestThread(_app(service), [stack.enter_context(_listening(address)) for address in addresses])
    rest.start()

    def stop() -> None:
        rest.stop()
        stack.close()

    return stop


def load_network(map_name: str) -> Network:
    """The network of a map by name or file.

    Raises: StartError with the loader's sentences.
    """
    from topologies.loader import load_map
    from topologies.problems import MapError

    try:
        return network_from_map(load_map(map_name))
    except MapError as error:
        raise StartError(str(error), exit_code=2) from error


def default_ledger(map_name: str) -> str:
    """A file for the map: among the run files if we may write there, else in the user's state directory."""
    for directory in (running.DIRECTORY, Path.home() / ".local/state/paceline"):
        with contextlib.suppress(OSError):
            directory.mkdir(parents=True, exist_ok=True)
            if os.access(directory, os.W_OK):
                return f"sqlite:///{directory}/ledger-{map_name}.db"
    return "sqlite://"


def propagation_emulated(map_name: str) -> bool:
    """Whether an emulation of this map runs here that delays packets as the fibre would."""
    note = running.read()
    return bool(note and note.map_name == map_name and note.propagation_emulated)


def _rest_tls(certificate: str | None, key: str | None) -> TlsFiles | None:
    """What --tls-cert and --tls-key say.

    Raises: StartError if one of them is missing or they do not fit.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise StartError("TLS for REST needs both --tls-cert and --tls-key.", exit_code=2)
    files = TlsFiles(certificate, key)
    server_context(files)
    return files


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


def _run(network: Network, book: Ledger, ports: Ports, greeting: str | None) -> None:
    rest: list[RestThread] = []

    def assemble(front: Front) -> southbound.Stop:
        service = Service(network, front, book)
        service.start()
        rest.append(RestThread(_app(service), ports.rest, ports.rest_tls))
        rest[0].start()
        return lambda: _stop(rest[0], service)

    def ready(stop: southbound.Stop) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop())
        rest[0].ready.wait(STOP_S)
        if greeting:
            click.echo(greeting)

    southbound.attach(assemble)
    southbound.run(ports.ryu_apps, ports.openflow, ports.ryu_rest, ready, ports.switch_tls)


def _app(service: Service) -> FastAPI:
    return create_app(service, partial(propagation_emulated, service.network.name))


def _stop(rest: RestThread, service: Service) -> None:
    rest.stop()
    service.stop()


@contextlib.contextmanager
def _listening(address: Address) -> Iterator[socket.socket]:
    with _bound(address, "The REST interface") as listener:
        listener.listen(128)
        yield listener


def _check_free(address: Address, what: str) -> None:
    """Eventlet shares ports (SO_REUSEPORT), so a taken one would go unnoticed."""
    with _bound(address, what) as probe:
        probe.listen(1)


@contextlib.contextmanager
def _bound(address: Address, what: str) -> Iterator[socket.socket]:
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol named, asyncio turns Nagle's algorithm off; else each answer waits 40 ms for an acknowledgement.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as bound:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            bound.bind(address)
        except OSError as error:
            reason = error.strerror or str(error)
            sentence = f"{what} cannot listen on {host}:{port}: {reason}. Choose another port, or end what uses it."
            raise StartError(sentence, exit_code=3) from error
        yield bound


def _greeting(
    network: Network,
    listen: Sequence[Address],
    openflow: Address | None,
    rest_tls: TlsFiles | None,
    switch_tls: TlsFiles | None,
) -> str:
    scheme = "https" if rest_tls else "http"
    urls = ", ".join(f"{scheme}://{host}:{port}" for host, port in listen)
    how = " by TLS" if switch_tls else ""
    where = f" on {openflow[0]}:{openflow[1]}{how}" if openflow else ""
    switches = f"{len(network.switches)} switches expected{where}"
    return f"Controller of {network.name}: REST on {urls} (Swagger at /docs), {switches}."


if __name__ == "__main__":
    command()
