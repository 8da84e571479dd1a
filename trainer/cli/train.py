"""`paceline train`, `paceline cloud`, `paceline edge`; torch is imported only to run them."""

from __future__ import annotations

import contextlib
import importlib
import ipaddress
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from topologies import running_emulation
from topologies.option_types import FiniteRange
from trainer.cli import cloud_workers
from trainer.cli.options import (
    credential_options,
    explicit_options,
    output_options,
    to_flags,
    to_settings,
    training_options,
)
from trainer.cli.preflight import check_names, check_run
from trainer.config.partitioning import COLLECT_HELP, DATA_HELP, DATA_SETS, PARTITION_HELP, parse_partitioning
from trainer.config.settings import CLOUD_PORT, RunSettings
from trainer.data import read_ahead
from trainer.errors import NetworkError, TrainerError, UsageError
from trainer.processes import launch, limits
from trainer.processes.collection import without_collection
from trainer.records.resume import last_reservation, resumed_settings
from trainer.records.run_control import leave, registered

if TYPE_CHECKING:
    from trainer.cloud.edge_session import EdgeSession
    from trainer.reservation.bandwidth import BandwidthProvider
    from trainer.reservation.partition_check import FindPartition

NO_EMULATION = (
    "No emulation is running on this machine. Start one: sudo .venv/bin/python mininet/start.py metro; "
    "or train without one: paceline train --local"
)


class Address(click.ParamType[Any]):
    """IP:PORT or NAME:PORT, or an IP with the default port."""

    name = "ip:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, int]:
        """Parse an address."""
        if isinstance(value, tuple):
            return value[0], value[1]
        host, _, port = str(value).partition(":")
        if not host or (port and not (port.isdigit() and 0 < int(port) < 65536)):
            self.fail(f"{value!r} is not IP:PORT, such as 10.0.0.5:{CLOUD_PORT}.", param, ctx)
        if not port and not _is_ip(host):
            self.fail(f"{value!r} is not IP:PORT, such as 10.0.0.5:{CLOUD_PORT}; the name of a host needs its port, "
                      f"such as {host}:{CLOUD_PORT}.", param, ctx)
        return host, int(port) if port else CLOUD_PORT


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@click.command(epilog="Example: paceline train --local --rounds 10 --target 0.95")
@training_options
@click.option("--local", is_flag=True, help="Train on loopback: no root, no emulation, no reservations.")
@click.option("--edges", default=4, show_default=True, help="With --local: number of edges.")
@click.option(
    "--port", default=CLOUD_PORT, show_default=True, help="TCP port of the cloud; the edges use the following ports."
)
@click.option("--controller", help="URL of the controller.  [default: that of the emulation]")
@click.option("--runs-dir", default="runs", show_default=True, type=click.Path(file_okay=False, path_type=Path),
              help="Parent directory of run records.")
@click.option("--resume", type=click.Path(file_okay=False, exists=True, path_type=Path),
              help="Resume the run in this directory from its last averaging.")
@click.option("--token-file", type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="File with a secret shared by cloud and edges, for mutual authentication.")
@click.option("--tls-dir", type=click.Path(exists=True, file_okay=False, path_type=Path),
              help="Use TLS with ca.crt and the NAME.crt and NAME.key of every node in this directory.")
