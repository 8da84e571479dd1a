"""The YAML file of `paceline sweep`: which runs, which settings of them are drawn, and when one is stopped early.

    fixed:  {rounds: 10, edges: 4}                        # options of `paceline train`, the same for all runs
    vary:   {model: [mlp, signal-cnn], seed: [1, 2]}      # a run for every combination
    search: {learning_rate: {loguniform: [1e-4, 1e-2]}}   # drawn for each of `samples` runs of every combination
    samples: 8
    seed: 1                                               # of what is drawn
    stop:   {grace_rounds: 5, factor: 3}                  # ASHA: of `factor` runs that came so far the best goes on
    parallel: 2                                           # runs at a time

A map other than `local` (the default) is that of the emulation that runs on this machine.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import yaml

from trainer.errors import UsageError

LOCAL = "local"
DISTRIBUTIONS = {"uniform": 2, "loguniform": 2, "randint": 2, "choice": None}
"""What values are drawn from, with the number of arguments; None: any."""
FIELDS = "fixed", "vary", "search", "samples", "seed", "stop", "parallel"
MAX_RUNS = 10_000
DIGITS = 6
"""Significant digits of what is drawn."""

Settings = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class EarlyStop:
    """A run is stopped when, after as many rounds, it is not among the best 1 / `factor` of those that came so far.

    Source: Li et al. 2020, "A system for massively parallel hyperparameter tuning" (ASHA).
    """

    grace_rounds: int
    factor: int = 3


@dataclass(frozen=True, slots=True)
class Sweep:
    """The runs of a sweep; `drawn`: of each setting that is searched, the distribution and its arguments."""

    fixed: Settings
    varied: Mapping[str, tuple[Any, ...]]
    drawn: Mapping[str, tuple[str, tuple[Any, ...]]]
    samples: int = 1
    seed: int = 1
    stop: EarlyStop | None = None
    parallel: int | None = None

    @property
    def runs(self) -> int:
        """Number of runs."""
        count = self.samples
        for values in self.varied.values():
            count *= len(values)
        return count

    @property
    def columns(self) -> tuple[str, ...]:
        """The settings in which runs differ."""
        return *self.varied, *self.drawn

    def examples(self) -> Iterator[dict[str, Any]]:
        """Yield the settings of every combination with both ends of what is drawn: all that can be wrong."""
        ends = [{name: (values[number] if kind != "choice" else values[min(number, len(values) - 1)])
                 for name, (kind, values) in self.drawn.items()} for number in (0, 1)]
        choices = [{name: value} for name, (kind, values) in self.drawn.items() if kind == "choice" for value in values]
        for combination in itertools.product(*self.varied.values()):
            config = {**self.fixed, **dict(zip(self.varied, combination, strict=True))}
            for drawn in (*ends, *({**ends[0], **choice} for choice in choices)) if self.drawn else ({},):
                yield {**config, **drawn}


def key_of(settings: Settings) -> str:
    """Return a name for a run that depends on its settings alone."""
    return blake2b(json.dumps(settings, sort_keys=True, default=str).encode(), digest_size=6).hexdigest()


def read_sweep(path: Path) -> Sweep:
    """Read the file of a sweep; what it says of single settings is checked by `paceline train`.

    Raises: UsageError.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path} must be a mapping with {', '.join(FIELDS)}.")
    if unknown := [str(name) for name in content if name not in FIELDS]:
        raise UsageError(f"{path}: {unknown[0]} is no field of a sweep; there are {', '.join(FIELDS)}.")
    fixed, vary, search = (_mapping(path, content, name) for name in ("fixed", "vary", "search"))
    for name in itertools.chain(vary, search):
        if (name in fixed) + (name in vary) + (name in search) > 1:
            raise UsageError(f"{path}: {name} is given twice; a setting is in one of fixed, vary and search.")
    sweep = Sweep(
        fixed, {name: _values(path, name, values) for name, values in vary.items()},
        {name: _distribution(path, name, given) for name, given in search.items()},
        _count(path, content, "samples", 1), _count(path, content, "seed", 1, least=0), _early_stop(path, content),
        _count(path, content, "parallel", None))
    if not search and sweep.samples > 1:
        raise UsageError(f"{path}: samples is {sweep.samples}, but no setting is drawn; add search, or vary seed.")
    if sweep.runs > MAX_RUNS:
        raise UsageError(f"{path} describes {sweep.runs} runs; at most {MAX_RUNS} are possible.")
    return sweep


def _mapping(path: Path, content: Mapping[str, Any], field: str) -> dict[str, Any]:
    found = content.get(field)
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise UsageError(f"{path}: {field} is {found!r}; it must be a mapping from settings to values.")
    return found


def _values(path: Path, name: str, values: object) -> tuple[Any, ...]:
    if not isinstance(values, list) or not values:
        raise UsageError(f"{path}: vary.{name} is {values!r}; it must be a list of values, such as [1, 2].")
    if len({json.dumps(value, default=str) for value in values}) < len(values):
        raise UsageError(f"{path}: vary.{name} names a value twice: {values!r}.")
    return tuple(values)


def _distribution(path: Path, name: str, given: object) -> tuple[str, tuple[Any, ...]]:
    if not isinstance(given, dict) or len(given) != 1 or next(iter(given)) not in DISTRIBUTIONS:
        raise UsageError(f"{path}: search.{name} is {given!r}; it must be one of {', '.join(DISTRIBUTIONS)} with its "
                         "values, such as {uniform: [0, 1]}.")
    ((kind, values),) = given.items()
    if not isinstance(values, list) or not values or DISTRIBUTIONS[kind] not in (None, len(values)):
        raise UsageError(f"{path}: search.{name}.{kind} is {values!r}; it must be a list of "
                         f"{'values' if DISTRIBUTIONS[kind] is None else 'the least and the greatest value'}.")
    if kind == "choice":
        return kind, tuple(values)
    try:
        least, greatest = (int(value) if kind == "randint" else float(value) for value in values)
    except (TypeError, ValueError):
        raise UsageError(f"{path}: search.{name}.{kind} is {values!r}; both must be numbers.") from None
    if not least < greatest or (kind == "loguniform" and least <= 0):
        raise UsageError(f"{path}: search.{name}.{kind} is {values!r}; the first must be less than the second"
                         f"{' and above 0' if kind == 'loguniform' else ''}.")
    return kind, (least, greatest)


def _count(path: Path, content: Mapping[str, Any], name: str, default: Any, least: int = 1) -> Any:
    value = content.get(name, default)
    if value is not default and (type(value) is not int or value < least):
        raise UsageError(f"{path}: {name} is {value!r}; it must be a whole number of at least {least}.")
    return value


def _early_stop(path: Path, content: Mapping[str, Any]) -> EarlyStop | None:
    if not (stop := _mapping(path, content, "stop")):
        return None
    if unknown := [name for name in stop if name not in ("grace_rounds", "factor")]:
        raise UsageError(f"{path}: stop.{unknown[0]} is unknown; stop has grace_rounds and factor.")
    if "grace_rounds" not in stop:
        raise UsageError(f"{path}: stop needs grace_rounds, the rounds after which a run may be stopped.")
    return EarlyStop(_count(path, stop, "grace_rounds", None), _count(path, stop, "factor", 3, least=2))
