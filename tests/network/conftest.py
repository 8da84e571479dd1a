"""Fixtures: real emulated networks, started like a user starts them, and always stopped.

One emulation runs at a time. The last one is reused by the next module with the same arguments, if its state is still
the initial one; a test that starts an emulation itself ends the cached one.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.forked_processes import FORK_SERVER
from topologies import running_emulation
from topologies.map_file.loader import load_map
from topologies.maps import Map
from trainer.processes.fork import ForkedProcess

ROOT = Path(__file__).parents[2]
START = [sys.executable, str(ROOT / "mininet/start.py")]
READY_TIMEOUT_S = 240.0
MAPS = "metro", "pair"
"""Fixtures of this name are emulations of that map."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort modules by map, so that each emulation starts once."""
    maps: dict[Path, int] = {}
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.network)
            fixtures = getattr(item, "fixturenames", ())
            rank = next((index for index, name in enumerate(MAPS) if name in fixtures), len(MAPS))
            maps[item.path] = min(rank, maps.get(item.path, rank))
    items.sort(key=lambda item: maps.get(item.path, -1))


@pytest.fixture(autouse=True, scope="session")
def _needs_root_and_open_vswitch() -> None:
    missing = []
    if os.geteuid() != 0:
        missing.append("root")
    missing += [tool for tool in ("ovs-vswitchd", "mnexec", "iperf3") if shutil.which(tool) is None]
    if missing and os.environ.get("CI"):
        pytest.fail(f"network tests must run in CI, but there is no {', '.join(missing)}")
    if missing:
        pytest.skip(f"NETWORK TESTS SKIPPED: no {', '.join(missing)}; run `sudo make test`")


class Started:
    """A running `mininet/start.py`, with its output in `log`."""

    def __init__(self, arguments: list[str], log: Path, directory: Path | None = None) -> None:
        """`directory`: where it runs; None: in that of this process."""
        EMULATION_CACHE.end()
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*START, *arguments], stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, cwd=directory
            )

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, words: str) -> None:
        deadline = time.monotonic() + READY_TIMEOUT_S
        while words not in self.text():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < deadline, f"no {words!r} in: {self.text()}"
            time.sleep(0.05)

    def end(self, number: int = signal.SIGINT) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(60)
        assert self.process.stdin is not None
        self.process.stdin.close()
        return code


@contextmanager
def started(
    arguments: list[str], log: Path, ready: str = "ready", directory: Path | None = None
) -> Iterator[Started]:
    """Start an emulation within the block; at the end stop it and clean up after a crash."""
    start = Started(arguments, log, directory)
    try:
        start.wait_for(ready)
        yield start
    finally:
        start.end()
        subprocess.run([*START, "-c"], capture_output=True, check=False)