@output_options
@click.pass_context
def train(
    ctx: click.Context, /, local: bool, edges: int, port: int, controller: str | None, runs_dir: Path,
    resume: Path | None, token_file: Path | None, tls_dir: Path | None, quiet: bool, as_json: bool, **options: Any,
) -> None:
    """Train a model split between the edges and the cloud.

    Without --local, the nodes run in the hosts of the emulation on this machine.
    """
    from trainer.records.progress import print_json
    from trainer.records.run_record import new_run_directory

    changes = explicit_options(ctx, options)
    before = resumed_settings(resume, changes) if resume else None
    if resume is not None:
        ctx.with_resource(registered(resume))
    _check_place(_given(ctx, "local"), edges if _given(ctx, "edges") else None, controller, before)
    if before is not None:
        local, edges = before.map_name is None, len(before.edges)
    if not 1024 <= port <= 65535 - 1 - edges:
        raise UsageError(
            f"--port is {port}; it and the ports of the {edges} edges after it must lie between 1024 and 65535."
        )
    running = None if local else running_emulation.read()
    if not local and running is None:
        raise NetworkError(NO_EMULATION)
    names = [f"edge{number}" for number in range(1, edges + 1)]
    if running is not None:
        names = [host.name for host in running.hosts if host.kind == "edge"]
    options["trust_samples"] = True  # the edges are processes of this command
    settings = before or to_settings(options, edges=tuple(names))  # report errors here and not in a child process
    if set(names) != set(settings.edges):
        raise UsageError(f"The run in {resume} has the edges {', '.join(settings.edges)}, not {', '.join(names)}.")
    for name in ("cloud", *names):
        _check_secrets(name, token_file, tls_dir)
    echo = (lambda _: None) if quiet or as_json else click.echo
    limits.check(len(names))
    url = controller or (running.controller_url if running else None)
    echo(_where(running, edges, None if settings.best_effort else url))
    echo("Loading PyTorch.")
    preload(settings)
    echo(f"Loading the data ({settings.data}) and checking the model on it.")
    notes = check_run(settings, names)
    directory = resume or new_run_directory(runs_dir)
    cloud_flags = ["--resume", str(resume), *to_flags({name: options[name] for name in changes})] if resume else [
        *to_flags(options), "--run-dir", str(directory)]
    cloud_flags += ["--quiet"] if quiet else []
    cloud_flags += ["--json"] if as_json else []
    if running is None:
        jobs = launch.local_processes(names, port, cloud_flags, _edge_flags(settings))
    else:
        cloud_flags += ["--controller", str(url), "--map", running.map_name]
        jobs = launch.emulated_processes(running, port, cloud_flags, _edge_flags(settings))
    jobs = [launch.with_flags(job, _secrets(job.name, token_file, tls_dir)) for job in jobs]
    for note in notes:
        if as_json:
            print_json({"time": round(time.time(), 3), "event": "said", "sentence": note})
        else:
            echo(note)
    with registered(directory):
        echo(f"Starting the cloud and {len(names)} edges; each edge standardizes its data and measures the model's "
             "layers.")
        launch.run_processes(jobs, directory, len(names) - settings.quorum_in_training, ctx.obj)


def _edge_flags(settings: RunSettings) -> list[str]:
    """Return the options of the edges of a run."""
    flags = ["--seed", str(settings.seed), "--data", settings.data, "--partition", settings.partition]
    if settings.collect is not None:
        flags += ["--collect", str(settings.collect)]
    if settings.model is not None:
        flags += ["--model", settings.model]
    flags += ["--min-cut", str(min([settings.min_cut, *(cut for row in settings.cuts for cut in row)]))]
    for flag, value in (("--loss", settings.loss), ("--metric", settings.metric)):
        flags += [] if value is None else [flag, value]
    if settings.protect_labels:
        flags += ["--protect-labels"]
    if settings.secure_aggregation:
        flags += ["--secure-aggregation"]
    return flags


def _given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE


def _check_place(local: bool, edges: int | None, controller: str | None, before: RunSettings | None) -> None:
    """Check that the options on where a run trains fit each other, and the run that is resumed (`before`).

    Raises: UsageError.
    """
    if before is not None and local and before.map_name is not None:
        raise UsageError(f"The run was started on the map {before.map_name}; it is not resumed with --local.")
    local = before.map_name is None if before is not None else local
    if edges is not None and not local:
        raise UsageError("--edges requires --local; in the emulation the edges are those of its map.")
    if edges is not None and before is not None and edges != len(before.edges):
        raise UsageError(f"--edges is {edges}; the run to resume has {len(before.edges)}.")
    if controller is not None and local:
        raise UsageError("--controller does not apply to --local: loopback has no switches to reserve on.")


def _where(running: running_emulation.RunningEmulation | None, edges: int, url: str | None) -> str:
    """Return a sentence on where a run trains; `url`: of the controller that reserves for it."""
    if running is None:
        return f"Training on this machine: {edges} edges on loopback, no emulated network, no reservations."
    reserved = "best effort, no reservations." if url is None else f"controller {url}."
    return f"Training on the emulated map {running.map_name}: {reserved}"


