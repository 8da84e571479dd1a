"""Pages about training: the runs, one run as it happens, runs side by side."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from statistics import median
from typing import Any

from fastapi import Request

from trainer.records.event_sentences import event_sentence
from trainer.web.charts import Chart, line_chart
from trainer.web.gantt import WIDTH as GANTT_WIDTH
from trainer.web.gantt import gantt
from trainer.web.live import Fragment
from trainer.web.pages import Pages, View
from trainer.web.run_store import FollowedRun, RunStore
from trainer.web.templating import render

Json = dict[str, Any]

POLL_S, LIST_POLL_S = 0.4, 2.0
RUNS_SHOWN, ROUNDS_SHOWN, EVENTS_TOLD, COMPARED = 100, 40, 60, 6


class RunViews:
    """Renders the runs in a directory."""

    def __init__(self, store: RunStore) -> None:
        self._store = store
        self._rendered: dict[str, tuple[object, str]] = {}

    def add_to(self, pages: Pages) -> None:
        """Register the pages about training."""
        pages.add("/runs", lambda _: View("runs.html", "Training runs", "/runs", (self._list(),)))
        pages.add("/runs/compare", self._compare)
        pages.add("/runs/{name}", self._run)

    def _list(self) -> Fragment:
        def rows() -> str:
            runs = [run.facts() for run in self._store.all()[:RUNS_SHOWN]]
            return render("run_list.html", runs=runs, directory=self._store.directory)

        return Fragment("runs", frozenset(), rows, LIST_POLL_S)

    def _run(self, request: Request) -> View | None:
        name = request.path_params["name"]
        if self._store.get(name) is None:
            return None
        parts: dict[str, Callable[[FollowedRun], str]] = {
            "run-state": lambda run: render("run_state.html", run=run.facts(), progress=progress(run)),
            "gantt": _gantt,
            "charts": lambda run: render("charts.html", charts=charts([run])),
            "rounds": lambda run: render("rounds.html", rounds=run.rounds[::-1][:ROUNDS_SHOWN]),
            "run-events": lambda run: render("run_events.html", events=_told(run)),
            "files": lambda run: render("files.html", run=run.id, files=run.artefacts(), logs=run.logs()),
        }
        fragments = tuple(self._fragment(id_, name, part) for id_, part in parts.items())
        return View("run.html", f"Run {name}", "/runs", fragments)

    def _fragment(self, id_: str, name: str, part: Callable[[FollowedRun], str]) -> Fragment:
        """A fragment of a run that is rendered once for every change of its record."""

        def render_once() -> str:
            run = self._store.get(name)
            if run is None:
                return render("gone.html")
            version = run.version, run.status
            kept = self._rendered.get(f"{name}/{id_}")
            if kept is None or kept[0] != version:
                kept = self._rendered[f"{name}/{id_}"] = version, part(run)
            return kept[1]

        return Fragment(id_, frozenset(), render_once, POLL_S)

    def _compare(self, request: Request) -> View | None:
        names = request.query_params.getlist("run")[:COMPARED]
        runs = [run for name in names if (run := self._store.get(name)) is not None]
        left_out = len(request.query_params.getlist("run")) - len(names)
        values = {"runs": [run.facts() for run in runs], "charts": charts(runs), "settings": differing(runs),
                  "left_out": left_out, "compared": COMPARED}  # fmt: skip
        return View("compare.html", "Runs side by side", "/runs", (), values)


def differing(runs: list[FollowedRun]) -> dict[str, list[str]]:
    """The settings in which these runs differ, apart from those that are shown anyway: name -> the value of each."""
    names = dict.fromkeys(name for run in runs for name in run.config if name not in ("rounds", "map_name", "model"))
    values = {name: [_setting(run.config.get(name)) for run in runs] for name in names}
    return {name.replace("_", " "): found for name, found in values.items() if len(set(found)) > 1}


def _setting(value: object) -> str:
    if value is None:
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def progress(run: FollowedRun) -> Json | None:
    """Where a running round is: its number, step and plan; None if none is under way."""
    plan = run.plan
    if plan is None:
        return None
    return {"round": plan["round"], "of": run.config.get("rounds"), "plan": plan, "step": run.step,
            "steps": run.config.get("steps")}  # fmt: skip


def _gantt(run: FollowedRun) -> str:
    row = run.rounds[-1] if run.rounds else None
    return render("gantt.html", strip=None if row is None else gantt(row), width=GANTT_WIDTH, row=row)


def _told(run: FollowedRun) -> list[Json]:
    shown = (
        "gathered",
        "prepared",
        "late",
        "lost",
        "joined",
        "paused",
        "continued",
        "resumed",
        "said",
        "checkpoint",
        "finished",
    )
    told = [event for event in reversed(run.events) if event["event"] in shown][:EVENTS_TOLD]
    return [{"time": event["time"], "text": event_sentence(event)} for event in told]


def charts(runs: list[FollowedRun]) -> list[Chart]:
    """Loss, metric, promises and steps over the rounds of up to a few runs; of a single one also the cuts."""
    metrics, targets = {run.metric["name"] for run in runs}, {run.metric.get("target") for run in runs}
    metric = metrics.pop() if len(metrics) == 1 else "metric"
    target = targets.pop() if len(targets) == 1 else None
    made = [
        line_chart("Loss", _series(runs, "loss", _losses), "round"),
        line_chart(metric.capitalize(), _series(runs, metric, _metric_points), "seconds of training", target),
        None
        if not any(run.promises["made"] for run in runs)
        else line_chart(
            "Transfers beyond their bound, in total", _series(runs, "transfers", _broken), "round", from_zero=True
        ),
        line_chart("Time of a step, ms", _series(runs, "step", _step_times), "round", from_zero=True),
    ]
    if len(runs) == 1:
        made.append(line_chart("Layers on each edge", _cuts(runs[0]), "round", from_zero=True))
    return [chart for chart in made if chart is not None]


def _series(
    runs: list[FollowedRun], name: str, points: Callable[[FollowedRun], list[tuple[float, float]]]
) -> dict[str, list[tuple[float, float]]]:
    return {run.id if len(runs) > 1 else name: points(run) for run in runs}


def _losses(run: FollowedRun) -> list[tuple[float, float]]:
    return [(row["round"], row["loss"]) for row in run.rounds]


def _step_times(run: FollowedRun) -> list[tuple[float, float]]:
    return [(row["round"], median(row["step_ms"]["measured"])) for row in run.rounds if row["step_ms"]["measured"]]


def _cuts(run: FollowedRun) -> dict[str, list[tuple[float, float]]]:
    edges: dict[str, list[tuple[float, float]]] = {}
    for row in run.rounds:
        for edge in row["edges"]:
            edges.setdefault(edge["edge"], []).append((row["round"], edge["cut"]))
    return edges


def _metric_points(run: FollowedRun) -> list[tuple[float, float]]:
    seconds = accumulate(row["duration_ms"] / 1e3 for row in run.rounds)
    values = ((second, row.get("metric", row.get("accuracy"))) for second, row in zip(seconds, run.rounds, strict=True))
    return [(round(second, 2), value) for second, value in values if value is not None]


def _broken(run: FollowedRun) -> list[tuple[float, float]]:
    counts = [sum(transfer["kept"] is False for transfer in row["transfers"]) for row in run.rounds]
    return [(row["round"], total) for row, total in zip(run.rounds, accumulate(counts), strict=True)]
