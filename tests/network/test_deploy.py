"""docs/deploy.md as printed: three machines, each a network namespace with files of its own, and Open vSwitch.

The test does what the page says in words: it puts the page's files in place, copies certificates and tokens from
machine to machine, and makes the database.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from machine.postgresql_server import PostgreSQL
from tests.documentation import Command, Shell, agree, commands
from tests.network.conftest import ROOT
from tests.network.lab import Host, Lab, running_lab

PAGE = ROOT / "docs/deploy.md"
MACHINES_OF = {
    "Every machine": ("controller", "server", "camera"),
    "The controller": ("controller",),
    "The switches": ("switches",),
    "Is it in order?": ("controller",),
    "The cloud": ("server",),
    "The edge": ("camera",),
    "What came of it": ("server",),
}
"""The machines on which the commands of each section run, in the order of the page."""
HOSTS = {
    "camera": Host("br-core", 11, "198.51.100.11", "52:54:00:07:00:11"),
    "server": Host("br-far", 42, "198.51.100.200", "52:54:00:09:00:c8"),
}
MANAGEMENT = {"controller": "203.0.113.1", "server": "203.0.113.2", "switches": "203.0.113.3"}
BRIDGE = "lab-mgmt"
FILE = re.compile(r"^```(?:yaml|ini)\n# (/etc/\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OWN_FILES = "/etc", "/opt", "/var/lib"
"""What every machine has for itself; it may read the rest."""
TIMEOUT_S = 90.0


class Machine:
    """A bash with files of its own, in a network namespace; `namespace`: None for that of this process."""

    def __init__(self, directory: Path, namespace: str | None, sockets: Path) -> None:
        """`sockets`: directory of PostgreSQL's."""
        directory.mkdir()
        lines = ["set -e"]
        for path in OWN_FILES:
            upper, work = (directory / f"{path[1:].replace('/', '-')}{suffix}" for suffix in ("", ".work"))
            upper.mkdir()
            work.mkdir()
            lines.append(f"mount -t overlay -o lowerdir={path},upperdir={upper},workdir={work} overlay {path}")
        lines += ["mount -t tmpfs tmpfs /run", "mkdir /run/postgresql", f"mount --bind {sockets} /run/postgresql"]
        lines += [f"ln -s {ROOT}/.venv /opt/paceline", *_opened(ROOT, directory), 'exec "$@"']
        enter = ["unshare", "--mount"] if namespace is None else ["ip", "netns", "exec", namespace]
        self._log = directory / "background.log"
        self._shell = Shell(
            directory, {**os.environ, "COLUMNS": "160"}, [*enter, "bash", "-c", "\n".join(lines), "machine"]
        )
        self.run(Command(PAGE, 0, "true", ""))

    @property
    def files(self) -> Path:
        """Its root directory as this process sees it."""
        return Path(f"/proc/{self._shell.pid}/root")

    @property
    def enter(self) -> list[str]:
        """The command that executes another one with its files."""
        return ["nsenter", "--mount", "--target", str(self._shell.pid)]

    def run(self, command: Command) -> None:
        """Run a command of the page as printed."""
        code, output = self._shell.run(command, TIMEOUT_S)
        said = self._log.read_text() if self._log.exists() else ""
        assert code == 0, f"{command}\nexit code {code}: {output}\n{said}"
        assert not command.output or agree(command.output, output), f"{command}\n{output}\n{said}"

    def processes(self) -> list[dict[str, str]]:
        """The status of what runs in the background of its bash."""
        children = Path(f"/proc/{self._shell.pid}/task/{self._shell.pid}/children").read_text().split()
        lines = [Path(f"/proc/{pid}/status").read_text().splitlines() for pid in children]
        return [dict(line.split(":\t", 1) for line in each if ":\t" in line) for each in lines]

    def close(self) -> None:
        self._shell.close()


def _opened(path: Path, directory: Path) -> list[str]:
    """Commands that make a path reachable for every user, where it is in a directory that only root may enter."""
    closed = [each for each in path.parents if not each.stat().st_mode & 0o001]
    if not closed:
        return []
    kept = directory / "kept"
    kept.mkdir()
    return [f"mount --bind {path} {kept}", f"mount -t tmpfs -o mode=755 tmpfs {closed[-1]}", f"mkdir -p {path}",
            f"mount --bind {kept} {path}"]  # fmt: skip


