"""Starts the cloud and the edges: in the hosts of the running emulation, or as plain processes on loopback.

Whatever happens, no child outlives this: they end when told, when their parent ends, or by force.
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

from topologies.running_emulation import Running, RunningHost
from trainer.errors import EXIT_NETWORK, EXIT_TRAINING, TrainerError
from trainer.processes.fork import Forked, be_called, enter_network_of, fork

LAST_LINES = 12
POLL_S = 0.1
GRACE_S = 15.0
"""For the cloud to release its reservation, and for edges to hang up."""

Act = Callable[[Sequence[str]], object]
"""Does what a command line says, and ends the process."""


class ChildFailedError(TrainerError):
    """A process of the run failed; `exit_code` is its own."""

    code = "child_failed"

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code  # type: ignore[misc]


@dataclass(frozen=True, slots=True)
class Job:
    """What to start where; `host` None: right here."""

    name: str
    arguments: tuple[str, ...]
    host: RunningHost | None = None


@dataclass
class Child:
    """A started process; its stderr (an edge's stdout, too) goes to `log`."""

    name: str
    process: Forked
    log: Path

    def last_lines(self) -> str:
        """What it said last."""
        lines = self.log.read_text(errors="replace").splitlines()
        return "\n".join(lines[-LAST_LINES:])


def local_jobs(edges: Sequence[str], port: int, cloud_flags: Sequence[str], edge_flags: Sequence[str]) -> list[Job]:
    """Cloud first, then the edges, all on loopback."""
    names = [flag for name in edges for flag in ("--edge", name)]
    cloud = Job("cloud", ("cloud", "--bind", f"127.0.0.1:{port}", *names, *cloud_flags))
    return [cloud, *(_edge_job(name, number, len(edges), "127.0.0.1", port, None, edge_flags)
                     for number, name in enumerate(edges))]


def emulated_jobs(
    running: Running, port: int, cloud_flags: Sequence[str], edge_flags: Sequence[str]
) -> list[Job]:
    """The same in the emulation's hosts.

    Raises: TrainerError if it has no cloud or no edges.
    """
    cloud = next((host for host in running.hosts if host.kind == "cloud"), None)
    edges = [host for host in running.hosts if host.kind == "edge"]
    if cloud is None or not edges:
        raise TrainerError(f"The map {running.map_name} has no cloud or no edges: nobody can train on it.")
    names = [flag for host in edges for flag in ("--edge", host.name)]
    job = Job(cloud.name, ("cloud", "--bind", f"{cloud.ip}:{port}", "--name", cloud.name, *names, *cloud_flags), cloud)
    return [job, *(_edge_job(host.name, number, len(edges), cloud.ip, port, host, edge_flags)
                   for number, host in enumerate(edges))]


def with_flags(job: Job, flags: Sequence[str]) -> Job:
    """The same with more flags."""
    return replace(job, arguments=(*job.arguments, *flags))


def _edge_job(
    name: str, number: int, edges: int, ip: str, port: int, host: RunningHost | None, flags: Sequence[str]
) -> Job:
    return Job(
        name,
        ("edge", "--name", name, "--cloud", f"{ip}:{port}", "--index", str(number), "--of", str(edges),
         "--source-port", str(port + 1 + number), *_limits(host), *flags),
        host,
    )


def _limits(host: RunningHost | None) -> list[str]:
    """An edge joins its CPU limit itself, when it has loaded what it needs."""
    return [] if host is None else [flag for directory in host.cgroup for flag in ("--cgroup", directory)]


def run_jobs(jobs: Sequence[Job], logs: Path, may_lose: int, act: Act) -> None:
    """Run cloud (the first job) and edges until the cloud ends; so many edges may fail meanwhile.

    Each is a copy of this process, which has imported what they need: it takes longer than anything else they do first.

    Raises: ChildFailedError that says which process failed, with its last lines.
    """
    with _stopped_at_end() as children:
        for job in jobs:
            children.append(_start(job, logs, act))
        cloud, edges = children[0], children[1:]
        while cloud.process.poll() is None:
            failed = [edge for edge in edges if edge.process.poll() not in (None, 0)]
            if len(failed) > may_lose:
                _wait([cloud], GRACE_S / 5)  # its own words are better, if it noticed
                raise _failure(cloud if cloud.process.poll() else failed[-1])
            time.sleep(POLL_S)
        if cloud.process.returncode != 0:
            raise _failure(cloud)


def _failure(child: Child) -> ChildFailedError:
    code = child.process.returncode
    assert code is not None, "it has ended"
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed (exit code {code})"
    return ChildFailedError(
        f"{child.name} {how}. Its last lines, from {child.log}:\n{child.last_lines()}",
        code if code in (EXIT_NETWORK, 2) else EXIT_TRAINING,
    )


def _start(job: Job, logs: Path, act: Act) -> Child:
    log = logs / f"{job.name}.log"
    with log.open("wb") as output:
        process = fork(partial(_be, job, act), None if job.arguments[0] == "cloud" else output, output)
    return Child(job.name, process, log)


def _be(job: Job, act: Act) -> None:
    """Become the cloud or an edge: in its host's network, and the cloud in its host's control group."""
    be_called(job.name)
    if job.host is not None:
        for directory in job.host.cgroup if job.arguments[0] == "cloud" else ():
            Path(directory, "cgroup.procs").write_text(str(os.getpid()))
        enter_network_of(job.host.pid)
    act(job.arguments)


@contextlib.contextmanager
def _stopped_at_end() -> Iterator[list[Child]]:
    """Children that all end with the block: the cloud first, so that it can say goodbye and release."""
    children: list[Child] = []
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


def _signal(children: Sequence[Child], number: signal.Signals) -> None:
    for child in children:
        child.process.send_signal(number)


def _wait(children: Sequence[Child], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    for child in children:
        child.process.wait(max(0.0, deadline - time.monotonic()))
