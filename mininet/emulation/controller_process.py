"""The controller as a child process: start it, wait until all switches are connected and wired as the map says."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from machine.errors import EmulationError
from machine.kernel_settings import prefer
from topologies.maps import Map

POLL_S = 0.05
STOP_TIMEOUT_S = 5.0

Address = tuple[str, int]


class ControllerProcess:
    """`paceline controller` as a child process, started by the constructor; its output goes to `log`.

    `rest`: addresses of the REST API; the first is used here. `ledger`: URL of its database, which it leaves behind.
    """

    def __init__(
        self,
        map_path: Path,
        openflow: Address,
        rest: Sequence[Address],
        ledger: str,
        log: Path,
        pki: Path | None = None,
        options: Sequence[str] = (),
        before: Sequence[str] = (),
    ) -> None:
        """`before`: a command that executes the controller's, such as `ip netns exec NAME`."""
        self.log = log
        self.openflow_port = openflow[1]
        self.url = f"{'https' if pki else 'http'}://{rest[0][0]}:{rest[0][1]}"
        self._tls = ssl.create_default_context(cafile=str(pki / "ca.crt")) if pki else None
        self._command = [
            *before,
            *(sys.executable, "-m", "controller.runtime.main", str(map_path), "--ledger", ledger),
            *("--openflow", f"{openflow[0]}:{openflow[1]}"),
            *(word for host, port in rest for word in ("--listen", f"{host}:{port}")),
            *(_tls_options(pki) if pki else ()),
            *options,
        ]
        log.write_bytes(b"")
        self.start()

    def start(self) -> None:
        """Start the process; again after `kill`."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip
        prefer(self.process.pid)  # else its gates change late when the hosts use all cores

    def wait_until_ready(self, timeout_s: float, connect_switches: Callable[[], None]) -> None:
        """Wait until all switches are connected and wired as the map says.

        `connect_switches` is called as soon as the controller listens for switches.

        Raises: EmulationError naming what is missing.
        """
        deadline = time.monotonic() + timeout_s
        self._wait(deadline, timeout_s, lambda: None if self._is_listening() else "it does not listen yet")
        connect_switches()
        self._wait(deadline, timeout_s, self._missing)

    def check_running(self) -> None:
        """Raises: EmulationError with the end of the log if the process has ended."""
        if self.process.poll() is not None:
            raise EmulationError(f"the controller ended with exit code {self.process.returncode}:\n{self._tail()}")

    def kill(self) -> None:
        """End the controller with kill -9."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """Terminate the controller and wait for its end; kill it after STOP_TIMEOUT_S."""
        self.process.terminate()
        self.process.send_signal(signal.SIGCONT)  # a stopped process would not handle SIGTERM
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def _wait(self, deadline: float, timeout_s: float, missing: Callable[[], str | None]) -> None:
        state = "it does not respond yet"
        while time.monotonic() < deadline:
            self.check_running()
            if (found := missing()) is None:
                return
            state = found
            time.sleep(POLL_S)
        raise EmulationError(f"the controller is not ready after {timeout_s:g} s: {state}\n{self._tail()}")

    def _is_listening(self) -> bool:
        command = ["ss", "-ltnH", f"sport = :{self.openflow_port}"]
        return bool(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    def _missing(self) -> str | None:
        """A sentence on switches and cables that are missing; None if all are as the map says."""
        health, network = self._get("/v1/healthz"), self._get("/v1/network")
        if health is None or network is None:
            return "it does not respond yet"
        up, expected, complaints = health["switches_up"], health["switches_expected"], network["complaints"]
        if up == expected and not complaints:
            return None
        return f"{up} of {expected} switches connected. " + " ".join(map(str, complaints))

    def _get(self, path: str) -> dict[str, Any] | None:
        try:
            with urllib.request.urlopen(self.url + path, timeout=2, context=self._tls) as response:
                body: dict[str, Any] = json.load(response)
                return body
        except (urllib.error.URLError, OSError, ValueError):
            return None

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])


def wait_until_connected(topology: Map, timeout_s: float) -> None:
    """Wait until every switch is connected to an external controller, or to one of several.

    Raises: EmulationError naming the switches that are not.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        missing = [node.name for node in topology.switches if not _is_connected(node.name)]
        if not missing:
            return
        if time.monotonic() > deadline:
            raise EmulationError(
                f"no controller connected to these switches within {timeout_s:g} s: {', '.join(missing)}"
            )
        time.sleep(0.2)


def _tls_options(pki: Path) -> list[str]:
    certificate, key, authority = (str(pki / name) for name in ("controller.crt", "controller.key", "ca.crt"))
    rest = ["--tls-cert", certificate, "--tls-key", key]
    return [*rest, "--openflow-cert", certificate, "--openflow-key", key, "--openflow-ca", authority]


def _is_connected(switch: str) -> bool:
    targets = ["ovs-vsctl", "--bare", "get", "bridge", switch, "controller"]
    found = subprocess.run(targets, capture_output=True, text=True, check=True).stdout.strip("[]\n ")
    return any(_ovs("get", "controller", uuid.strip(), "is_connected") == "true" for uuid in found.split(","))


def _ovs(*words: str) -> str:
    return subprocess.run(["ovs-vsctl", *words], capture_output=True, text=True, check=False).stdout.strip()
