"""`paceline train`, `paceline cloud`, `paceline edge`. They import torch only when they start to work."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from topologies import running_emulation
from trainer.cli.options import credential_options, given, output_options, to_flags, to_settings, training_options
from trainer.config.partitioning import DATA_HELP, PARTITION_HELP, parse_partitioning
from trainer.config.settings import CLOUD_PORT, RunSettings
from trainer.errors import NetworkError, UsageError
from trainer.processes import launch
from trainer.records.resume import last_reservation, settings_of

if TYPE_CHECKING:
    from trainer.cloud.edge_session import EdgeSession
    from trainer.reservation.bandwidth import BandwidthProvider

NO_EMULATION = (
    "No emulation runs on this machine. Start one: sudo .venv/bin/python mininet/start.py metro; "
    "or train without one: paceline train --local"
)


class Address(click.ParamType[Any]):
    """IP:PORT, or an IP for the default port."""

    name = "ip:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Parse it."""
        if isinstance(value, tuple):
            return value[0], value[1]
        host, _, port = str(value).partition(":")
        if not host or (port and not (port.isdigit() and 0 < int(port) < 65536)):
            self.fail(f"{value!r} is not IP:PORT, such as 10.0.0.5:{CLOUD_PORT}.", param, ctx)
        return host, int(port) if port else CLOUD_PORT


@click.command(epilog="Example: paceline train --local --rounds 10 --target 0.95")
@training_options
@click.option("--local", is_flag=True, help="Plain processes on loopback: no root, no emulation, no reservations.")
@click.option("--edges", default=4, show_default=True, help="Number of edges, with --local.")
@click.option("--port", default=CLOUD_PORT, show_default=True, help="The cloud's port; edges use those after it.")
@click.option("--controller", help="The controller's URL.  [default: the emulation's]")
@click.option("--runs-dir", default="runs", show_default=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--resume", type=click.Path(file_okay=False, exists=True, path_type=Path),
              help="Go on with the run in this directory, from its last averaging.")
