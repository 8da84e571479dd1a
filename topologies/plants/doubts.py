"""Sentences about what a file states that is possible, and taken as stated, but may be meant otherwise."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from topologies.plants.directions import StatedSpan
from topologies.problems import listed
from topologies.readers.site_names import has_controls, without_controls
from topologies.readers.source import SourceSite, number_of


def doubts_about_names(sites: Sequence[SourceSite], labels: Mapping[str, str]) -> list[str]:
    """Names that are shown otherwise than stated; `labels`: as shown, by the keys of the sites."""
    notes = []
    if cleaned := [labels[site.key] for site in sites if has_controls(site)]:
        notes.append(f"control characters and breaks of lines in names are left out: {listed(cleaned)}")
    numbers = Counter(name for site in sites if site.name and (name := without_controls(site.name)))
    if alike := [f"{name} ({number})" for name, number in numbers.items() if number > 1]:
        notes.append(f"sites of one name are numbered: {listed(alike)}")
    return notes


def doubts_about_places(sites: Iterable[SourceSite], labels: Mapping[str, str]) -> list[str]:
    """Places in degrees that often stand for an unknown one."""
    nowhere = [labels[site.key] for site in sites if number_of(site.x) == 0 and number_of(site.y) == 0]
    advice = "if a place is unknown, leave out its coordinates"
    return [f"placed at 0, 0, in the sea ({advice}): {listed(nowhere)}"] if nowhere else []


def doubts_about_directions(spans: Iterable[StatedSpan], labels: Mapping[str, str]) -> list[str]:
    """Pairs of sites between which an undirected network states spans both ways: two fibres, or one by mistake."""
    stated: dict[frozenset[str], set[tuple[str, str]]] = defaultdict(set)
    for span in spans:
        stated[frozenset(span.ends)].add(span.ends)
    both = [" - ".join(labels[end] for end in min(ways)) for ways in stated.values() if len(ways) > 1]
    advice = "in a directed network they are one"
    return [f"stated from either end, taken as parallel spans ({advice}): {listed(both)}"] if both else []
