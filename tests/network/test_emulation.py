"""Start and end of an emulation: errors are explained, and every kind of end restores the machine's state."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from machine.polling import wait_until
from machine.undo_journal import UndoJournal
from tests.network.conftest import ROOT, START, Started, started
from topologies import running_emulation

TRACES = (str(running_emulation.DIRECTORY), "mininet:", "iperf3", "while :; do :; done")
"""Parts of the command lines of an emulation's processes; its switches and controller contain the directory."""


def _processes() -> set[str]:
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if any(trace in command for trace in TRACES):
            found.add(f"{process.name} {command}")
    return found


def _namespaces() -> set[int]:
    found = set()
    for process in Path("/proc").glob("[0-9]*/ns/net"):
        try:
            found.add(process.stat().st_ino)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def machine_state() -> dict[str, object]:
    """Return the state of the machine that an emulation changes."""
    queues = subprocess.run(["tc", "qdisc", "show"], capture_output=True, text=True, check=True).stdout
    return {
        "interfaces": sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "queues": sorted(queues.splitlines()),
        "namespaces": _namespaces(),
        "processes": _processes(),
        "cgroups": sorted(str(path) for path in Path("/sys/fs/cgroup").glob("**/paceline*")),
        "settings": {
            key: Path("/proc/sys/net/core", key).read_text()
            for key in ("wmem_default", "wmem_max", "rmem_default", "rmem_max")
        },
        "note": running_emulation.read(),
        "journal": (running_emulation.DIRECTORY / "journal.jsonl").exists(),
        "ovs": (running_emulation.DIRECTORY / "ovs").exists(),
    }


@pytest.fixture
def untouched(no_emulation: None) -> Iterator[None]:  # noqa: ARG001
    """The state of the machine is the same after the test as before."""
    before = machine_state()
    yield
    assert machine_state() == before


@pytest.mark.usefixtures("untouched")
def test_ctrl_c_with_cross_traffic_restores_the_machine(tmp_path: Path) -> None:
    with started(["pair", "--no-prompt", "--cross-traffic", "50%"], tmp_path / "log") as emulation:
        assert running_emulation.read() is not None
        assert "qdisc htb" in subprocess.run(["tc", "qdisc"], capture_output=True, text=True, check=True).stdout
        assert emulation.end(signal.SIGINT) == 0


