"""Cloud and edges as separate processes, for tests that stop, kill and restart them."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from tests.forked_processes import FORK_SERVER
from trainer.processes.fork import ForkedProcess

Event = dict[str, Any]
POLL_S = 0.01


_BLOCKS = count(os.getpid())  # concurrent test runs on this machine start at other ports
BLOCK, BLOCKS_OF_A_WORKER = 16, 180


def free_ports(number: int) -> int:
    """Return the first of `number` consecutive free ports, distinct from those of other pytest workers.

    They are below the ephemeral ports of the kernel.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 4
    for _ in range(BLOCKS_OF_A_WORKER):
        first = 20_000 + (worker * BLOCKS_OF_A_WORKER + next(_BLOCKS) % BLOCKS_OF_A_WORKER) * BLOCK
        try:
            for port in range(first, first + number):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return first
    raise AssertionError("no free ports")


@dataclass
class TrainingProcesses:
    """A cloud and edges on loopback, each a process that can be killed."""

    directory: Path
    edges: int
    port: int
    edge_flags: tuple[str, ...] = ()
    cloud_flags: tuple[str, ...] = ()
    processes: dict[str, ForkedProcess] = field(default_factory=dict)
    events_read: int = 0

    @property
    def run(self) -> Path:
        """Directory of the run."""
        return self.directory / "run"

    def start_cloud(self, *flags: str, program: str = "paceline") -> None:
        """Start a run; `program`: of the training fork server."""
        names = [flag for number in range(self.edges) for flag in ("--edge", f"edge{number + 1}")]
        self._start("cloud", "cloud", "--bind", f"127.0.0.1:{self.port}", *names, "--run-dir", str(self.run),
                    *self.cloud_flags, *flags, program=program)

    def resume_cloud(self, *flags: str) -> None:
        """Resume the run."""
        self._start("cloud", "cloud", "--bind", f"127.0.0.1:{self.port}", "--resume", str(self.run),
                    *self.cloud_flags, *flags)

    def start_edge(self, number: int, *flags: str, lie: str | None = None) -> None:
        """Start edge `number`, from 1; `lie`: a kind of `tests.processes.lying_edge`."""
        program, start = ("paceline", ("edge",)) if lie is None else ("lying edge", (lie, "edge"))
        self._start(f"edge{number}", *start, "--name", f"edge{number}", "--cloud", f"127.0.0.1:{self.port}", "--index",
                    str(number - 1), "--of", str(self.edges), "--source-port", str(self.port + number), "--seed", "5",
                    *self.edge_flags, *flags, program=program)

    def start_edges(self) -> None:
        """Start all edges."""
        for number in range(1, self.edges + 1):
            self.start_edge(number)

    def _start(self, name: str, *arguments: str, program: str = "paceline") -> None:
        self.processes[name] = FORK_SERVER.start(self.directory / f"{name}.log", arguments, program)

    def send(self, name: str, number: signal.Signals) -> None:
        """Send a signal to a process; after SIGKILL wait for its end."""
        self.processes[name].send_signal(number)
        if number == signal.SIGKILL:
            self.processes[name].wait()

    def events(self) -> list[Event]:
        """Return the events recorded so far."""
        path = self.run / "events.jsonl"
        text = path.read_text() if path.exists() else ""
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def wait_for(self, name: str, where: Callable[[Event], bool] = lambda _: True) -> Event:
        """Return the next event of that name after the last one that was waited for.

        Fails if the cloud ends without it. How long a run takes depends on the machine, so the only limit in time is
        that of pytest-timeout.
        """
        while True:
            ended = self.processes["cloud"].poll() is not None
            events = self.events()
            for index in range(self.events_read, len(events)):
                if events[index]["event"] == name and where(events[index]):
                    self.events_read = index + 1
                    return events[index]
            assert not ended, f"no event {name}; {self.logs()}"
            time.sleep(POLL_S)

    def finish(self, name: str = "cloud", seconds: float = 180) -> int:
        """Wait for the end of a process; return its exit code."""
        code = self.processes[name].wait(seconds)
        assert code is not None, f"{name} has not ended after {seconds:g} s; {self.logs()}"
        return code

    def summary(self) -> dict[str, Any]:
        """Return summary.json."""
        content: dict[str, Any] = json.loads((self.run / "summary.json").read_text())
        return content

    def logs(self) -> str:
        """Return the logs of all processes."""
        return "\n".join(f"--- {path.name}\n{path.read_text()}" for path in sorted(self.directory.glob("*.log")))


@contextmanager
def training_processes(
    directory: Path, edges: int, cloud_flags: tuple[str, ...] = (), edge_flags: tuple[str, ...] = ()
) -> Iterator[TrainingProcesses]:
    """Yield training processes that are killed at the end of the block."""
    directory.mkdir(exist_ok=True)
    training = TrainingProcesses(directory, edges, free_ports(edges + 1), edge_flags, cloud_flags)
    try:
        yield training
    finally:
        for process in training.processes.values():
            process.send_signal(signal.SIGCONT)
            process.send_signal(signal.SIGKILL)
            process.wait()
