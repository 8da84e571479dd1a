"""The runs of a sweep on Ray: Ray Tune draws settings, places the runs by CPUs and stops those that fall behind."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trainer.cli.sweep import flags_of
from trainer.config.sweep_file import DIGITS, LOCAL, Sweep, key_of
from trainer.errors import RayUnavailableError
from trainer.processes.free_ports import free_ports
from trainer.records.sweep_results import FINAL, Row, SweepResults

for _name, _value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
                      "RAY_AIR_NEW_OUTPUT": "0", "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1"}.items():
    os.environ.setdefault(_name, _value)
try:
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import BasicVariantGenerator
except ImportError as error:
    raise RayUnavailableError(
        f"Ray Tune is not installed ({error}); install it: pip install 'paceline[ray]'.") from error

_ray: Any = ray
_tune: Any = tune
OBJECT_STORE_BYTES = 100 * 2**20
LAST_LINES = 6
NO_SCORE = float("-inf")
STOPPED = "Others were better after as many rounds."


def run_sweep(
    sweep: Sweep, directory: Path, address: str, parallel: int | None, running_map: str | None,
    notify: Callable[[str], None],
) -> int:
    """Run what is not finished yet, write table and plot; return the number of runs that failed.

    `running_map`: of the emulation on this machine; runs on other maps wait for theirs.

    Raises: RayUnavailableError, UsageError if `directory` has the results of another sweep.
    """
    results = SweepResults(directory, sweep.columns)
    before = {key: row for key, row in results.rows.items() if row["status"] in FINAL}
    notify(f"{sweep.runs} runs, of which {len(before)} are finished; records in {directory}.")
    _connect(address)
    ours = directory / "tune"
    shutil.rmtree(ours, ignore_errors=True)  # of a sweep that was killed
    try:
        recorder = _Recorder(results, sweep.fixed, before, notify)
        trainable = _tune.with_resources(
            _tune.with_parameters(_train, fixed=dict(sweep.fixed), directory=str(directory), finished=before,
                                  running_map=running_map, working=str(Path.cwd()), path=_import_path()), {"cpu": 1})
        scheduler = None if sweep.stop is None else ASHAScheduler(
            time_attr="round", max_t=int(1e9), grace_period=sweep.stop.grace_rounds,
            reduction_factor=sweep.stop.factor)
        _tune.Tuner(
            trainable, param_space=_space(sweep),
            tune_config=_tune.TuneConfig(
                metric="score", mode="max", num_samples=sweep.samples, scheduler=scheduler,
                search_alg=BasicVariantGenerator(random_state=sweep.seed, max_concurrent=parallel or 0)),
            run_config=_tune.RunConfig(storage_path=str(ours), name="tune", verbose=0,
                                       callbacks=[recorder]),
        ).fit()
    finally:
        for path in results.write():
            notify(str(path))
        _ray.shutdown()
        shutil.rmtree(ours, ignore_errors=True)
    return recorder.failed


def _connect(address: str) -> None:
    own = {"num_cpus": os.cpu_count(), "object_store_memory": OBJECT_STORE_BYTES, "include_dashboard": False}
    logging.getLogger("ray").setLevel(logging.ERROR)
    try:
        _ray.init(address=address, log_to_driver=False, logging_level="error", **(own if address == "local" else {}))
    except Exception as error:
        line = str(error).strip().partition("\n")[0].rstrip(".")
        raise RayUnavailableError(f"No Ray cluster at {address}: {line}. Start one: ray start --head; or give --ray "
                                  "local.") from error


def _space(sweep: Sweep) -> dict[str, Any]:
    """Return what Ray Tune makes the settings of all runs of."""
    space: dict[str, Any] = {name: _tune.grid_search(list(values)) for name, values in sweep.varied.items()}
    for name, (kind, values) in sweep.drawn.items():
        space[name] = _tune.choice(list(values)) if kind == "choice" else getattr(_tune, kind)(*values)
    return space


def _import_path() -> str:
    paths = [str(Path(entry).absolute()) for entry in sys.path if entry]
    return os.pathsep.join([str(Path.cwd()), *paths])


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run, with what is drawn in few digits."""
    return {name: float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value for name, value in config.items()}


