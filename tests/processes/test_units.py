"""The systemd units: systemd accepts them, and what they allow is enough for what they start."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from machine.polling import wait_until
from tests.processes.rig import Controller, OpenVSwitch, needs_open_vswitch
from trainer.cli.units import unit_files, units
from trainer.errors import UsageError

SANDBOXED = [sys.executable, str(Path(__file__).with_name("sandboxed.py"))]
MOST_EXPOSED = 20
"""In tenths, of 100: systemd calls it `OK`."""

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="SYSTEMD IS MISSING: units are not verified"
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units, for the program of this environment."""
    made = tmp_path_factory.mktemp("units")
    written = CliRunner().invoke(units, ["--write", str(made)])
    assert written.exit_code == 0, written.output
    assert set(written.output.split()) == {str(path) for path in made.iterdir()}
    return made


@needs_systemd
def test_systemd_accepts_the_units_and_finds_them_closed(directory: Path) -> None:
    names = sorted(directory.glob("*.service"))
    assert [path.name for path in names] == [
        "paceline-cloud.service", "paceline-controller.service", "paceline-edge@.service",
    ]  # fmt: skip
    verified = subprocess.run(
        ["systemd-analyze", "verify", *map(str, names)], capture_output=True, text=True, check=False
    )
    ours = [line for line in verified.stderr.splitlines() if "paceline" in line]
    assert (verified.returncode, ours) == (0, []), verified.stderr
    for path in names:
        rated = ["systemd-analyze", "security", "--offline=yes", "--no-pager", f"--threshold={MOST_EXPOSED}", str(path)]
        done = subprocess.run(rated, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def test_a_unit_starts_the_program_that_is_given(directory: Path) -> None:
    program = Path(sys.executable).with_name("paceline")
    assert f"ExecStart={program} controller $ARGUMENTS\n" in (directory / "paceline-controller.service").read_text()
    assert "ExecStart=/opt/p/bin/paceline edge" in unit_files(Path("/opt/p/bin/paceline"))["paceline-edge@.service"]
    for wrong in ("paceline", "/opt/my programs/paceline", "/opt/50%/paceline", "/opt/$HOME/paceline"):
        with pytest.raises(UsageError, match="a unit needs an absolute path"):
            unit_files(Path(wrong))


class SandboxedController(Controller):
    """A controller that may do what its unit allows."""

    def __init__(self, unit: Path, directory: Path) -> None:
        self.unit = unit
        super().__init__(directory)

    def spawn(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log, self.output.open("ab") as output:
            command = [*SANDBOXED, str(self.unit), sys.executable, "-m", "controller.runtime.main", *self.arguments]
            return subprocess.Popen(command, stdout=output, stderr=log)


@pytest.fixture
def sandboxed(directory: Path, ovs: OpenVSwitch, tmp_path: Path) -> Iterator[SandboxedController]:
    running = SandboxedController(directory / "paceline-controller.service", tmp_path)
    try:
        ovs.build(running.openflow_port)
        yield running
    finally:
        running.client.close()
        running.stop()


@needs_systemd
@needs_open_vswitch
def test_a_controller_needs_no_more_than_its_unit_allows(sandboxed: SandboxedController) -> None:
    status = Path(f"/proc/{sandboxed.process.pid}/status").read_text().split("\n")
    assert {"Seccomp:\t2", "NoNewPrivs:\t1"} <= set(status)
    wait_until(sandboxed.in_sync)
    made = sandboxed.reserve()
    assert made.status_code == 201, made.text
    assert sandboxed.client.delete(f"/v1/reservations/{made.json()['id']}").json()["state"] == "released"


@needs_systemd
def test_a_training_needs_no_more_than_the_units_allow(directory: Path, tmp_path: Path) -> None:
    train = [sys.executable, "-m", "trainer.cli.main", "train", "--local", "--edges", "2", "--rounds", "1"]
    train += ["--steps", "1", "--average-every", "1", "--data", "tennessee-eastman", "--runs-dir", str(tmp_path)]
    unit = str(directory / "paceline-cloud.service")
    done = subprocess.run([*SANDBOXED, unit, *train], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    (summary,) = tmp_path.glob("*/summary.json")
    assert json.loads(summary.read_text())["status"] == "done"


@needs_systemd
def test_what_a_unit_does_not_allow_is_refused(directory: Path) -> None:
    attempts = "import ctypes, errno, mmap; libc = ctypes.CDLL(None, use_errno=True); "
    attempts += "assert libc.ptrace(0, 0, 0, 0) < 0 and ctypes.get_errno() == errno.EPERM; "
    attempts += "mmap.mmap(-1, 4096, prot=mmap.PROT_WRITE | mmap.PROT_EXEC)"
    for unit, error in (("paceline-controller.service", "PermissionError"), ("paceline-cloud.service", None)):
        command = [*SANDBOXED, str(directory / unit), sys.executable, "-c", attempts]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode == 0) == (error is None), done.stderr
        assert error is None or error in done.stderr