def preload(settings: RunSettings | None = None) -> None:
    """Import the modules of cloud and edges once, before the processes are forked, and meanwhile load built-in data.

    What all processes share stays outside their garbage collection.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    is_builtin = settings is not None and settings.collect is None and settings.data in DATA_SETS
    if is_builtin and settings is not None and settings.data == read_ahead.DATA:
        read_ahead.start()
    with without_collection():
        importlib.import_module("trainer.data.load")  # with all that two threads must not import at a time
        loading = threading.Thread(target=_load_builtin, args=(settings,))
        if is_builtin:
            loading.start()
        for module in (
            "trainer.cloud.training_loop", "trainer.edge.training_loop", "trainer.records.progress",
            "trainer.reservation.reserved_bandwidth",
        ):
            importlib.import_module(module)
        if is_builtin:
            loading.join()
        importlib.import_module("trainer.edge.training_loop").warm_up()


def _load_builtin(settings: RunSettings) -> None:
    """Load built-in data; what fails is told by the check of the run."""
    from trainer.data.load import preload as preload_data

    with contextlib.suppress(TrainerError):
        preload_data(settings.data, settings.seed)


def _secrets(name: str, token_file: Path | None, tls_dir: Path | None) -> list[str]:
    flags = ["--token-file", str(token_file)] if token_file else []
    if tls_dir:
        files = {"--tls-ca": "ca.crt", "--tls-cert": f"{name}.crt", "--tls-key": f"{name}.key"}
        for flag, file in files.items():
            if not (tls_dir / file).is_file():
                raise UsageError(f"{tls_dir} has no {file}; it must contain certificate and key of every node.")
            flags += [flag, str(tls_dir / file)]
    return flags


def _check_secrets(name: str, token_file: Path | None, tls_dir: Path | None) -> None:
    """Load the credentials of a node as it will do.

    Raises: UsageError.
    """
    from trainer.transport.credentials import load_credentials

    flags = _secrets(name, token_file, tls_dir)
    files = {flag: Path(value) for flag, value in zip(flags[::2], flags[1::2], strict=True)}
    ca, cert, key = (files.get(flag) for flag in ("--tls-ca", "--tls-cert", "--tls-key"))
    load_credentials(name == "cloud", ca, cert, key, token_file)


@click.command(epilog="Example: paceline cloud --bind 192.0.2.1:7800 --edge edge1 --edge edge2")
@training_options
@click.option(
    "--bind", type=Address(), default=f"0.0.0.0:{CLOUD_PORT}", show_default=True, help="Address to listen on."
)
@click.option("--edge", "edges", multiple=True, help="Name of an expected edge; repeat for every edge.")
@click.option("--name", default="cloud", show_default=True, help="Name of this node on the map.")
@click.option("--controller", help="URL of the controller; without it nothing is reserved.")
@click.option("--map", "map_name", help="Name of the map, for the run record.")
@click.option("--runs-dir", default="runs", show_default=True, type=click.Path(file_okay=False, path_type=Path),
              help="Parent directory of run records.")
@click.option(
    "--run-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Directory of this run.  [default: a new one in --runs-dir]",
)
@click.option("--resume", type=click.Path(file_okay=False, exists=True, path_type=Path),
              help="Resume the run in this directory from its last averaging; its edges reconnect.")
@credential_options
@output_options
@click.pass_context
def cloud(
    ctx: click.Context, /, bind: tuple[str, int], edges: tuple[str, ...], name: str, controller: str | None,
    map_name: str | None, runs_dir: Path, run_dir: Path | None, resume: Path | None, tls_ca: Path | None,
    tls_cert: Path | None, tls_key: Path | None, token_file: Path | None, quiet: bool, as_json: bool, **options: Any,
) -> None:
    """Run the cloud node: wait for the edges, then plan, reserve, train and average; write the run record."""
    if resume is None:
        if not edges:
            raise UsageError("Name the expected edges: --edge edge1 --edge edge2; or resume a run: --resume RUN.")
        settings = to_settings(options, edges=edges, controller=controller, map_name=map_name)
    else:
        settings = resumed_settings(
            resume, {**explicit_options(ctx, options), **({"controller": controller} if controller else {})}
        )

    from trainer.cloud.training_loop import run
    from trainer.models.device import check_device
    from trainer.records import checkpoint
    from trainer.records.progress import listener
    from trainer.records.run_record import RunRecord, check_is_new, new_run_directory
    from trainer.records.sinks import with_sinks
    from trainer.transport.credentials import load_credentials
    from trainer.transport.sockets import check_local_address

    check_local_address(bind[0])
    check_names(settings)
    check_device(settings.device)
    node_credentials = load_credentials(True, tls_ca, tls_cert, tls_key, token_file)
    directory = resume or run_dir or new_run_directory(runs_dir)
    if resume is None:
        check_is_new(directory)
    ctx.with_resource(registered(directory))
    shown = listener(quiet, as_json, settings.rounds)
    listen = with_sinks(shown, settings.tensorboard, settings.mlflow, directory, asdict(settings))
    if resume is None:
        record = RunRecord(directory, asdict(settings), listen)
        after, reservation = None, None
    else:
        after = checkpoint.read(resume)
        reservation = last_reservation(resume)
        record = RunRecord.reopen(resume, asdict(settings), after.round, listen)
        record.event("resumed", round=after.round)
    listen.tell = lambda sentence: record.event("said", sentence=sentence)
    with contextlib.ExitStack() as closing:

        def notify(sentence: str) -> None:
            record.event("said", sentence=sentence)

        run(
            settings,
            bind,
            _bandwidth_factory(settings, name, bind[1], notify, closing, reservation),
            record,
            after,
            node_credentials,
            _partition_check(settings, name, notify, closing),
            cloud_workers.starter(settings, bind[0], name, tls_ca, tls_cert, tls_key, token_file),
        )


def _partition_check(
    settings: RunSettings, name: str, notify: Callable[[str], None], closing: contextlib.ExitStack
) -> FindPartition:
    """Return what tells which edges cannot reach the cloud; at best effort they are told and awaited all the same."""
    from trainer.reservation.controller_client import ControllerClient
    from trainer.reservation.partition_check import PartitionCheck, no_partition

    if settings.controller is None:
        return no_partition
    client = ControllerClient(settings.controller, 0, notify)
    closing.callback(client.close)
    check = PartitionCheck(client, name, notify)
    if not settings.best_effort:
        return check

    def tell_only(edges: Mapping[str, Sequence[str]]) -> Mapping[str, str]:
        check(edges)
        return {}

    return tell_only


def _bandwidth_factory(
    settings: RunSettings, name: str, port: int, notify: Callable[[str], None], closing: contextlib.ExitStack,
    reservation: str | None,
) -> Callable[[Sequence[EdgeSession]], BandwidthProvider]:
    """Return a function that makes the provider once the edges' ports are known; `reservation`: one to take over."""

    def make_bandwidth(sessions: Sequence[EdgeSession]) -> BandwidthProvider:
        from trainer.errors import ControllerUnreachableError
        from trainer.reservation.bandwidth import AssumedBandwidth, EdgeEndpoint
        from trainer.reservation.controller_client import ControllerClient
        from trainer.reservation.held_reservation import HeldReservation
        from trainer.reservation.reserved_bandwidth import ReservedBandwidth

        endpoints = [EdgeEndpoint(session.name, session.source_port) for session in sessions]
        assumed = AssumedBandwidth(endpoints, settings.share * settings.assume_bps, settings.floor_bps)
        planned_for = (f"plans assume {assumed.assumed_bps / 1e6:g} Mb/s in each direction for all edges together "
                       f"(--assume-bps x --share), and nothing is judged by it.")
        if settings.controller is None:
            notify(f"No controller to ask: {planned_for}")
            return assumed
        retries = 0 if settings.best_effort else settings.controller_retries
        client = ControllerClient(settings.controller, retries, notify)
        closing.callback(client.close)
        if settings.best_effort:
            try:
                client.network_json()
            except ControllerUnreachableError:
                notify(f"The controller at {settings.controller} does not answer: best effort; {planned_for}")
                return assumed
        held = HeldReservation(client, name, settings.lease_s, notify)
        if reservation is not None:
            held.adopt(reservation)
        return ReservedBandwidth(
            held, endpoints, port, settings.share, settings.floor_bps, not settings.best_effort, settings.protection
        )

    return make_bandwidth


