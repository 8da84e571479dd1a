"""Starts training runs as processes of their own, which go on when the server of the page ends."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from trainer.config.partitioning import DATA_SETS
from trainer.config.settings import Aggregate, Protection
from trainer.errors import UsageError
from trainer.records.run_control import RunProcess

START_TIMEOUT_S = 60.0
POLL_S = 0.1
ERROR_CHARACTERS = 2000

Given = BeforeValidator(lambda value: None if value == "" else value)


def _known_data_set(name: str | None) -> str | None:
    if name is not None and name not in DATA_SETS:
        raise ValueError(f"there is no data set {name}; it is one of {', '.join(DATA_SETS)}")
    return name


class RunRequest(BaseModel):
    """What a run is started with; what is left out is as in `paceline train`. Nothing that names code or files."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"where": "emulation", "rounds": 10}]})

    where: Annotated[
        Literal["emulation", "local"],
        Field(description="In the hosts of the running emulation, or on this machine without a network."),
    ] = "emulation"
    edges: Annotated[int | None, Given, Field(ge=1, le=64, description="Number of edges of a local run.")] = None
    data: Annotated[
        str | None, Given, AfterValidator(_known_data_set), Field(description="Data set of the zoo, by name.")
    ] = None
    model: Annotated[
        str | None, Given, Field(pattern=r"^[a-z0-9-]{1,40}$", description="Model of the zoo; null: by the data.")
    ] = None
    rounds: Annotated[int | None, Given, Field(ge=1, le=100_000, description="Most rounds.")] = None
    target: Annotated[float | None, Given, Field(description="Value of the metric that ends the run.")] = None
    steps: Annotated[int | None, Given, Field(ge=1, le=10_000, description="Mini-batches of a round.")] = None
    batch: Annotated[int | None, Given, Field(ge=1, le=65_536, description="Samples of a mini-batch.")] = None
    average_every: Annotated[int | None, Given, Field(ge=1, description="Rounds between averagings.")] = None
    aggregate: Annotated[Aggregate | None, Given, Field(description="How the edges' models become one.")] = None
    protection: Annotated[Protection | None, Given, Field(description="Failures that flows survive.")] = None
    seed: Annotated[int | None, Given, Field(ge=0, description="Seed of weights, partition and order.")] = None
    best_effort: Annotated[bool | None, Given, Field(description="Train without reservations.")] = None
    protect_labels: Annotated[bool | None, Given, Field(description="Labels stay on the edges.")] = None

    def flags(self) -> list[str]:
        """Return the options of `paceline train`."""
        flags = ["--local"] if self.where == "local" else []
        for name, value in self.model_dump(exclude={"where"}, exclude_none=True).items():
            flag = f"--{name.replace('_', '-')}"
            if value is True:
                flags.append(flag)
            elif value is not False:
                flags += [flag, str(value)]
        return flags


class RunProcesses:
    """Starts runs in a directory."""

    def __init__(self, runs: Path, controller_url: str) -> None:
        self._runs = runs
        self._controller_url = controller_url
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, request: RunRequest) -> str:
        """Start a run and return the name of its directory, which then exists. Blocks for some seconds.

        Raises: UsageError with what the run says if it does not start.
        """
        self._started = [process for process in self._started if process.poll() is None]
        controller = [] if request.where == "local" else ["--controller", self._controller_url]
        command = [*(sys.executable, "-m", "trainer.cli.main", "train", "--quiet", "--runs-dir", str(self._runs)),
                   *controller, *request.flags()]  # fmt: skip
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, start_new_session=True
            )
            self._started.append(process)
            deadline = time.monotonic() + START_TIMEOUT_S
            while process.poll() is None and time.monotonic() < deadline:
                if (name := self._name_of(process.pid)) is not None:
                    return name
                time.sleep(POLL_S)
            if process.poll() is None:
                process.terminate()
                raise UsageError(f"The run has not begun within {START_TIMEOUT_S:g} s.")
            errors.seek(0)
            said = errors.read().decode("utf-8", "replace").strip()[-ERROR_CHARACTERS:]
        raise UsageError(said.removeprefix("Error: ") or f"The run ended with exit code {process.returncode}.")

    def _name_of(self, pid: int) -> str | None:
        """The newest run that a process trains in."""
        directories = sorted(self._runs.iterdir(), reverse=True) if self._runs.is_dir() else []
        recorded = (path for path in directories[:20] if (path / "summary.json").exists())
        found: Any = (path.name for path in recorded
                      if (process := RunProcess.of(path)) is not None and process.pid == pid)  # fmt: skip
        name: str | None = next(found, None)
        return name