@pytest.mark.usefixtures("untouched")
def test_an_interrupt_ends_an_emulation_that_was_started_with_interrupts_ignored(tmp_path: Path) -> None:
    """As a shell starts processes in the background."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with started(["pair", "--no-prompt"], tmp_path / "log") as emulation:
            assert emulation.end(signal.SIGINT) == 0
    finally:
        signal.signal(signal.SIGINT, handler)


@pytest.mark.usefixtures("untouched")
def test_the_prompts_commands_work_and_exit_restores_the_machine(tmp_path: Path) -> None:
    emulation = Started(["pair"], tmp_path / "log")
    assert emulation.process.stdin is not None
    commands = [
        "share edge1 0.1", "share nix 0.1", "edge1 ping -c 1 cloud",
        "link s1 s2 down", "edge1 ping -c 1 -W 1 cloud", "link s1 s2 up", "edge1 ping -c 1 -W 5 edge2",
        "link s1 cloud down", "switch nix down", "link s1 s2 sideways",
    ]  # fmt: skip
    emulation.process.stdin.write("\n".join([*commands, "exit\n"]).encode())
    emulation.process.stdin.flush()
    assert emulation.process.wait(60) == 0
    emulation.process.stdin.close()
    received = re.findall(r"([01]) received", emulation.text())
    assert received == ["1", "0", "1"], emulation.text()
    assert "'nix' has no CPU share to change; hosts with one: edge1, edge2" in emulation.text()
    assert "there is no link 's1-cloud'; links: s1-s2" in emulation.text()
    assert "there is no switch 'nix'; switches: s1, s2" in emulation.text()
    assert "'s1 s2 sideways' is invalid; usage: link A B down|up" in emulation.text()


@pytest.mark.usefixtures("untouched")
def test_the_clean_option_restores_the_machine_after_a_kill_minus_9(tmp_path: Path) -> None:
    with started(["pair", "--no-prompt"], tmp_path / "log") as emulation:
        emulation.process.kill()
        emulation.process.wait()
        assert Path("/sys/class/net/plmgmt").exists()
        done = subprocess.run([*START, "-c"], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, "cleaned up after an emulation that had crashed\n")


@pytest.mark.usefixtures("untouched")
def test_with_tls_certificates_are_presented_and_verified_and_sigterm_restores_the_machine(tmp_path: Path) -> None:
    with started(["pair", "--no-prompt", "--tls"], tmp_path / "log") as emulation:
        note = running_emulation.read()
        assert note is not None
        assert note.controller_url.startswith("https://")
        environment = {**os.environ, "OVS_RUNDIR": note.ovs_directory, "OVS_DBDIR": note.ovs_directory}
        for switch in ("s1", "s2"):
            target = ["ovs-vsctl", "get-controller", switch]
            controller = subprocess.run(target, env=environment, capture_output=True, text=True, check=True).stdout
            assert controller == "ssl:127.0.0.1:6653\n"
        trust = ssl.create_default_context(cafile=str(running_emulation.DIRECTORY / "pki/ca.crt"))
        with httpx.Client(verify=trust, base_url="https://127.0.0.1:8080") as client:
            assert client.get("/v1/healthz").json()["switches_up"] == 2
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.get("https://127.0.0.1:8080/v1/healthz")
        assert emulation.end(signal.SIGTERM) == 128 + signal.SIGTERM


@pytest.mark.usefixtures("untouched")
def test_a_second_emulation_is_refused_and_sighup_restores_the_machine(tmp_path: Path) -> None:
    with started(["pair", "--no-prompt"], tmp_path / "log") as emulation:
        done = subprocess.run([*START, "metro", "--no-prompt", "--openflow", "127.0.0.1:6654", "--rest-port", "8081"],
                              capture_output=True, text=True, check=False)  # fmt: skip
        assert done.returncode == 1
        assert "map pair is running" in done.stderr
        cleaning = subprocess.run([*START, "-c"], capture_output=True, text=True, check=False)
        assert cleaning.returncode == 1
        assert running_emulation.read() is not None
        assert emulation.end(signal.SIGHUP) == 128 + signal.SIGHUP


@pytest.mark.usefixtures("untouched")
def test_without_a_controller_the_unconnected_switches_are_reported(tmp_path: Path) -> None:
    emulation = Started(["pair", "--no-prompt", "--controller", "remote", "--openflow", "127.0.0.1:6699",
                         "--timeout", "2"], tmp_path / "log")  # fmt: skip
    assert emulation.end(signal.SIGCONT) == 1
    assert "no controller connected to these switches within 2 s: s1, s2" in emulation.text()


@pytest.mark.usefixtures("untouched")
def test_a_controller_that_is_not_ready_in_time_is_reported(tmp_path: Path) -> None:
    """The controller does not respond: it is stopped (SIGSTOP) as soon as it has started."""
    emulation = Started(["pair", "--no-prompt", "--timeout", "0.1"], tmp_path / "log")
    journal = UndoJournal(running_emulation.DIRECTORY)
    wait_until(lambda: emulation.process.poll() is not None or journal.newest_process("controller"))
    controller = journal.newest_process("controller")
    assert controller is not None, emulation.text()
    os.kill(controller, signal.SIGSTOP)
    assert emulation.end(signal.SIGCONT) == 1
    assert "the controller is not ready after 0.1 s" in emulation.text()


@pytest.mark.usefixtures("untouched")
def test_a_port_in_use_is_reported_before_anything_is_changed(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 6653)):
        emulation = Started(["pair", "--no-prompt"], tmp_path / "log")
        assert emulation.end(signal.SIGCONT) == 1
    assert "port 6653 on 127.0.0.1 is in use" in emulation.text()


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["nix"], 1, "no map 'nix': use one of metro, pair"),
        (
            ["pair", "--cross-traffic", "150"],
            2,
            "cross-traffic '150': give a percentage of the bottleneck's rate, like 150%",
        ),
        (["pair", "--openflow", "6653"], 2, "--openflow '6653': give HOST:PORT, like 127.0.0.1:6653"),
        (
            ["pair", "--openflow", "127.0.0.1:6653", "--openflow", "127.0.0.1:6654"],
            2,
            "--openflow 127.0.0.1:6653 and 127.0.0.1:6654: several are for --controller remote",
        ),
        (["pair", "--datapath", "kernel"], 1, "this kernel has no openvswitch module: use --datapath user"),
    ],
)
def test_wrong_arguments_are_explained(arguments: list[str], code: int, sentence: str) -> None:
    if "kernel" in arguments and Path("/sys/module/openvswitch").exists():
        arguments, code, sentence = ["nix"], 1, "no map 'nix'"
    done = subprocess.run([*START, *arguments, "--no-prompt"], capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == code
    assert sentence in done.stderr


def test_starting_without_root_is_an_error(tmp_path: Path) -> None:
    code = (
        "import os; from machine import errors, kernel_settings\n"  # first: others may not read this checkout
        "os.setgid(65534); os.setuid(65534)\n"
        "try: kernel_settings.check_requirements((), 'user')\n"
        "except errors.EmulationError as error: print(error)"
    )
    done = subprocess.run(
        [START[0], "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/mininet"},
    )  # fmt: skip
    assert "starting an emulation needs root: use sudo" in done.stdout
