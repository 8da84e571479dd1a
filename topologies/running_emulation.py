"""The run file of an emulation: by it, other programs on this machine find the emulated hosts."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

DIRECTORY = Path(os.environ.get("PACELINE_RUN_DIR", "/run/paceline"))
CONTROLLER_DIRECTORY = DIRECTORY / "controller"
"""State of the emulation's own controller; it goes with the emulation, so a new network has no reservations."""

LEDGER = CONTROLLER_DIRECTORY / "ledger.db"


@dataclass(frozen=True, slots=True)
class RunningHost:
    """An emulated host: the process that holds its namespaces, and the control group with its CPU share.

    `cgroup`: directories that a process must join (write its pid to `cgroup.procs`); empty if there is none.
    """

    name: str
    kind: str
    pid: int
    ip: str
    management_ip: str
    cpu_share: float | None
    cgroup: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RunningEmulation:
    """A running emulation. `map_path`: the map's file; `ovs_directory`: run directory of the private Open vSwitch."""

    map_name: str
    map_path: str
    pid: int
    controller_url: str
    ovs_directory: str
    propagation_emulated: bool
    hosts: tuple[RunningHost, ...]

    def host(self, name: str) -> RunningHost:
        """The host of that name.

        Raises: KeyError if the emulation has none.
        """
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(name)


def write(running: RunningEmulation, directory: Path = DIRECTORY) -> Path:
    """Write the run file atomically."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "emulation.json"
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(asdict(running), indent=2) + "\n")
    draft.replace(path)
    return path


def read(directory: Path = DIRECTORY) -> RunningEmulation | None:
    """The emulation running on this machine; None if there is no run file or its process has ended."""
    try:
        facts = json.loads((directory / "emulation.json").read_text())
    except FileNotFoundError:
        return None
    hosts = tuple(RunningHost(**{**host, "cgroup": tuple(host["cgroup"])}) for host in facts.pop("hosts"))
    running = RunningEmulation(**facts, hosts=hosts)
    return running if Path(f"/proc/{running.pid}").exists() else None


def remove(directory: Path = DIRECTORY) -> None:
    """Remove the run file if it exists."""
    (directory / "emulation.json").unlink(missing_ok=True)