@dataclass(frozen=True)
class Network:
    """A running emulation: its map, its hosts, a client of its controller."""

    topology: Map
    note: running_emulation.RunningEmulation
    api: httpx.Client

    def command_in(self, host: str, command: list[str]) -> list[str]:
        return ["mnexec", "-a", str(self.note.host(host).pid), *command]

    def run_in(self, host: str, command: list[str], timeout_s: float = 60) -> str:
        done = subprocess.run(
            self.command_in(host, command), capture_output=True, text=True, timeout=timeout_s, check=False
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    @contextmanager
    def running_in(self, host: str, command: list[str], **options: Any) -> Iterator[subprocess.Popen[bytes]]:
        process = subprocess.Popen(self.command_in(host, command), **options)
        try:
            yield process
        finally:
            process.terminate()
            process.wait(60)

    def transfers(self, host: str, log: Path, *arguments: str) -> ForkedProcess:
        """Start `bench/harness/transfer_endpoints.py` in a host."""
        return FORK_SERVER.start(log, arguments, "transfers", self.note.host(host).pid)

    def switch(self, tool: str, *arguments: str) -> str:
        """Run ovs-ofctl on a switch: `switch("dump-flows", "s1")`."""
        command, name, *rest = (tool, *arguments)
        socket = f"unix:{self.note.ovs_directory}/{name}.mgmt"
        done = subprocess.run(
            ["ovs-ofctl", "-O", "OpenFlow13", command, socket, *rest], capture_output=True, text=True, check=True
        )
        return done.stdout

    def is_in_initial_state(self) -> bool:
        """Whether all links are up, nothing is reserved, and switches are consistent and without foreign entries."""
        try:
            health, network = self.api.get("/v1/healthz").json(), self.api.get("/v1/network").json()
            consistency = self.api.get("/v1/consistency").json()
        except httpx.TransportError:
            return False
        free = all(link["up"] and link["reserved_bps"] == 0 for link in network["links"])
        no_foreign_entries = not any(switch["foreign"] for switch in consistency["switches"])
        healthy = health["status"] == "ok" and not network["complaints"]
        return bool(healthy and free and consistency["consistent"] and no_foreign_entries)

    def reserve(self, **rates_bps: int) -> dict[str, Any]:
        """Reserve the uplink of each named edge, on the trainer's ports."""
        flows = [self.uplink(edge, rate_bps) for edge, rate_bps in rates_bps.items()]
        answer = self.api.post("/v1/reservations", json={"owner": "test", "lease_s": 120, "flows": flows})
        assert answer.status_code == 201, answer.text
        reservation: dict[str, Any] = answer.json()
        return reservation

    def uplink(self, edge: str, rate_bps: int) -> dict[str, Any]:
        index = [node.name for node in self.topology.edges].index(edge)
        return {
            "name": f"{edge}-up",
            "source": edge,
            "destination": "cloud",
            "match": {"protocol": "tcp", "source_port": 7801 + index, "destination_port": 7800},
            "requirement": {"min_bandwidth_bps": rate_bps},
        }


class EmulationCache:
    """The emulation that is reused from one module to the next."""

    def __init__(self) -> None:
        self._arguments: tuple[str, ...] = ()
        self._network: Network | None = None
        self._stack = ExitStack()

    def bring_up(self, log: Path, name: str, *arguments: str) -> Network:
        """Return an emulation of this map with its controller, new or in its initial state."""
        start_arguments = (name, *arguments)
        if self._network is not None and self._arguments == start_arguments and self._network.is_in_initial_state():
            return self._network
        self.end()
        stack = ExitStack()
        with stack:
            stack.enter_context(started([*start_arguments, "--no-prompt"], log))
            note = running_emulation.read()
            assert note is not None
            client = stack.enter_context(httpx.Client(base_url="http://127.0.0.1:8080", timeout=20))
            self._arguments, self._network = start_arguments, Network(load_map(note.map_path), note, client)
            self._stack = stack.pop_all()
        return self._network

    def end(self) -> None:
        """Stop the emulation, if there is one."""
        self._network = None
        self._stack.close()


EMULATION_CACHE = EmulationCache()


@pytest.fixture(scope="session")
def emulation_cache() -> Iterator[EmulationCache]:
    yield EMULATION_CACHE
    EMULATION_CACHE.end()


@pytest.fixture
def no_emulation(emulation_cache: EmulationCache) -> None:
    """No emulation runs when the test begins."""
    emulation_cache.end()


@pytest.fixture(scope="module")
def network_of(emulation_cache: EmulationCache, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Network]:
    """Function: map and arguments -> a running emulation with its controller."""

    def bring_up(name: str, *arguments: str) -> Network:
        return emulation_cache.bring_up(tmp_path_factory.mktemp("emulation") / "start.log", name, *arguments)

    return bring_up


@pytest.fixture(scope="module")
def pair(network_of: Callable[..., Network]) -> Network:
    return network_of("pair")


@pytest.fixture(scope="module")
def metro(network_of: Callable[..., Network]) -> Network:
    return network_of("metro")
