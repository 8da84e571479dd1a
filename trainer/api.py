"""Training and its results from Python: `from trainer import train, load_run`.

A run is the command `paceline train` in a process of its own, so it does not matter what the calling program has
imported or which threads it has: a script, a notebook, a server. The caller gets the events and the record of the run.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Literal, TypedDict, Unpack

from trainer.errors import ApiProcessError, TrainerError, UsageError
from trainer.processes.free_ports import free_ports
from trainer.records.run_reader import Run, read_run

Event = dict[str, Any]
Plugin = str | Callable[..., Any]
"""A user function: `package.module:function`, or the function itself if other processes can import it."""
LAST_LINES = 12


class Settings(TypedDict, total=False):
    """The settings of a run: the options of `paceline train`, such as `learning_rate` for `--learning-rate`."""

    model: Plugin
    collect: int
    partition: str
    freeze: str
    lora: str
    keep_segments: Literal["auto", "never"]
    keep_memory_bytes: float
    policy: Plugin
    rounds: int
    target: float
    min_rounds: int
    steps: int
    batch: int
    micro: int
    average_every: int
    aggregate: Literal["mean", "trimmed-mean", "median", "krum"]
    tolerate: int
    clip_updates: float
    server_optimizer: Literal["fedavg", "fedavgm", "fedadam"]
    server_learning_rate: float
    proximal: float
    dp: str
    dp_clip: float
    secure_aggregation: bool
    seed: int
    codec: Literal["fp32", "bf16", "int8", "zstd", "auto"]
    gradient_codec: Literal["fp32", "bf16", "int8", "zstd"]
    optimizer: Literal["sgd", "momentum", "adam", "adamw"]
    learning_rate: float
    schedule: str
    loss: Plugin
    metric: Plugin
    better: Literal["higher", "lower"]
    weight_decay: float
    moments: Literal["reset", "keep"]
    standardization: Literal["auto", "none", "minmax", "zscore", "log", "unit-norm"]
    min_cut: int
    max_cut: int
    tail_layers: int
    protect_labels: bool
    cuts: str
    quorum: int
    ask_timeout: float
    step_timeout: float
    rejoin_timeout: float
    late: Literal["wait", "drop", "shrink"]
    late_after: float
    device: Literal["auto", "cpu", "cuda"]
    cloud_threads: int
    ray: str
    ray_workers: int
    controller: str
    controller_retries: int
    protection: Literal["none", "link_disjoint", "duct_disjoint"]
    share: float
    floor_bps: float
    lease: float
    assume_bps: float
    best_effort: bool
    tensorboard: str
    mlflow: str
    token_file: Path | str
    tls_dir: Path | str


def train(
    data: Plugin | Path | tuple[Any, Any] | Mapping[str, Any] = "traffic-lights",
    *,
    local: bool = True,
    edges: int = 4,
    port: int | None = None,
    runs_dir: Path | str = "runs",
    resume: Path | str | None = None,
    on_event: Callable[[Event], None] | None = None,
    **settings: Unpack[Settings],
) -> Run:
    """Train a model split between edges and cloud; return the finished run.

    `data`: as `--data`, or arrays: (X, y), or a mapping with X, y and optionally split and edge. `local`: on this
    machine with `edges` edges; False: in the hosts of the running emulation. `port`: of the cloud, by default a free
    one. `resume`: the directory of a run to go on with, whose data and settings it keeps. `on_event` gets every event
    of the run (docs/run-record.md) while it runs; nothing is printed.

    Raises: TrainerError, with a stable `code`. A KeyboardInterrupt ends the run first.
    """
    with _arrays_as_file(data) as source:
        flags = ["--runs-dir", str(runs_dir), "--json"]
        flags += ["--data", source] if resume is None else ["--resume", str(resume)]
        if local:
            flags += ["--local", "--port", str(free_ports(edges) if port is None else port)]
            flags += ["--edges", str(edges)] if resume is None else []
        elif port is not None:
            flags += ["--port", str(port)]
        for name, value in settings.items():
            flags += _flags(name, value)
        return read_run(_run(flags, on_event))


def load_run(directory: Path | str) -> Run:
    """Return the record of a run: `summary`, `rounds`, `model()`.

    Raises: UsageError if there is none.
    """
    return read_run(Path(directory))


def _flags(name: str, value: object) -> list[str]:
    """Return the option for a setting; of a list one for each value. The command checks them.

    Raises: UsageError if a value is a function that other processes cannot import.
    """
    flag = f"--{name.replace('_', '-')}"
    if value is None or value is False:
        return []
    if isinstance(value, list | tuple):
        return [part for item in value for part in _flags(name, item)]
    return [flag] if value is True else [flag, _plugin_name(value, name) if callable(value) else str(value)]


def _plugin_name(function: Callable[..., Any], what: str) -> str:
    """Return the name by which another process imports a function.

    Raises: UsageError if none can.
    """
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "")
    if module in (None, "__main__") or not name.isidentifier():
        shown = name if name.isidentifier() else "function"
        raise UsageError(f"{what} is {name or function!r} of {module}, which the processes of the run cannot import; "
                         f"put it in a file such as mine.py, import mine, and give {what}=mine.{shown}.")
    return f"{module}:{name}"


@contextlib.contextmanager
def _arrays_as_file(data: Plugin | Path | tuple[Any, Any] | Mapping[str, Any]) -> Iterator[str]:
    """Yield the value of --data; arrays are in a file for the length of the block.

    Raises: UsageError if it is no data.
    """
    if isinstance(data, tuple) and len(data) == 2:
        data = {"X": data[0], "y": data[1]}
    if isinstance(data, Mapping):
        import numpy as np

        with tempfile.TemporaryDirectory(prefix="paceline-") as directory:
            path = Path(directory) / "arrays.npz"
            np.savez(path, **{str(name): _array(value, str(name)) for name, value in data.items()})
            yield str(path)
    elif isinstance(data, str | Path):
        yield str(data)
    elif callable(data):
        yield _plugin_name(data, "data")
    else:
        raise UsageError(f"data is {type(data).__name__}; it is a name, a path, (X, y), or a mapping with X and y.")


def _array(value: object, name: str) -> Any:
    import numpy as np

    try:
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise UsageError(f"{name} of data is {type(value).__name__}, not an array: {error}.") from error
    if array.dtype.hasobject:
        raise UsageError(f"{name} of data is {type(value).__name__}, not an array of numbers.")
    return array


def _run(flags: list[str], on_event: Callable[[Event], None] | None) -> Path:
    """Run the command; return the directory of its record.

    Raises: TrainerError as the command ended with.
    """
    paths = [str(Path(entry).absolute()) for entry in sys.path if entry or not sys.flags.safe_path]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    directory: Path | None = None
    failure: TrainerError | None = None
    failure_of_run: TrainerError | None = None
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "trainer.cli.api_process", str(os.getpid()), *flags], stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, start_new_session=True)
        with _stopped_at_end(process) as output:
            for event in filter(None, map(_event, output)):
                if event["event"] == "error":
                    failure = TrainerError.of_code(event["code"], event["sentence"])
                    continue
                if event["event"] == "finished":
                    directory = Path(event["directory"])
                    if event["error"]:
                        failure_of_run = TrainerError.of_code(event["code"], f"{event['error']} Record: {directory}")
                if on_event is not None:
                    on_event(event)
        if failure := failure_of_run or failure:
            raise failure
        if process.returncode or directory is None:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").splitlines()[-LAST_LINES:]
            head = f"The run ended with exit code {process.returncode}; its last lines:"
            raise ApiProcessError("\n".join([head, *lines]))
    return directory


def _event(line: str) -> Event | None:
    """Return the event of a line of output; None for what a user's module prints."""
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and "event" in event else None


@contextlib.contextmanager
def _stopped_at_end(process: subprocess.Popen[str]) -> Iterator[IO[str]]:
    """Yield the output of a process; wait for its end, which an exception in the block brings about."""
    assert process.stdout is not None
    try:
        yield process.stdout
    except BaseException:
        process.send_signal(signal.SIGINT)
        for _ in process.stdout:  # until the run has released what it holds
            pass
        raise
    finally:
        process.stdout.close()
        process.wait()
