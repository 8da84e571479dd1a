"""A finished round as a strip for each edge: computing, sending, at the cloud, receiving; the rest is waiting. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Json = dict[str, Any]
Kind = Literal["computing", "sending", "cloud", "receiving"]

WIDTH, LEFT, RIGHT, TOP, ROW, LANE = 900.0, 74.0, 10.0, 8.0, 40.0, 13.0
AXIS = 30.0


@dataclass(frozen=True, slots=True)
class Bar:
    """A span of time in one lane of an edge; all but `text` in the picture's units."""

    kind: Kind
    x: float
    y: float
    width: float
    text: str


@dataclass(frozen=True, slots=True)
class Gantt:
    """The strips of a round. `beats`: planned sending instants; `bounds`: (x, y, kept) of latency bounds."""

    height: float
    edges: tuple[tuple[str, float], ...]
    bars: tuple[Bar, ...]
    bounds: tuple[tuple[float, float, bool], ...]
    beats: tuple[float, ...]
    ticks: tuple[tuple[float, str], ...]
    text: str


def gantt(row: Json) -> Gantt | None:
    """Return the strips of a round of `rounds.jsonl`; None if it has no transfers."""
    transfers = row["transfers"]
    if not transfers:
        return None
    edges = {edge["edge"]: edge for edge in row["edges"]}
    names = list(dict.fromkeys(transfer["edge"] for transfer in transfers))
    longest = max((edge["training_ms"]["measured"] or 0.0 for edge in edges.values()), default=0.0)
    start_s: float = min(transfer["sent_at"] for transfer in transfers) - longest / 1e3
    end_s: float = max(
        max(_arrived_s(transfer), _due_s(transfer) or 0.0) for transfer in transfers
    )

    def x_of(at_s: float) -> float:
        return LEFT + (at_s - start_s) / ((end_s - start_s) or 1.0) * (WIDTH - LEFT - RIGHT)

    bars: list[Bar] = []
    bounds: list[tuple[float, float, bool]] = []
    for number, name in enumerate(names):
        own = {
            (transfer["step"], transfer["direction"]): transfer for transfer in transfers if transfer["edge"] == name
        }
        top = TOP + number * ROW
        bars += _bars(name, own, edges.get(name), top, x_of)
        bounds += [
            (
                x_of(due_s),
                top + (0 if direction == "up" else LANE + 2),
                transfer["kept"] is not False,
            )
            for (_, direction), transfer in own.items()
            if (due_s := _due_s(transfer)) is not None
        ]
    height = TOP + len(names) * ROW + AXIS
    return Gantt(
        height,
        tuple((name, TOP + number * ROW) for number, name in enumerate(names)),
        tuple(bars),
        tuple(bounds),
        tuple(x_of(at_s) for at_s in _beats(row, transfers, end_s)),
        tuple(_ticks(start_s, end_s, x_of)),
        f"Round {row['round']}: computing, sending and receiving of {', '.join(names)} over {end_s - start_s:.2f} s",
    )


def _bars(name: str, own: dict[tuple[int, str], Json], edge: Json | None, top: float, x_of: Any) -> list[Bar]:
    bars: list[Bar] = []
    free_s = 0.0
    forward_ms = 0.0 if edge is None else edge["training_ms"]["measured"] or 0.0
    for step in sorted({step for step, _ in own}):
        up, down = own.get((step, "up")), own.get((step, "down"))
        if up is not None:
            begin_s = max(free_s, up["sent_at"] - forward_ms / 1e3)
            bars.append(_bar("computing", begin_s, up["sent_at"], top, f"{name} step {step + 1} computing", x_of))
            arrived_s = _arrived_s(up)
            bars.append(
                _bar(
                    "sending",
                    up["sent_at"],
                    arrived_s,
                    top,
                    f"{name} step {step + 1} sending {up['measured_ms']:.0f} ms",
                    x_of,
                )
            )
            free_s = arrived_s
        if down is not None:
            returned_s = _arrived_s(down)
            if up is not None:
                bars.append(
                    _bar(
                        "cloud",
                        up["sent_at"],
                        max(up["sent_at"], down["sent_at"]),
                        top + LANE + 2,
                        f"{name} step {step + 1} until the cloud returns a gradient",
                        x_of,
                    )
                )
            bars.append(
                _bar(
                    "receiving",
                    down["sent_at"],
                    returned_s,
                    top + LANE + 2,
                    f"{name} step {step + 1} receiving {down['measured_ms']:.0f} ms",
                    x_of,
                )
            )
    return bars


def _arrived_s(transfer: Json) -> float:
    """When the last byte of a transfer arrived; records of before have its whole time as `measured_ms`."""
    lasted_ms: float = transfer["span_ms"] if "span_ms" in transfer else transfer["measured_ms"]
    return float(transfer["sent_at"]) + lasted_ms / 1e3


def _due_s(transfer: Json) -> float | None:
    """When the transfer had to be there by its bound, from the micro-batch nearest to its own; None without a bound."""
    if transfer["bound_ms"] is None:
        return None
    if "margin_ms" in transfer:
        return _arrived_s(transfer) + float(transfer["margin_ms"]) / 1e3
    return float(transfer["sent_at"] + transfer["bound_ms"] / 1e3)


def _bar(kind: Kind, begin_s: float, end_s: float, y: float, text: str, x_of: Any) -> Bar:
    x = x_of(begin_s)
    return Bar(kind, round(x, 1), y, round(max(0.5, x_of(end_s) - x), 1), text)


def _beats(row: Json, transfers: list[Json], end_s: float) -> list[float]:
    """The planned sending instants of each step's micro-batches: from the first one in steps of the beat."""
    beat_s = (row.get("beat_ms") or 0.0) / 1e3
    if beat_s <= 0:
        return []
    beats: list[float] = []
    first: dict[int, float] = {}
    for transfer in transfers:
        if transfer["direction"] == "up":
            first[transfer["step"]] = min(first.get(transfer["step"], end_s), transfer["sent_at"])
    arrivals = {
        step: max(
            _arrived_s(transfer)
            for transfer in transfers
            if transfer["step"] == step and transfer["direction"] == "up"
        )
        for step in first
    }
    for step, start_s in sorted(first.items()):
        count = max(1, round((arrivals[step] - start_s) / beat_s))
        beats += [start_s + number * beat_s for number in range(min(count, 64))]
    return beats


def _ticks(start_s: float, end_s: float, x_of: Any) -> list[tuple[float, str]]:
    span_s = end_s - start_s
    step_s = next((step for step in (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 300) if span_s / step <= 8), 600)
    return [(x_of(start_s + number * step_s), f"{number * step_s:g} s") for number in range(int(span_s / step_s) + 1)]