@click.option("--token-file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="A secret that cloud and edges share: they prove to each other that they know it.")
@click.option("--tls-dir", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Speak TLS with ca.crt, and NAME.crt and NAME.key of every node, in this directory.")
@output_options
@click.pass_context
def train(
    ctx: click.Context, /, local: bool, edges: int, port: int, controller: str | None, runs_dir: Path,
    resume: Path | None, token_file: Path | None, tls_dir: Path | None, quiet: bool, as_json: bool, **options: Any,
) -> None:
    """Train one model on all edges together, split between edges and cloud.

    Without --local, cloud and edges start in the hosts of the emulation that runs on this machine.
    """
    from trainer.records.run_record import new_directory

    changes = given(ctx, options)
    before = settings_of(resume, changes) if resume else None
    if before is not None:
        local, edges = before.map_name is None, len(before.edges)
    if not 1024 <= port <= 65535 - 1 - edges:
        raise UsageError(f"--port is {port}; it and the ports after it must lie between 1024 and 65535.")
    running = None if local else running_emulation.read()
    if not local and running is None:
        raise NetworkError(NO_EMULATION)
    names = [f"edge{number}" for number in range(1, edges + 1)]
    if running is not None:
        names = [host.name for host in running.hosts if host.kind == "edge"]
    settings = before or to_settings(options, edges=tuple(names))  # all mistakes now, not in a child
    if set(names) != set(settings.edges):
        raise UsageError(f"The run in {resume} has the edges {', '.join(settings.edges)}; here are {', '.join(names)}.")
    directory = resume or new_directory(runs_dir)
    edge_flags = ["--seed", str(settings.seed), "--data", settings.data, "--partition", settings.partition]
    if settings.model is not None:
        edge_flags += ["--model", settings.model]
    if settings.protect_labels:
        edge_flags += ["--protect-labels"]
    cloud_flags = ["--resume", str(resume), *to_flags({name: options[name] for name in changes})] if resume else [
        *to_flags(options), "--run-dir", str(directory)]
    cloud_flags += ["--quiet"] if quiet else []
    cloud_flags += ["--json"] if as_json else []
    echo = (lambda _: None) if quiet or as_json else click.echo
    if running is None:
        echo(f"Training on this machine alone: {edges} edges on loopback, no network emulated, nothing reserved.")
        jobs = launch.local_processes(names, port, cloud_flags, edge_flags)
    else:
        url = controller or running.controller_url
        echo(f"Training on the emulated map {running.map_name}: "
                   + ("best effort, nothing reserved." if settings.best_effort else f"controller {url}."))
        cloud_flags += ["--controller", url, "--map", running.map_name]
        jobs = launch.emulated_processes(running, port, cloud_flags, edge_flags)
    jobs = [launch.with_flags(job, _secrets(job.name, token_file, tls_dir)) for job in jobs]
    preload()
    launch.run_processes(jobs, directory, len(names) - settings.quorum_in_training, ctx.obj)


def preload() -> None:
    """What cloud and edges import, once for all of them; torch does the last only at the first step of an optimiser."""
    os.environ["OMP_NUM_THREADS"] = "1"
    for module in (
        "trainer.cloud.training_loop", "trainer.edge.training_loop", "trainer.records.progress",
        "trainer.reservation.reserved_bandwidth", "torch._dynamo",
    ):
        importlib.import_module(module)


def _secrets(name: str, token_file: Path | None, tls_dir: Path | None) -> list[str]:
    flags = ["--token-file", str(token_file)] if token_file else []
    if tls_dir:
        files = {"--tls-ca": "ca.crt", "--tls-cert": f"{name}.crt", "--tls-key": f"{name}.key"}
        for flag, file in files.items():
            if not (tls_dir / file).is_file():
                raise UsageError(f"{tls_dir} has no {file}; every node needs its certificate and key there.")
            flags += [flag, str(tls_dir / file)]
    return flags


@click.command(epilog="Example: paceline cloud --bind 192.0.2.1:7800 --edge edge1 --edge edge2")
@training_options
@click.option("--bind", type=Address(), default=f"0.0.0.0:{CLOUD_PORT}", show_default=True, help="Where edges connect.")
@click.option("--edge", "edges", multiple=True, help="An edge to expect; repeat for each.")
@click.option("--name", default="cloud", show_default=True, help="This node's name on the map.")
@click.option("--controller", help="The controller's URL; without it nothing is reserved.")
@click.option("--map", "map_name", help="The map's name, for the record.")
@click.option("--runs-dir", default="runs", show_default=True, type=click.Path(file_okay=False, path_type=Path))
@click.option("--run-dir", type=click.Path(file_okay=False, path_type=Path), help="This run's own directory.")
@click.option("--resume", type=click.Path(file_okay=False, exists=True, path_type=Path),
              help="Go on with the run in this directory, from its last averaging; its edges connect by themselves.")
@credential_options
@output_options
@click.pass_context
def cloud(
    ctx: click.Context, /, bind: tuple[str, int], edges: tuple[str, ...], name: str, controller: str | None,
    map_name: str | None, runs_dir: Path, run_dir: Path | None, resume: Path | None, tls_ca: Path | None,
    tls_cert: Path | None, tls_key: Path | None, token_file: Path | None, quiet: bool, as_json: bool, **options: Any,
) -> None:
    """Be the cloud: wait for the edges, then plan, reserve, train and average; write the run record."""
    if resume is None:
        if not edges:
            raise UsageError("Name the edges to expect: --edge edge1 --edge edge2; or go on with a run: --resume RUN.")
        settings = to_settings(options, edges=edges, controller=controller, map_name=map_name)
    else:
        settings = settings_of(resume, {**given(ctx, options), **({"controller": controller} if controller else {})})

    from trainer.cloud.training_loop import run
    from trainer.records import checkpoint
    from trainer.records.progress import listener
    from trainer.records.run_record import RunRecord, new_directory
    from trainer.transport.credentials import credentials

    secret = credentials(True, tls_ca, tls_cert, tls_key, token_file)
    if resume is None:
        shown = listener(quiet, as_json, settings.rounds)
        record = RunRecord(run_dir or new_directory(runs_dir), asdict(settings), shown)
        after, before = None, None
    else:
        after = checkpoint.read(resume)
        before = last_reservation(resume)
        record = RunRecord.reopened(resume, asdict(settings), after.round, listener(quiet, as_json, settings.rounds))
        record.event("resumed", round=after.round)
    with contextlib.ExitStack() as closing:

        def say(sentence: str) -> None:
            record.event("said", sentence=sentence)

        run(settings, bind, _road_to(settings, name, bind[1], say, closing, before), record, after, secret)


def _road_to(
    settings: RunSettings, name: str, port: int, say: Callable[[str], None], closing: contextlib.ExitStack,
    before: str | None,
) -> Callable[[Sequence[EdgeSession]], BandwidthProvider]:
    """How to come to the network once the edges' ports are known; `before`: a reservation to go on with."""

    def bandwidth(sessions: Sequence[EdgeSession]) -> BandwidthProvider:
        from trainer.errors import ControllerUnreachableError
        from trainer.reservation.bandwidth import BestEffortBandwidth, EdgeEndpoint
        from trainer.reservation.controller_client import ControllerClient
        from trainer.reservation.held_reservation import HeldReservation
        from trainer.reservation.reserved_bandwidth import ReservedBandwidth

        travellers = [EdgeEndpoint(session.name, session.source_port) for session in sessions]
        open_road = BestEffortBandwidth(travellers, settings.share * settings.assume_bps, settings.floor_bps)
        if settings.controller is None:
            return open_road
        retries = 0 if settings.best_effort else settings.controller_retries
        client = ControllerClient(settings.controller, retries, say)
        closing.callback(client.close)
        if settings.best_effort:
            try:
                client.network_json()
            except ControllerUnreachableError:
                say(f"No controller at {settings.controller}; best effort, planned for "
                    f"{settings.assume_bps / 1e6:g} Mb/s.")
                return open_road
        holding = HeldReservation(client, name, settings.lease_s, say)
        if before is not None:
            holding.adopt(before)
        return ReservedBandwidth(
            holding, travellers, port, settings.share, settings.floor_bps, not settings.best_effort, settings.protection
        )

    return bandwidth


@click.command(epilog="Example: paceline edge --name edge1 --cloud 192.0.2.1:7800 --index 0 --of 2")
@click.option("--name", required=True, help="This edge's name on the map.")
@click.option("--cloud", "cloud_address", type=Address(), required=True, help="Where the cloud listens.")
@click.option("--index", required=True, type=int, help="Which share of the data is this edge's, from 0.")
@click.option("--of", "edges", required=True, type=int, help="How many shares there are.")
@click.option("--source-port", type=int, help="The TCP port to talk from, for a reserved flow.")
@click.option("--seed", default=RunSettings().seed, show_default=True, help="Of the partition; the same on all edges.")
@click.option("--data", default=RunSettings().data, show_default=True, help=DATA_HELP)
@click.option("--partition", default=RunSettings().partition, show_default=True, help=PARTITION_HELP)
@click.option("--model", help="Your own model, package.module:function, if the cloud asks for it.")
@click.option("--protect-labels", is_flag=True, help="Train only with a cloud that asks for no labels.")
@click.option("--connect-timeout", default=60.0, show_default=True,
              help="Seconds to keep trying to connect, also when the cloud was lost.")
@credential_options
@click.option("--tls-name", default="cloud", show_default=True, help="The name in the cloud's certificate.")
@click.option("--cgroup", "cgroups", multiple=True, type=click.Path(path_type=Path),
              help="A cgroup directory to join once everything is loaded; repeat for each.")
def edge(
    name: str, cloud_address: tuple[str, int], index: int, edges: int, source_port: int | None, seed: int,
    data: str, partition: str, model: str | None, protect_labels: bool, connect_timeout: float,
    cgroups: tuple[Path, ...], tls_ca: Path | None, tls_cert: Path | None, tls_key: Path | None,
    token_file: Path | None, tls_name: str,
) -> None:
    """Be one edge: ask to train, then do what each round's plan says. The images stay here."""
    from trainer.edge.training_loop import EdgeSettings, run
    from trainer.transport.credentials import credentials

    secret = credentials(False, tls_ca, tls_cert, tls_key, token_file, tls_name)

    reason = run(EdgeSettings(name, cloud_address, index, edges, source_port, data=data,
                              sharing=parse_partitioning(partition), model=model, protect_labels=protect_labels,
                              seed=seed, connect_timeout_s=connect_timeout, cgroups=cgroups,
                              credentials=secret), click.echo)
    click.echo(f"{name}: {reason}")