@click.command(epilog="Example: paceline edge --name edge1 --cloud 192.0.2.1:7800 --index 0 --of 2")
@click.option("--name", required=True, help="Name of this edge on the map.")
@click.option("--cloud", "cloud_address", type=Address(), required=True, help="Address of the cloud.")
@click.option("--index", required=True, type=int, help="Index of this edge's share of the data, from 0.")
@click.option("--of", "edges", required=True, type=int, help="Number of shares.")
@click.option("--source-port", type=int, help="Source TCP port, for a reserved flow.")
@click.option(
    "--seed", default=RunSettings().seed, show_default=True, help="Seed of the partition; the same on all edges."
)
@click.option("--data", default=RunSettings().data, show_default=True, help=DATA_HELP)
@click.option("--partition", default=RunSettings().partition, show_default=True, help=PARTITION_HELP)
@click.option("--collect", type=click.IntRange(min=1), help=COLLECT_HELP)
@click.option("--model", help="Custom model (package.module:function) that the cloud may request.")
@click.option("--loss", help="Custom loss (package.module:function) that the cloud may request.")
@click.option("--metric", help="Custom metric (package.module:function) that the cloud may request.")
@click.option("--protect-labels", is_flag=True, help="Refuse a cloud that requires labels.")
@click.option("--secure-aggregation", is_flag=True,
              help="Refuse a cloud that requires this edge's layers other than in a secure sum of several edges.")
