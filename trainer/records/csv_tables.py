"""The tables of a run as CSV (RFC 4180): rounds, edges of each round, transfers. Units are in the column names."""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.records.run_reader import Run

Row = dict[str, Any]


def write_tables(run: Run, directory: Path) -> list[Path]:
    """Write rounds.csv, edges.csv and transfers.csv; return their paths.

    Raises: OSError if the directory cannot be made or written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    tables = {"rounds": list(round_rows(run)), "edges": list(edge_rows(run)), "transfers": list(transfer_rows(run))}
    paths = []
    for name, rows in tables.items():
        path = directory / f"{name}.csv"
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS[name])
            writer.writeheader()
            writer.writerows(rows)
        paths.append(path)
    return paths


COLUMNS: Mapping[str, Sequence[str]] = {
    "rounds": ("round", "duration_ms", "averaged", "averaging_ms", "loss", "metric", "metric_value",
               "training_delay_target_ms", "transmission_delay_target_ms", "transmission_delay_bound_ms",
               "step_predicted_ms", "step_measured_ms",
               "cloud_predicted_ms", "cloud_measured_ms", "beat_ms", "spread_ms", "round_over_bound", "edges",
               "lost_edges", "sent_bytes"),
    "edges": ("round", "edge", "cut", "codec", "samples", "local_samples", "segment_bytes", "reserved_bps",
              "reserved_down_bps", "planned_bps", "training_predicted_ms", "training_measured_ms",
              "backward_predicted_ms", "backward_measured_ms", "uplink_predicted_ms", "uplink_bound_ms",
              "uplink_measured_ms", "uplink_worst_ms", "downlink_predicted_ms", "downlink_bound_ms",
              "downlink_measured_ms", "downlink_worst_ms", "late_ms", "loss", "offset_ms"),
    "transfers": ("round", "step", "edge", "direction", "sent_at_unix_s", "bytes", "ideal_ms", "bound_ms",
                  "measured_ms", "kept"),
}
"""The columns of each table; a value that was not measured is empty."""


def round_rows(run: Run) -> Iterator[Row]:
    """Yield a row for each round. `step_measured_ms` is the median over its steps, `spread_ms` the largest."""
    for row in run.rounds:
        yield {
            **_same(row, "round", "duration_ms", "averaged", "averaging_ms", "loss", "beat_ms", "round_over_bound"),
            "metric": run.metric["name"],
            "metric_value": row.get("metric", row.get("accuracy")),
            **_flat(row, "training_delay", "target"),
            **_flat(row, "transmission_delay", "target", "bound"),
            "step_predicted_ms": row["step_ms"]["predicted"],
            "step_measured_ms": statistics.median(row["step_ms"]["measured"]),
            **_flat(row, "cloud", "predicted", "measured"),
            "spread_ms": max(row["spread_ms"]),
            "edges": len(row["edges"]),
            "lost_edges": len(row.get("lost", ())),
            "sent_bytes": sum(transfer["bytes"] for transfer in row["transfers"]),
        }


def edge_rows(run: Run) -> Iterator[Row]:
    """Yield a row for each edge in each round."""
    for row in run.rounds:
        for edge in row["edges"]:
            yield {
                "round": row["round"],
                **_same(edge, "edge", "cut", "codec", "samples", "local_samples", "segment_bytes", "reserved_bps",
                        "reserved_down_bps", "planned_bps", "late_ms", "loss", "offset_ms"),
                **_flat(edge, "training", "predicted", "measured"),
                **_flat(edge, "backward", "predicted", "measured"),
                **_flat(edge, "uplink", "predicted", "bound", "measured", "worst"),
                **_flat(edge, "downlink", "predicted", "bound", "measured", "worst"),
            }


def transfer_rows(run: Run) -> Iterator[Row]:
    """Yield a row for each transfer."""
    for row in run.rounds:
        for transfer in row["transfers"]:
            yield {"round": row["round"], "sent_at_unix_s": transfer["sent_at"],
                   **_same(transfer, "step", "edge", "direction", "bytes", "ideal_ms", "bound_ms", "measured_ms",
                           "kept")}


def _same(row: Row, *names: str) -> Row:
    return {name: row.get(name) for name in names}


def _flat(row: Row, name: str, *parts: str) -> Row:
    """Return the parts of a field `<name>_ms` as fields `<name>_<part>_ms`."""
    return {f"{name}_{part}_ms": row[f"{name}_ms"].get(part) for part in parts}
