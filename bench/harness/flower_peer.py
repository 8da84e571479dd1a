"""Federated averaging with Flower in the hosts of an emulation: SuperLink in the cloud's, SuperNodes in the edges'.

Flower is installed into a virtual environment of its own, which also sees the packages of this one (PyTorch). The
SuperNodes run in the cloud's control group, which has no limit and goes before everything else on the machine; the
processes of their tasks enter the CPU limits of the edges once they have loaded.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from emulation.network import Emulation
from harness.paceline_peer import in_cgroup
from machine.errors import EmulationError
from topologies.running_emulation import RunningHost
from trainer.data.standardization import Standardization

VERSION = "1.42.0"
ROOT = Path(__file__).parents[2]
APP = Path(__file__).parent / "flower_app"
PORT, NODE_PORT = 9091, 9094
POLL_S = 0.05
START_TIMEOUT_S, END_TIMEOUT_S = 60.0, 10.0
LAST_LINES = 12

Event = dict[str, Any]


@contextlib.contextmanager
def flower_python(given: Path | None) -> Iterator[Path]:
    """Yield a Python with Flower of VERSION: the given one, or that of a new virtual environment in a temporary folder.

    Raises: click.ClickException.
    """
    with tempfile.TemporaryDirectory(prefix="flower-") as directory:
        python = given or _install(Path(directory))
        check = "import flwr, torch; from importlib.metadata import version; print(version('flwr'))"
        done = subprocess.run([python, "-c", check], capture_output=True, text=True, check=False)
        if done.stdout.strip() != VERSION:
            found = done.stdout.strip() or done.stderr.strip().splitlines()[-1]
            raise click.ClickException(f"{python} must have Flower {VERSION} and PyTorch: {found}")
        yield python


def _install(directory: Path) -> Path:
    click.echo(f"installing Flower {VERSION} into {directory}")
    python = directory / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    subprocess.run([python, "-m", "pip", "install", "-q", f"flwr=={VERSION}"], check=True)
    purelib = subprocess.run([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                             capture_output=True, text=True, check=True).stdout.strip()
    (Path(purelib) / "packages_of_the_bench.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


@dataclasses.dataclass
class FlowerRun:
    """A run in progress."""

    log: Path
    processes: dict[str, subprocess.Popen[bytes]]

    def check(self) -> None:
        """Raises: EmulationError with the last lines of what SuperLink or a SuperNode wrote if one has ended."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                lines = (self.log.parent / f"{name}.log").read_text().splitlines()[-LAST_LINES:]
                raise EmulationError("\n".join([f"{name} of Flower has ended:", *lines]))

    def events(self) -> list[Event]:
        """Return what the server has told so far: first_round, and averaged and evaluated for each averaging.

        Raises: EmulationError if SuperLink or a SuperNode has ended.
        """
        self.check()
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [json.loads(line) for line in lines if line.endswith("}")]


@contextlib.contextmanager
def flower_run(
    emulation: Emulation, python: Path, directory: Path, seed: int, weight_decay: float, how: Standardization
) -> Iterator[FlowerRun]:
    """Start a run, end its processes at the end of the block. `directory`: for output and Flower's own files.

    `how`: the standardization of all edges, chosen before, so that Flower needs no round for it.

    Raises: EmulationError.
    """
    cloud = next(host for host in emulation.hosts if host.kind == "cloud")
    edges = [host for host in emulation.hosts if host.kind == "edge"]
    address = f"{cloud.ip}:{PORT}"
    (directory / "home").mkdir(parents=True)
    (directory / "home" / "config.toml").write_text(
        f'[superlink]\ndefault = "cloud"\n\n[superlink.cloud]\naddress = "{address}"\ninsecure = true\n')
    run = FlowerRun(directory / "events.jsonl", {})
    starter = _Starter(emulation, python, directory, cloud.cgroup)
    try:
        run.processes["superlink"] = starter.start(cloud, "superlink", [
            "flower-superlink", "--insecure", "--disable-runtime-dependency-installation", "--host", cloud.ip,
            "--port", str(PORT)])
        _await_listener(emulation, cloud.name, run)  # a SuperNode that finds none waits for some seconds
        for number, host in enumerate(edges):
            config = f'number={number} cgroups="{":".join(host.cgroup)}"'
            run.processes[host.name] = starter.start(host, host.name, [
                "flower-supernode", "--insecure", "--superlink", address, "--port", str(NODE_PORT + number),
                "--node-config", config])
        settings = (f"edges={len(edges)} seed={seed} weight-decay={weight_decay} log='{run.log}' "
                    f"standardization='{json.dumps(dataclasses.asdict(how))}'")
        submitted = starter.start(cloud, "run", ["flwr", "run", str(APP), "cloud", "--run-config", settings])
        if submitted.wait():
            raise EmulationError(f"flwr run failed: {(directory / 'run.log').read_text()}")
        yield run
    finally:
        for process in reversed(run.processes.values()):
            process.terminate()
        deadline = time.monotonic() + END_TIMEOUT_S
        for process in run.processes.values():
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for group in (group for host in (cloud, *edges) for group in host.cgroup):
            # What they started in sessions of their own may still run, and would slow the next peer down.
            for pid in Path(group, "cgroup.procs").read_text().split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)


def _await_listener(emulation: Emulation, cloud: str, run: FlowerRun) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while f":{PORT} " not in emulation.run_in(cloud, "ss -ltnH"):
        run.check()
        if time.monotonic() > deadline:
            raise EmulationError(f"SuperLink does not listen after {START_TIMEOUT_S:g} s")
        time.sleep(POLL_S)


@dataclasses.dataclass(frozen=True)
class _Starter:
    emulation: Emulation
    python: Path
    directory: Path
    cgroup: Sequence[str]

    def start(self, host: RunningHost, name: str, command: list[str]) -> subprocess.Popen[bytes]:
        """Start a command of Flower in a host; its output is written to NAME.log."""
        folder = self.python.parent
        environment = {
            **os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "PYTHONPATH": f"{ROOT}:{ROOT / 'bench'}",
            "FLWR_HOME": str(self.directory / "home"), "FLWR_TELEMETRY_ENABLED": "0", "OMP_NUM_THREADS": "1",
        }
        with (self.directory / f"{name}.log").open("wb") as log:
            # Not with `mnexec`, which also hides the control groups.
            entered = ["nsenter", f"--net=/proc/{host.pid}/ns/net", str(folder / command[0]), *command[1:]]
            process = subprocess.Popen(in_cgroup(self.cgroup, entered), env=environment, stdin=subprocess.DEVNULL,
                                       stdout=log, stderr=subprocess.STDOUT)
            self.emulation.journal.record_process(process.pid, f"{command[0]} in {host.name}")
            return process
