"""Real networks for the tests: the emulation is started as a user starts it, and always taken down again.

One runs at a time. The last one stays up for the next module that wants the same, if it is still as it was at the
start; whoever starts an emulation of his own ends it.
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
from topologies.loader import load_map
from topologies.maps import Map
from trainer.processes.fork import ForkedProcess

ROOT = Path(__file__).parents[2]
START = [sys.executable, str(ROOT / "mininet/start.py")]
READY_TIMEOUT_S = 240.0
MAPS = "metro", "pair"
"""Fixtures of this name are emulations of that map."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Modules on the same map come one after the other, so that its emulation starts once."""
    maps: dict[Path, int] = {}
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.network)
            wanted = getattr(item, "fixturenames", ())
            here = next((place for place, name in enumerate(MAPS) if name in wanted), len(MAPS))
            maps[item.path] = min(here, maps.get(item.path, here))
    items.sort(key=lambda item: maps.get(item.path, -1))


@pytest.fixture(autouse=True, scope="session")
def _needs_root_and_open_vswitch() -> None:
    lacking = []
    if os.geteuid() != 0:
        lacking.append("root")
    lacking += [tool for tool in ("ovs-vswitchd", "mnexec", "iperf3") if shutil.which(tool) is None]
    if lacking and os.environ.get("CI"):
        pytest.fail(f"network tests must run in CI, but there is no {', '.join(lacking)}")
    if lacking:
        pytest.skip(f"NETWORK TESTS SKIPPED: no {', '.join(lacking)}; run `sudo make test`")


class Started:
    """A `mininet/start.py` that runs; what it printed is in `log`."""

    def __init__(self, arguments: list[str], log: Path) -> None:
        KEPT.end()
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [*START, *arguments], stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT
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
def started(arguments: list[str], log: Path, ready: str = "ready") -> Iterator[Started]:
    """A started emulation; afterwards it has ended, and a crash's remains are cleaned up."""
    start = Started(arguments, log)
    try:
        start.wait_for(ready)
        yield start
    finally:
        start.end()
        subprocess.run([*START, "-c"], capture_output=True, check=False)


@dataclass(frozen=True)
class Network:
    """A running emulation as a test sees it: its map, its hosts, its controller."""

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
        """Ask a switch itself: `switch("dump-flows", "s1")`."""
        command, name, *rest = (tool, *arguments)
        socket = f"unix:{self.note.ovs_directory}/{name}.mgmt"
        done = subprocess.run(
            ["ovs-ofctl", "-O", "OpenFlow13", command, socket, *rest], capture_output=True, text=True, check=True
        )
        return done.stdout

    def is_as_new(self) -> bool:
        """Whether nobody has left anything behind: all is up, nothing is reserved, switches hold what they should."""
        try:
            health, network = self.api.get("/v1/healthz").json(), self.api.get("/v1/network").json()
            consistency = self.api.get("/v1/consistency").json()
        except httpx.TransportError:
            return False
        free = all(link["up"] and link["reserved_bps"] == 0 for link in network["links"])
        nothing_more = not any(switch["foreign"] for switch in consistency["switches"])
        well = health["status"] == "ok" and not network["complaints"]
        return bool(well and free and consistency["consistent"] and nothing_more)

    def reserve(self, **rates_bps: int) -> dict[str, Any]:
        """Reserve the uplink of each edge named, on the ports the trainer uses."""
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


class Kept:
    """The emulation that stays up from one module to the next."""

    def __init__(self) -> None:
        self._asked: tuple[str, ...] = ()
        self._network: Network | None = None
        self._stack = ExitStack()

    def bring_up(self, log: Path, name: str, *arguments: str) -> Network:
        """An emulation of this map with its controller, new or as good as new."""
        asked = (name, *arguments)
        if self._network is not None and self._asked == asked and self._network.is_as_new():
            return self._network
        self.end()
        stack = ExitStack()
        with stack:
            stack.enter_context(started([*asked, "--no-prompt"], log))
            note = running_emulation.read()
            assert note is not None
            client = stack.enter_context(httpx.Client(base_url="http://127.0.0.1:8080", timeout=20))
            self._asked, self._network = asked, Network(load_map(note.map_path), note, client)
            self._stack = stack.pop_all()
        return self._network

    def end(self) -> None:
        """Take it down, if there is one."""
        self._network = None
        self._stack.close()


KEPT = Kept()


@pytest.fixture(scope="session")
def kept() -> Iterator[Kept]:
    yield KEPT
    KEPT.end()


@pytest.fixture
def no_emulation(kept: Kept) -> None:
    """None runs when the test begins."""
    kept.end()


@pytest.fixture(scope="module")
def network_of(kept: Kept, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Network]:
    """Brings up a map with its controller."""

    def bring_up(name: str, *arguments: str) -> Network:
        return kept.bring_up(tmp_path_factory.mktemp("emulation") / "start.log", name, *arguments)

    return bring_up


@pytest.fixture(scope="module")
def pair(network_of: Callable[..., Network]) -> Network:
    return network_of("pair")


@pytest.fixture(scope="module")
def metro(network_of: Callable[..., Network]) -> Network:
    return network_of("metro")
