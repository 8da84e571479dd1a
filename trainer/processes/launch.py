"""Starts the cloud and the edges: in the hosts of the running emulation, or as plain processes on loopback.

No child outlives this process: children exit on a signal, when their parent exits, or by SIGKILL.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from topologies.running_emulation import RunningEmulation, RunningHost
from trainer.errors import EXIT_NETWORK, EXIT_TRAINING, TrainerError
from trainer.processes.fork import ForkedProcess, enter_network_namespace, fork, set_process_name

LAST_LINES = 12
POLL_S = 0.1
GRACE_S = 15.0
"""Time for the cloud to release its reservation and for edges to disconnect."""

CommandRunner = Callable[[Sequence[str]], object]
"""Runs a command line and exits the process."""


class ChildFailedError(TrainerError):
    """A process of the run failed; `exit_code` is that of the process."""

    code = "child_failed"

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A command to start in an emulated host, or on this machine (`host` None)."""

    name: str
    arguments: tuple[str, ...]
    host: RunningHost | None = None


@dataclass
class ChildProcess:
    """A started process; its stderr (and an edge's stdout) is written to `log`."""

    name: str
    process: ForkedProcess
    log: Path

    def last_lines(self) -> str:
        """Return the last lines of the log."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LAST_LINES:])


def local_processes(
    edges: Sequence[str], port: int, cloud_flags: Sequence[str], edge_flags: Sequence[str]
) -> list[ProcessSpec]:
    """Return the processes of a run on loopback: the cloud, then the edges."""
    names = [flag for name in edges for flag in ("--edge", name)]
    cloud = ProcessSpec("cloud", ("cloud", "--bind", f"127.0.0.1:{port}", *names, *cloud_flags))
    return [cloud, *(_edge_process(name, number, len(edges), "127.0.0.1", port, None, edge_flags)
                     for number, name in enumerate(edges))]


def emulated_processes(
    running: RunningEmulation, port: int, cloud_flags: Sequence[str], edge_flags: Sequence[str]
) -> list[ProcessSpec]:
    """Return the processes of a run in the emulation's hosts: the cloud, then the edges.

    Raises: TrainerError if the map has no cloud or no edges.
    """
    cloud = next((host for host in running.hosts if host.kind == "cloud"), None)
    edges = [host for host in running.hosts if host.kind == "edge"]
    if cloud is None or not edges:
        raise TrainerError(f"The map {running.map_name} has no cloud or no edges; training needs both.")
    names = [flag for host in edges for flag in ("--edge", host.name)]
    spec = ProcessSpec(
        cloud.name, ("cloud", "--bind", f"{cloud.ip}:{port}", "--name", cloud.name, *names, *cloud_flags), cloud
    )
    return [spec, *(_edge_process(host.name, number, len(edges), cloud.ip, port, host, edge_flags)
                   for number, host in enumerate(edges))]


def with_flags(spec: ProcessSpec, flags: Sequence[str]) -> ProcessSpec:
    """Return the process with flags appended to its command line."""
    return replace(spec, arguments=(*spec.arguments, *flags))


def _edge_process(
    name: str, number: int, edges: int, ip: str, port: int, host: RunningHost | None, flags: Sequence[str]
) -> ProcessSpec:
    return ProcessSpec(
        name,
        ("edge", "--name", name, "--cloud", f"{ip}:{port}", "--index", str(number), "--of", str(edges),
         "--source-port", str(port + 1 + number), *_cgroup_flags(host), *flags),
        host,
    )


def _cgroup_flags(host: RunningHost | None) -> list[str]:
    """An edge enters its CPU limit itself, after it has imported its modules."""
    return [] if host is None else [flag for directory in host.cgroup for flag in ("--cgroup", directory)]


def run_processes(
    specs: Sequence[ProcessSpec], logs: Path, max_lost_edges: int, run_command: CommandRunner
) -> None:
    """Run the cloud (the first process) and the edges until the cloud exits; tolerate `max_lost_edges` failed edges.

    Each is forked from this process, which has imported their modules: imports dominate their start-up time.

    Raises: ChildFailedError that names the failed process, with its last lines of output.
    """
    with _stopping_children() as children:
        for spec in specs:
            children.append(_start(spec, logs, run_command))
        cloud, edges = children[0], children[1:]
        while cloud.process.poll() is None:
            failed = [edge for edge in edges if edge.process.poll() not in (None, 0)]
            if len(failed) > max_lost_edges:
                _wait([cloud], GRACE_S / 5)  # the cloud's own error is more precise
                raise _failure(cloud if cloud.process.poll() else failed[-1])
            time.sleep(POLL_S)
        if cloud.process.returncode != 0:
            raise _failure(cloud)


def _failure(child: ChildProcess) -> ChildFailedError:
    code = child.process.returncode
    assert code is not None, "the process has exited"
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"failed (exit code {code})"
    return ChildFailedError(
        f"{child.name} {how}. Its last lines, from {child.log}:\n{child.last_lines()}",
        code if code in (EXIT_NETWORK, 2) else EXIT_TRAINING,
    )


def _start(spec: ProcessSpec, logs: Path, run_command: CommandRunner) -> ChildProcess:
    log = logs / f"{spec.name}.log"
    with log.open("wb") as output:
        process = fork(partial(_run, spec, run_command), None if spec.arguments[0] == "cloud" else output, output)
    return ChildProcess(spec.name, process, log)


def _run(spec: ProcessSpec, run_command: CommandRunner) -> None:
    """Run the cloud or an edge in its host's network namespace, and the cloud in its host's cgroup."""
    set_process_name(spec.name)
    if spec.host is not None:
        for directory in spec.host.cgroup if spec.arguments[0] == "cloud" else ():
            Path(directory, "cgroup.procs").write_text(str(os.getpid()))
        enter_network_namespace(spec.host.pid)
    run_command(spec.arguments)


@contextlib.contextmanager
def _stopping_children() -> Iterator[list[ChildProcess]]:
    """Stop all children at the end of the block: the cloud first, so that it can finish the edges and release."""
    children: list[ChildProcess] = []
    try:
        yield children
    finally:
        for group in (children[:1], children[1:]):
            if group and group[0] is children[0]:
                _signal(group, signal.SIGINT)
                _wait(group, GRACE_S)
            else:
                _wait(group, 2.0)
                _signal(group, signal.SIGTERM)
                _wait(group, 2.0)
            _signal(group, signal.SIGKILL)
            _wait(group, GRACE_S)


def _signal(children: Sequence[ChildProcess], number: signal.Signals) -> None:
    for child in children:
        child.process.send_signal(number)


def _wait(children: Sequence[ChildProcess], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for child in children:
        child.process.wait(max(0.0, deadline - time.monotonic()))
