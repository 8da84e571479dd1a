"""The controller beside an emulation: start it, wait until every switch is connected and wired as the map says."""

from __future__ import annotations

import json
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine.errors import EmulationError
from machine.undo_journal import UndoJournal
from topologies import running_emulation
from topologies.maps import MANAGEMENT_GATEWAY, Map

POLL_S = 0.05


class ControllerProcess:
    """`paceline controller` as a child; its output goes to `log`."""

    def __init__(
        self, map_path: Path, openflow: tuple[str, int], rest_port: int, log: Path, journal: UndoJournal,
        pki: Path | None = None,
    ) -> None:  # fmt: skip
        self.log = log
        self.openflow_port = openflow[1]
        self.trust = ssl.create_default_context(cafile=str(pki / "ca.crt")) if pki else None
        own = running_emulation.DIRECTORY / "controller"  # a new network begins with no reservations
        journal.directory(own)
        own.mkdir(exist_ok=True)
        self.rest = f"{'https' if pki else 'http'}://127.0.0.1:{rest_port}"
        command = [
            sys.executable, "-m", "controller.runtime.main", str(map_path),
            "--openflow", f"{openflow[0]}:{openflow[1]}",
            "--listen", f"127.0.0.1:{rest_port}", "--listen", f"{MANAGEMENT_GATEWAY}:{rest_port}",
            "--ledger", f"sqlite:///{own / 'ledger.db'}",
        ]  # fmt: skip
        if pki:
            certificate, key = str(pki / "controller.crt"), str(pki / "controller.key")
            command += ["--tls-cert", certificate, "--tls-key", key]
            command += ["--openflow-cert", certificate, "--openflow-key", key, "--openflow-ca", str(pki / "ca.crt")]
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
            )
        journal.process(self.process.pid, "controller")

    def wait_until_ready(self, timeout_s: float, listening: Callable[[], None]) -> None:
        """Wait until the controller says that all switches are there and wired as the map says.

        `listening` is called as soon as it listens for switches.

        Raises: EmulationError naming what is missing.
        """
        deadline = time.monotonic() + timeout_s
        self._wait(deadline, timeout_s, lambda: None if self._listens() else "it does not listen yet")
        listening()
        self._wait(deadline, timeout_s, self._missing)

    def _wait(self, deadline: float, timeout_s: float, missing: Callable[[], str | None]) -> None:
        state = "it does not answer yet"
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise EmulationError(f"the controller ended with exit code {self.process.returncode}:\n{self._tail()}")
            if (found := missing()) is None:
                return
            state = found
            time.sleep(POLL_S)
        raise EmulationError(f"the controller is not ready after {timeout_s:g} s: {state}\n{self._tail()}")

    def _listens(self) -> bool:
        command = ["ss", "-ltnH", f"sport = :{self.openflow_port}"]
        return bool(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    def _missing(self) -> str | None:
        """What is not as it should be; None: nothing."""
        health, network = self._get("/v1/healthz"), self._get("/v1/network")
        if health is None or network is None:
            return "it does not answer yet"
        up, expected, complaints = health["switches_up"], health["switches_expected"], network["complaints"]
        if up == expected and not complaints:
            return None
        return f"{up} of {expected} switches connected. " + " ".join(map(str, complaints))

    def stop(self) -> None:
        """End the controller and wait for it."""
        self.process.terminate()
        self.process.send_signal(signal.SIGCONT)  # one that stands still would not notice
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _get(self, path: str) -> dict[str, Any] | None:
        try:
            with urllib.request.urlopen(self.rest + path, timeout=2, context=self.trust) as answer:
                facts: dict[str, Any] = json.load(answer)
                return facts
        except (urllib.error.URLError, OSError, ValueError):
            return None

    def _tail(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])


def wait_until_connected(plan: Map, timeout_s: float) -> None:
    """Wait until every switch has a controller, one that somebody else started.

    Raises: EmulationError naming the switches that have none.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        missing = [node.name for node in plan.switches if not _is_connected(node.name)]
        if not missing:
            return
        if time.monotonic() > deadline:
            raise EmulationError(f"no controller took these switches within {timeout_s:g} s: {', '.join(missing)}")
        time.sleep(0.2)


def _is_connected(switch: str) -> bool:
    target = ["ovs-vsctl", "--bare", "get", "bridge", switch, "controller"]
    uuid = subprocess.run(target, capture_output=True, text=True, check=True).stdout.strip("[]\n ")
    command = ["ovs-vsctl", "get", "controller", uuid, "is_connected"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() == "true"
