"""Names of sites: unique ones for all, the key of a site by its name, and the name that is most like another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from topologies.problems import listed
from topologies.readers.source import SourceSite
from topologies.text_encoding import is_control


def nearest(wanted: str, known: Iterable[str]) -> str:
    """The end of a sentence: which known name is most like the one wanted."""
    names = list(dict.fromkeys(known))
    lower = {name.lower(): name for name in reversed(names)}
    near = [lower[match] for match in get_close_matches(wanted.lower(), lower, 1, 0.5)]
    return f"; did you mean {near[0]!r}?" if near else f"; there are {listed(names, 8) or 'none'}"


def unique_labels(sites: Iterable[SourceSite]) -> dict[str, str]:
    """A unique name for each site: its own, numbered where several are equal, else its key."""
    labels: dict[str, str] = {}
    used: Counter[str] = Counter()
    taken = set[str]()
    for site in sites:
        base = without_controls(site.name or "") or without_controls(site.key) or site.key
        label = base
        while label in taken:
            used[base] += 1
            label = f"{base} {used[base] + 1}"
        taken.add(label)
        labels[site.key] = label
    return labels


def without_controls(name: str) -> str:
    """The name in one line, without control characters and those that change the direction of what follows."""
    return " ".join("".join(" " if is_control(letter) else letter for letter in name).split())


def has_controls(site: SourceSite) -> bool:
    """Whether the name of a site has characters that are left out where it is shown."""
    name = site.name if site.name and site.name.strip() else site.key
    return any(is_control(letter) for letter in name.strip())


def keys_by_name(sites: Iterable[SourceSite]) -> Mapping[str, str]:
    """The key of every site whose name no other site has."""
    named = [(site.name, site.key) for site in sites if site.name]
    counts = Counter(name for name, _ in named)
    return {name: key for name, key in named if counts[name] == 1}