@click.option("--min-cut", default=1, show_default=True, type=click.IntRange(min=0),
              help="Least number of layers that run here; the edge refuses a plan with fewer. With 0 the cloud may "
              "receive raw inputs.")
@click.option("--connect-timeout", default=60.0, show_default=True, type=FiniteRange(0, 86_400),
              help="Seconds to try to connect, also after the connection is lost.")
@credential_options
@click.option("--tls-name", default="cloud", show_default=True, help="Name in the certificate of the cloud.")
@click.option("--cgroup", "cgroups", multiple=True, type=click.Path(path_type=Path),
              help="cgroup directory to join after loading; repeat for every directory.")
def edge(
    name: str, cloud_address: tuple[str, int], index: int, edges: int, source_port: int | None, seed: int,
    data: str, partition: str, collect: int | None, model: str | None, loss: str | None, metric: str | None,
    protect_labels: bool, secure_aggregation: bool, min_cut: int, connect_timeout: float,
    cgroups: tuple[Path, ...], tls_ca: Path | None, tls_cert: Path | None, tls_key: Path | None,
    token_file: Path | None, tls_name: str,
) -> None:
    """Run an edge node: join the cloud and train as planned.

    The data stays on this node: what leaves it are the outputs of its first layers (at least --min-cut), their labels
    unless protected, statistics of the data, and layers.
    """
    from trainer.edge.training_loop import EdgeSettings, run
    from trainer.transport.credentials import load_credentials

    leave()
    if collect is not None and parse_partitioning(partition).kind != "iid":
        raise UsageError(f"--partition is {partition}; with --collect each edge takes its share of what arrives (iid).")
    node_credentials = load_credentials(False, tls_ca, tls_cert, tls_key, token_file, tls_name)

    reason = run(EdgeSettings(name, cloud_address, index, edges, source_port, data=data,
                              sharing=parse_partitioning(partition), model=model, loss=loss, metric=metric,
                              protect_labels=protect_labels, secure_aggregation=secure_aggregation,
                              min_cut=min_cut, seed=seed, collect=collect,
                              connect_timeout_s=connect_timeout, cgroups=cgroups,
                              credentials=node_credentials), click.echo)
    click.echo(f"{name}: {reason}")
