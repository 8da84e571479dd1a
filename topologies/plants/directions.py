"""Joins the two directions of a fibre pair where a file states each as a link of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from topologies.maps import FibreType
from topologies.problems import listed


@dataclass(slots=True)
class StatedSpan:
    """A span as stated, by the keys of its sites; None: not stated. `distance_km`: the great-circle distance."""

    ends: tuple[str, str]
    length_km: float | None
    distance_km: float | None
    duct: str | None
    rate_gbps: float | None
    loss_db_per_km: float | None = None
    fibre_type: FibreType | None = None


def join_directions(spans: list[StatedSpan], labels: Mapping[str, str]) -> tuple[list[StatedSpan], list[str]]:
    """One span for each fibre pair, and what to tell about them.

    Of parallel links those of the same length in both directions belong together; the remaining ones are paired in
    order, with the greater length; the greater loss counts. A link without one in the opposite direction stands for
    both.
    """
    waiting: dict[tuple[str, str], list[StatedSpan]] = {}
    unlike: dict[str, list[str]] = {}

    def join(kept: StatedSpan, other: StatedSpan) -> None:
        name = f"{labels[kept.ends[0]]} - {labels[kept.ends[1]]}"
        kept.loss_db_per_km = max(kept.loss_db_per_km or 0.0, other.loss_db_per_km or 0.0) or None
        rates = [rate for rate in (kept.rate_gbps, other.rate_gbps) if rate is not None]
        if len(set(rates)) > 1:
            unlike.setdefault("speed, the lower is taken", []).append(name)
        kept.rate_gbps = min(rates, default=None)
        for word, what in (("duct", "duct"), ("fibre_type", "type of fibre")):
            stated, others = getattr(kept, word), getattr(other, word)
            if None not in (stated, others) and stated != others:
                unlike.setdefault(f"{what}, that of the first is taken", []).append(name)
            setattr(kept, word, others if stated is None else stated)

    joined: list[StatedSpan] = []
    for span in spans:
        opposite = waiting.get(span.ends[::-1], [])
        match = next((each for each in opposite if each.length_km == span.length_km), None)
        if match is None:
            waiting.setdefault(span.ends, []).append(span)
            joined.append(span)
        else:
            opposite.remove(match)
            join(match, span)
    uneven = []
    for ends, remaining in waiting.items():
        opposite = waiting.get(ends[::-1], [])
        while remaining and opposite:
            kept, dropped = remaining.pop(0), opposite.pop(0)
            joined = [span for span in joined if span is not dropped]
            kept.length_km = max(kept.length_km or 0.0, dropped.length_km or 0.0) or None
            join(kept, dropped)
            uneven.append(f"{labels[ends[0]]} - {labels[ends[1]]}")
    single = [f"{labels[a]} - {labels[b]}" for (a, b), left in waiting.items() for _ in left]
    notes = []
    if uneven:
        notes.append(f"the directions differ in length, the longer is taken: {listed(uneven)}")
    notes += [f"the directions differ in {what}: {listed(names)}" for what, names in unlike.items()]
    if single and len(single) < len(joined):
        notes.append(f"stated in one direction only, taken for both: {listed(single)}")
    return joined, notes
