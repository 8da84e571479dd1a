"""Sinks of a run's metrics: TensorBoard (`--tensorboard`) and MLflow (`--mlflow`), fed with the events of the record.

Each sink has a thread of its own. One that fails is told once and gets nothing more; no run waits for one, but for up
to CLOSE_S at its end.
"""

from __future__ import annotations

import importlib.util
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from trainer.errors import UsageError
from trainer.records.run_record import Listener
from trainer.records.summary_file import Fields

CLOSE_S = 10.0
MAX_WAITING = 10_000
"""Events; a sink so far behind has failed."""


class Sink(Protocol):
    """Where metrics go; its functions are called in one thread, and may raise anything."""

    def open(self, run: str, config: Mapping[str, Any]) -> None:
        """Begin, or go on with, the run of that name."""

    def write(self, step: int, time_s: float, metrics: Mapping[str, float]) -> None:
        """Add metrics of a round."""

    def close(self, status: str) -> None:
        """End: `done` or `failed`."""


def metrics_of(event: Fields) -> tuple[int, dict[str, float]] | None:
    """The round of an event, and its numbers by name; None: it has none."""
    if event["event"] not in ("plan", "round_done"):
        return None
    return event["round"], {name: float(value) for name, value in _numbers(event)}


def _numbers(event: Fields) -> Iterator[tuple[str, float]]:
    if event["event"] == "plan":
        yield from _by_edge("cut", event["cuts"])
        yield from _by_edge("rate_bps", event["rates_bps"])
        for name in ("training_delay_ms", "transmission_delay_ms", "step_ms", "beat_ms"):
            yield from _one(f"planned/{name}", event[name])
        return
    for name in ("loss", "metric", "accuracy", "duration_ms"):
        yield from _one(name, event[name])
    yield from _one("spread_ms", max(event["spread_ms"], default=None))
    for name in ("made", "kept"):
        yield from _one(f"promises/{name}", event["promises"][name])
    for name in ("training_ms", "uplink_ms"):
        yield from _by_edge(name, {edge: times["measured"] for edge, times in event[name].items()})


def _one(name: str, value: float | None) -> Iterator[tuple[str, float]]:
    if value is not None:
        yield name, value


def _by_edge(name: str, values: Mapping[str, float | None]) -> Iterator[tuple[str, float]]:
    for edge, value in values.items():
        yield from _one(f"{name}/{edge}", value)


class SinkThread:
    """Feeds one sink. `failure`: why it gets nothing more; None: it has not failed."""

    def __init__(self, name: str, sink: Sink, run: str, config: Mapping[str, Any]) -> None:
        self.name = name
        self.failure: str | None = None
        self._sink, self._run_name, self._config = sink, run, config
        self._events: queue.Queue[Fields] = queue.Queue(MAX_WAITING)
        self._thread = threading.Thread(target=self._run, name=f"paceline-{name}", daemon=True)
        self._thread.start()

    def put(self, event: Fields) -> None:
        """Queue an event; does not block."""
        if self.failure is None:
            try:
                self._events.put_nowait(event)
            except queue.Full:
                self.failure = f"it is {MAX_WAITING} events behind"

    def join(self, timeout_s: float) -> None:
        """Wait until it has ended."""
        self._thread.join(timeout_s)
        if self._thread.is_alive() and self.failure is None:
            self.failure = f"it has not ended within {timeout_s:g} s"

    def _run(self) -> None:
        try:
            self._sink.open(self._run_name, self._config)
            while self.failure is None:
                event = self._events.get()
                if event["event"] == "finished":
                    self._sink.close(event["status"])
                    return
                if (found := metrics_of(event)) is not None:
                    self._sink.write(found[0], event["time"], found[1])
        except Exception as error:  # noqa: BLE001 - whatever it is, the run goes on
            first = (str(error).strip().splitlines() or [""])[0][:300]
            self.failure = f"{type(error).__name__}: {first}"


class WithSinks:
    """A listener that passes every event on, and to the sinks."""

    def __init__(self, listener: Listener, sinks: Sequence[SinkThread]) -> None:
        """`tell` is set later: it tells a sentence while the run goes on."""
        self._listener = listener
        self._sinks = list(sinks)
        self.tell: Callable[[str], None] = lambda _: None

    def __call__(self, event: Fields) -> None:
        """Handle one event."""
        for sink in self._sinks:
            sink.put(event)
        if event["event"] == "finished":
            for sink in self._sinks:
                sink.join(CLOSE_S)
            self._tell_failures(event)
        self._listener(event)
        if event["event"] != "finished":
            self._tell_failures(event)

    def _tell_failures(self, event: Fields) -> None:
        failed = [sink for sink in self._sinks if sink.failure is not None]
        self._sinks = [sink for sink in self._sinks if sink.failure is None]
        for sink in failed:
            sentence = f"{sink.name} gets no more metrics of this run: {sink.failure}."
            if event["event"] == "finished":
                self._listener({"time": event["time"], "event": "said", "sentence": sentence})
            else:
                self.tell(sentence)


def check_sinks(tensorboard: str | None, mlflow: str | None) -> None:
    """Check that the packages are there, and that the URI has no password in it, which the record would show.

    Raises: UsageError.
    """
    for flag, given, module in (("tensorboard", tensorboard, "tensorboard"), ("mlflow", mlflow, "mlflow")):
        if given is not None and importlib.util.find_spec(module) is None:
            raise UsageError(f"--{flag} needs the package {module}, which is not installed; install it: pip install "
                             f"'paceline[{flag}]'")
    if mlflow is not None and "@" in urlsplit(mlflow).netloc:
        raise UsageError("--mlflow has a user name in its URI, which the run record would show; set "
                         "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead.")


def with_sinks(
    listener: Listener, tensorboard: str | None, mlflow: str | None, directory: Path, config: Mapping[str, Any]
) -> WithSinks:
    """The listener with the sinks that are asked for; the name of the run is that of its directory."""
    sinks: list[SinkThread] = []
    run = directory.resolve().name
    if tensorboard is not None:
        from trainer.records.tensorboard_sink import TensorBoardSink

        sinks.append(SinkThread("TensorBoard", TensorBoardSink(Path(tensorboard)), run, config))
    if mlflow is not None:
        from trainer.records.mlflow_sink import MlflowSink

        sinks.append(SinkThread("MLflow", MlflowSink(mlflow), run, config))
    return WithSinks(listener, sinks)
