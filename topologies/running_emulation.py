"""The note a running emulation leaves behind, so that other programs on this machine find its hosts."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

DIRECTORY = Path(os.environ.get("PACELINE_RUN_DIR", "/run/paceline"))


@dataclass(frozen=True, slots=True)
class RunningHost:
    """A host of the emulation: the process whose namespaces it lives in, and where its CPU share is set.

    `cgroup` holds the directories a process must join (write its pid to `cgroup.procs`); empty if there is none.
    """

    name: str
    kind: str
    pid: int
    ip: str
    management_ip: str
    cpu_share: float | None
    cgroup: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Running:
    """A running emulation. `map_path` is the map's file, `ovs_directory` the private Open vSwitch's run directory."""

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


def write(running: Running, directory: Path = DIRECTORY) -> Path:
    """Write the note in one step, readable by everybody."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "emulation.json"
    draft = path.with_suffix(".new")
    draft.write_text(json.dumps(asdict(running), indent=2) + "\n")
    draft.replace(path)
    return path


def read(directory: Path = DIRECTORY) -> Running | None:
    """The emulation that runs on this machine now, or None; a note whose process is gone counts as none."""
    try:
        facts = json.loads((directory / "emulation.json").read_text())
    except FileNotFoundError:
        return None
    hosts = tuple(RunningHost(**{**host, "cgroup": tuple(host["cgroup"])}) for host in facts.pop("hosts"))
    running = Running(**facts, hosts=hosts)
    return running if Path(f"/proc/{running.pid}").exists() else None


def remove(directory: Path = DIRECTORY) -> None:
    """Remove the note; no complaint if there is none."""
    (directory / "emulation.json").unlink(missing_ok=True)
