"""The wheel, installed in a virtual environment without the system's packages, works on its own.

The libraries that it uses are those of this environment, by a path file: nothing is downloaded.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import sysconfig
import time
import venv
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import packages_distributions
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from machine.polling import wait_until
from tests.processes.rig import free_port

ROOT = Path(__file__).parents[2]
BUILT_FROM = "controller", "trainer", "topologies", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"
TIMEOUT_S = 240.0


@dataclass(frozen=True)
class Installed:
    """A virtual environment that holds the wheel, and a directory to work in."""

    wheel: Path
    environment: Path
    directory: Path

    def command(self, program: str, *arguments: str) -> list[str]:
        return [str(self.environment / "bin" / program), *arguments]

    def run(self, program: str, *arguments: str) -> str:
        done = subprocess.run(
            self.command(program, *arguments), cwd=self.directory, env={"PATH": "/usr/bin:/bin"}, text=True,
            capture_output=True, check=False, timeout=TIMEOUT_S,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    directory = tmp_path_factory.mktemp("wheel")
    source, environment = directory / "source", directory / "venv"
    source.mkdir()
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(directory), str(source)]
    subprocess.run([*pip, *build], check=True, capture_output=True)
    (wheel,) = directory.glob("*.whl")
    venv.create(environment, with_pip=False, symlinks=True)
    into = ["--python", str(environment / "bin/python"), "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run([*pip, *into], check=True, capture_output=True)
    (packages,) = environment.glob("lib/python*/site-packages")
    libraries = directory / "libraries"
    libraries.mkdir()
    for module in modules_of_the_system():
        (libraries / module.name).symlink_to(module)
    here = Path(sysconfig.get_path("purelib"))
    (packages / "libraries.pth").write_text(f"{here}\n{libraries}\n")
    for path in here.glob("distutils*.pth"):  # setuptools' distutils, which Ryu imports, for Python 3.12 and later
        shutil.copy(path, packages / f"with-{path.name}")
    (directory / "work").mkdir()
    return Installed(wheel, environment, directory / "work")


def modules_of_the_system() -> Iterator[Path]:
    """Yield the required modules that this environment uses from the system's packages."""
    here = Path(sysconfig.get_path("purelib"))
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(Requirement(line).name) for line in lines if line and not line.startswith("#")}
    pinned.discard(canonicalize_name("pip"))  # no library; a hook of setuptools warns of who looks for it
    for name, distributions in packages_distributions().items():
        if pinned.isdisjoint(map(canonicalize_name, distributions)) or not (spec := find_spec(name)) or not spec.origin:
            continue
        module = Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
        if not module.is_relative_to(here):
            yield module


def test_the_wheel_holds_all_data_files_and_the_licence(installed: Installed) -> None:
    inside = set(zipfile.ZipFile(installed.wheel).namelist())
    patterns = "topologies/*.yaml", "controller/storage/migrations/**/*.py", "*/py.typed", "trainer/systemd/*"
    data = [path for pattern in patterns for path in ROOT.glob(pattern)]
    modules = [path for package in ("controller", "trainer", "topologies") for path in (ROOT / package).rglob("*.py")]
    assert len(data) > 5
    assert {str(path.relative_to(ROOT)) for path in (*data, *modules)} - inside == set()
    assert any(name.endswith(("licenses/LICENSE", "info/LICENSE")) for name in inside)


def test_the_packages_are_imported_from_the_wheel(installed: Installed) -> None:
    code = "import controller, trainer, topologies as t; print(controller.__file__, trainer.__file__, t.__file__)"
    for path in installed.run("python", "-c", code).split():
        assert Path(path).is_relative_to(installed.environment), path


def test_help_maps_and_plan_commands_work(installed: Installed) -> None:
    assert "controller" in installed.run("paceline", "--help")
    assert "Run the controller" in installed.run("paceline", "controller", "--help")
    assert "metro" in installed.run("paceline", "maps")
    assert "edge4" in installed.run("paceline", "plan", "--map", "metro")


def test_a_local_training_works(installed: Installed) -> None:
    flags = "--rounds", "1", "--steps", "1", "--average-every", "1", "--data", "tennessee-eastman"
    installed.run("paceline", "train", "--local", *flags)
    (summary,) = installed.directory.glob("runs/*/summary.json")
    assert len(json.loads(summary.read_text())["rounds"]) == 1


def test_a_controller_starts_and_responds(installed: Installed) -> None:
    rest = f"127.0.0.1:{free_port()}"
    options = "--listen", rest, "--openflow", f"127.0.0.1:{free_port()}", "--ledger", "sqlite:///ledger.db"
    with subprocess.Popen(
        installed.command("paceline", "controller", "pair", *options), cwd=installed.directory,
        env={"PATH": "/usr/bin:/bin"}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as process:  # fmt: skip
        try:
            wait_until(lambda: process.poll() is not None or answers(rest), TIMEOUT_S)
            assert process.poll() is None, process.communicate()[0].decode()
            assert len(httpx.get(f"http://{rest}/v1/network").json()["nodes"]) > 3
            assert "swagger" in httpx.get(f"http://{rest}/docs").text
        finally:
            process.terminate()
        assert process.wait(TIMEOUT_S) == 0


def answers(rest: str) -> bool:
    try:
        return httpx.get(f"http://{rest}/v1/healthz").status_code == 200
    except httpx.TransportError:
        return False


def test_an_emulation_without_mininet_ends_with_one_error_line(installed: Installed) -> None:
    began_s = time.monotonic()
    done = subprocess.run(
        installed.command("python", str(ROOT / "mininet/start.py")), cwd=installed.directory, capture_output=True,
        text=True, check=False, timeout=TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("Error: this Python has no Mininet") and done.stderr.count("\n") == 1
    assert time.monotonic() - began_s < TIMEOUT_S