@contextmanager
def management_network(lab: Lab) -> Iterator[None]:
    """A bridge on this machine, where the switches are, and cables to the controller and the cloud."""
    lab.run("ip", "link", "add", BRIDGE, "type", "bridge")
    try:
        lab.run("ip", "address", "add", f"{MANAGEMENT['switches']}/24", "dev", BRIDGE)
        lab.run("ip", "link", "set", BRIDGE, "up")
        lab.run("ip", "netns", "add", "lab-controller")
        for number, name in enumerate(("controller", "server")):
            near, inside = f"lab-mgmt{number}", ["ip", "-n", f"lab-{name}"]
            lab.run("ip", "link", "add", near, "type", "veth", "peer", "name", "mgmt", "netns", f"lab-{name}")
            lab.run("ip", "link", "set", near, "master", BRIDGE, "up")
            lab.run(*inside, "address", "add", f"{MANAGEMENT[name]}/24", "dev", "mgmt")
            lab.run(*inside, "link", "set", "mgmt", "up")
            lab.run(*inside, "link", "set", "lo", "up")
        yield
    finally:
        # The cables, too: sockets of killed processes keep a namespace alive for minutes.
        for link in ("lab-mgmt0", "lab-mgmt1", BRIDGE):
            subprocess.run(["ip", "link", "delete", link], capture_output=True, check=False)
        subprocess.run(["ip", "netns", "delete", "lab-controller"], capture_output=True, check=False)


@pytest.fixture
def machines(no_emulation: None, tmp_path: Path) -> Iterator[dict[str, Machine]]:  # noqa: ARG001
    with ExitStack() as stack:
        server = PostgreSQL()
        stack.callback(server.remove)
        server.create("paceline")
        server.directory.chmod(0o755)
        made: dict[str, Machine] = {}

        def add(name: str, namespace: str | None) -> Machine:
            made[name] = Machine(tmp_path / name, namespace, server.directory)
            stack.callback(made[name].close)
            return made[name]

        switches = add("switches", None)
        lab = stack.enter_context(running_lab(tmp_path / "ovs", HOSTS, switches.enter))
        for name in ("OVS_RUNDIR", "OVS_DBDIR"):
            switches.run(Command(PAGE, 0, f"export {name}={lab.directory}", ""))
        stack.enter_context(management_network(lab))
        for name in ("controller", "server", "camera"):
            add(name, f"lab-{name}")
        yield made


def copy_secrets(machines: dict[str, Machine]) -> None:
    """Copy what the tables of the page say from the controller to the other machines."""
    source = machines["controller"].files / "etc/paceline"
    for name, shown in (("switches", "switch"), ("server", "server"), ("camera", "camera")):
        target = machines[name].files / "etc/paceline"
        (target / "pki").mkdir(parents=True)
        for file in ("ca.crt", f"{shown}.crt", f"{shown}.key"):
            shutil.copy(source / "pki" / file, target / "pki" / file)
        if name != "switches":
            machines[name].run(Command(PAGE, 0, "chown -R paceline: /etc/paceline/pki", ""))
    shutil.copy(source / "token-of-server.env", machines["server"].files / "etc/paceline/token.env")


def test_the_page_is_followed_from_bare_machines_to_a_training_over_reserved_flows(
    machines: dict[str, Machine],
) -> None:
    text, listed = PAGE.read_text(), commands(PAGE)
    starts = {match[1]: match.start() for match in re.finditer(r"^## (.*)$", text, re.MULTILINE)}
    ends = dict(zip(starts, [*list(starts.values())[1:], len(text)], strict=True))
    ran = 0
    for section, names in MACHINES_OF.items():
        part = text[starts[section] : ends[section]]
        first, last = (text.count("\n", 0, place) for place in (starts[section], ends[section]))
        for name in names:
            for file in FILE.finditer(part):
                (machines[name].files / file[1][1:]).write_text(file[2])
            for command in listed:
                if first < command.line <= last:
                    machines[name].run(command)
                    ran += name == names[0]
        if section == "The controller":
            copy_secrets(machines)
        if section == "Is it in order?":
            (status,) = machines["controller"].processes()
            assert (status["NoNewPrivs"], int(status["CapBnd"], 16), int(status["CapEff"], 16)) == ("1", 0, 0)
            assert "0" not in status["Uid"].split()
    assert ran == len(listed)
    (summary,) = (machines["server"].files / "var/lib/paceline/runs").glob("*/summary.json")
    rounds = json.loads(summary.read_text())["rounds"]
    assert len(rounds) == 2 and all(each["reservation"] for each in rounds), rounds
