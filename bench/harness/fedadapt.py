"""Adaptive cuts by FedAdapt's way, as a planner policy: `paceline train --policy harness.fedadapt:policy`.

The first round is without offloading: the largest cut. Then the edges are clustered by their computing time, and
those with little bandwidth are a cluster of their own; each cluster has one action, the cut of all its edges. Where
FedAdapt's agent learns actions by reinforcement, the best one for the same inputs is searched here: the least time of a
step without overlap, at the computing times and the bandwidth that were measured in the last round.

Source: Wu et al., "FedAdapt: Adaptive Offloading for IoT Devices in Federated Learning", IEEE Internet of Things
Journal 9(21), 2022, sections III and IV.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.planning.plan import EdgeForecast, Option

RUNS_VARIABLE = "FEDADAPT_RUNS"
"""Environment variable with the folder of run records; the newest is this run's."""
CLUSTERS = 3
LOW_BANDWIDTH_BPS = 10e6

Row = Mapping[str, Any]


def policy(number: int, forecasts: Sequence[EdgeForecast], micros: int) -> dict[str, int]:
    """Return the cut of every edge."""
    if number == 1:
        return {forecast.edge: max(option.cut for option in forecast.options) for forecast in forecasts}
    bandwidth = measured_bandwidth(_last_round(number - 1))
    cuts: dict[str, int] = {}
    for cluster in clusters(forecasts, bandwidth):
        common = set.intersection(*({option.cut for option in forecast.options} for forecast in cluster))
        best = min(common, key=lambda cut: max(step_s(option_at(one, cut), bandwidth.get(one.edge, 0.0), micros)
                                               for one in cluster))
        cuts.update({forecast.edge: best for forecast in cluster})
    return cuts


def option_at(forecast: EdgeForecast, cut: int) -> Option:
    """Return the edge's first option with that cut."""
    return next(option for option in forecast.options if option.cut == cut)


def step_s(option: Option, bandwidth_bps: float, micros: int) -> float:
    """Return the time of a step without overlap."""
    computing_s = option.forward_s + option.cloud_s + option.backward_s
    bits = option.up_bits + option.down_bits
    return micros * (computing_s + (bits / bandwidth_bps if bandwidth_bps else float("inf") if bits else 0.0))


def clusters(forecasts: Sequence[EdgeForecast], bandwidth: Mapping[str, float]) -> list[list[EdgeForecast]]:
    """Group the edges with little bandwidth, and the others by computing time at its largest gaps."""
    slow = [one for one in forecasts if bandwidth.get(one.edge, 0.0) < LOW_BANDWIDTH_BPS]
    others = sorted((one for one in forecasts if one not in slow), key=_computing_s)
    gaps = sorted(range(1, len(others)), reverse=True,
                  key=lambda place: _computing_s(others[place]) / _computing_s(others[place - 1]))
    places = sorted(gaps[: CLUSTERS - 1 - bool(slow)])
    groups = [others[first:last] for first, last in zip([0, *places], [*places, len(others)], strict=True)]
    return [group for group in (slow, *groups) if group]


def measured_bandwidth(row: Row) -> dict[str, float]:
    """Return for every edge the rate at which its segments and gradients arrived in a round of the run record."""
    totals: dict[str, tuple[float, float]] = {}
    for transfer in row["transfers"]:
        if transfer["measured_ms"]:
            bits, seconds = totals.get(transfer["edge"], (0.0, 0.0))
            totals[transfer["edge"]] = bits + 8 * transfer["bytes"], seconds + transfer["measured_ms"] / 1e3
    return {edge: bits / seconds for edge, (bits, seconds) in totals.items()}


def _last_round(number: int) -> Row:
    runs = Path(os.environ[RUNS_VARIABLE])
    record = max(runs.glob("*/rounds.jsonl"), key=lambda path: path.stat().st_mtime)
    rows = [json.loads(line) for line in record.read_text().splitlines()]
    return next(row for row in reversed(rows) if row["round"] == number)


def _computing_s(forecast: EdgeForecast) -> float:
    last = max(forecast.options, key=lambda option: option.cut)
    return last.forward_s + last.backward_s