def _train(
    config: dict[str, Any], fixed: dict[str, Any], directory: str, finished: dict[str, Row], running_map: str | None,
    working: str, path: str,
) -> None:
    """Make one run, in a process of Ray; report its metric after every averaging and at last its row."""
    settings = _settings(config)
    everything = {**fixed, **settings}
    key = key_of(everything)
    place = everything.get("map", LOCAL)
    if (row := finished.get(key)) is not None:
        _report(row["value"], row["better"], row["round"], settings, key, row)
        return
    if place not in (LOCAL, running_map):
        _report(None, None, 0, settings, key, {"status": "waiting", "sentence": f"Start the emulation of {place}: sudo "
                f"mininet/start.py --map {place}; then sweep again."})
        return
    edges = int(everything.get("edges", 4))
    flags = ["--json", "--runs-dir", f"{directory}/runs/{key}", *flags_of(everything)]
    if place == LOCAL:
        flags += ["--local", "--edges", str(edges), "--port", str(free_ports(edges))]
    _report_run(flags, settings, key, working, path)


def _report_run(flags: list[str], settings: dict[str, Any], key: str, working: str, path: str) -> None:
    metric: dict[str, Any] = {}
    seconds, value, number, record, failure = 0.0, None, 0, None, None
    command = [sys.executable, "-m", "trainer.cli.api_process", str(os.getpid()), *flags]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, cwd=working, env={**os.environ, "PYTHONPATH": path}) as process:
        assert process.stdout is not None
        lines: list[str] = []
        for line in process.stdout:
            try:
                event = json.loads(line)
                kind = event["event"]
            except (ValueError, KeyError, TypeError):
                lines = [*lines, line.strip()][-LAST_LINES:]
                continue
            if kind == "prepared":
                metric = event["metric"]
            elif kind == "round_done":
                seconds += event["duration_ms"] / 1e3
                number = event["round"]
                if event["metric"] is not None:
                    value = event["metric"]
                    _report(value, metric["better"], number, settings, key, {
                        "status": "stopped", "metric": metric["name"], "better": metric["better"], "value": value,
                        "round": number, "seconds": round(seconds, 3), "sentence": STOPPED})
            elif kind == "finished":
                record, failure = event["directory"], event["error"] or failure
            elif kind == "error":
                failure = event["sentence"]
    if process.returncode and failure is None:
        failure = " ".join(lines) or f"exit code {process.returncode}"
    row = {"status": "done" if failure is None else "failed", "metric": metric.get("name"),
           "better": metric.get("better"), "value": value, "round": number, "seconds": round(seconds, 3),
           "megabytes": _megabytes(record), "record": record, "sentence": failure}
    _report(value, metric.get("better"), number, settings, key, row)


def _megabytes(record: str | None) -> float | None:
    """Return the segments and gradients that a run has sent; None if it has no record."""
    from trainer.errors import UsageError
    from trainer.records.run_reader import read_run

    try:
        sent = read_run(Path(record or "")).megabytes()
    except UsageError:
        return None
    return round(sent[-1], 3) if sent else 0.0


def _report(
    value: float | None, better: str | None, number: int, settings: dict[str, Any], key: str, row: Row
) -> None:
    """Report to Ray Tune; `row`: of the run in the results if it ends here."""
    score = NO_SCORE if value is None else -value if better == "lower" else value
    _tune.report({"score": score, "round": number, "settings": settings, "key": key, "row": row})


class _Recorder(tune.Callback):
    """Records each run as it ends."""

    def __init__(
        self, results: SweepResults, fixed: Mapping[str, Any], before: Mapping[str, Row], notify: Callable[[str], None]
    ) -> None:
        self._results = results
        self._fixed = fixed
        self._before = before
        self._notify = notify
        self.failed = 0

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a run that has ended or was stopped early."""
        del iteration, trials, info
        found = trial.last_result
        if found["key"] in self._before:
            return
        row = found["row"]
        self.failed += row["status"] == "failed"
        self._add(found["key"], found["settings"], row)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Record a run whose process on Ray was lost."""
        del iteration, trials, info
        self.failed += 1
        settings = _settings(trial.config)
        self._add(key_of({**self._fixed, **settings}), settings, {
            "status": "failed", "sentence": f"Its process on Ray ended: {trial.error_file or 'no reason is known'}."})

    def _add(self, key: str, settings: Mapping[str, Any], row: Row) -> None:
        self._results.add(key, settings, **row)
        shown = ", ".join(f"{name} {value}" for name, value in settings.items())
        value = "" if row.get("value") is None else f", {row.get('metric') or 'metric'} {row['value']:.4f}"
        why = "" if row.get("sentence") is None else f": {row['sentence']}"
        with contextlib.suppress(BrokenPipeError):  # nobody reads; the sweep goes on
            self._notify(f"{row['status']}: {shown}{value}{why}")
