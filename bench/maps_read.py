"""Reads every network of a folder, and of topohub, as a user would: is it a map on which the controller admits flows?

    .venv/bin/python bench/maps_read.py FOLDER

FOLDER holds network files, such as the Internet Topology Zoo's GraphML. `read_share`: a map is made of the file, by
default or, where a sentence refuses that, with the option that it names for what the file does not say
(`--span-km 100`, `--km-per-unit 1`); `default_read_share`: by default.
`admits_share`: the controller admits a flow of 100 kb/s from an edge to the cloud and one back, as placed by default.
`explained_share`: of the networks of which no map is made, those that are refused with a sentence. Networks on which
nothing is admitted are listed with the reason.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
from rich.table import Table

from harness import report
from controller.admission.admission import Admitted, Request, decide
from controller.booking.calendar import Calendar
from controller.domain.network import network_from_map
from controller.domain.reservation import Flow, Match, Requirement
from topologies.catalogue import MapOptions, find_map
from topologies.plants.published import SUFFIXES, plant_names
from topologies.plants.survey import SurveyOptions
from topologies.problems import MapError

RATE_BPS = 100_000
SHOWN = 40


@dataclass(frozen=True, slots=True)
class Reading:
    """What became of one network. `reason`: why it is no map, or why nothing is admitted on it."""

    name: str
    is_read: bool
    by_default: bool
    admits: bool
    is_explained: bool
    reason: str
    notes: int
    seconds: float


def read(name: str) -> Reading:
    """Make a map of a network with the default options, and ask for a flow in each direction."""
    start = time.perf_counter()
    by_default, reason = True, ""
    for survey in (SurveyOptions(), SurveyOptions(span_km=100.0), SurveyOptions(km_per_unit=1.0)):
        try:
            found = find_map(name, MapOptions(survey))
            break
        except MapError as error:
            reason, by_default = reason or str(error).splitlines()[0], False
        except Exception as error:  # noqa: BLE001 - a traceback is what this bench looks for
            return Reading(name, False, False, False, False, repr(error), 0, time.perf_counter() - start)
    else:
        return Reading(name, False, False, False, True, reason, 0, time.perf_counter() - start)
    network = network_from_map(found)
    flows = tuple(
        Flow(f"{a}-{b}", a, b, Match("udp", 7801, 7800), Requirement(RATE_BPS))
        for a, b in (("edge1", "cloud"), ("cloud", "edge1"))
    )
    decision = decide(network, Calendar(), (), Request("r-00000001", 1, flows), 0.0)
    admits = isinstance(decision, Admitted)
    reason = reason if isinstance(decision, Admitted) else decision.error.detail
    return Reading(name, True, by_default, admits, True, reason, len(found.notes), time.perf_counter() - start)


def _files(folder: Path) -> list[str]:
    return [str(path) for path in sorted(folder.iterdir()) if path.suffix.lower() in SUFFIXES and path.is_file()]


def _claims(kind: str, readings: Sequence[Reading]) -> Iterator[tuple[str, report.Claim]]:
    number = len(readings)
    refused = [reading for reading in readings if not reading.admits]
    goal = 270 / 276 if kind == "folder" else 0.98
    prefix = "" if kind == "folder" else f"{kind}_"
    yield f"{prefix}read_share", report.at_least(sum(each.is_read for each in readings) / number, "", goal)
    yield f"{prefix}default_read_share", report.Claim(sum(each.by_default for each in readings) / number, "")
    yield f"{prefix}admits_share", report.at_least(sum(each.admits for each in readings) / number, "", goal)
    explained = sum(each.is_explained and bool(each.reason) for each in refused)
    yield f"{prefix}explained_share", report.at_least(explained / len(refused) if refused else 1.0, "", 1.0)


def _facts(reading: Reading) -> tuple[bool, bool, bool, bool]:
    return reading.is_read, reading.by_default, reading.admits, reading.notes > 0


@click.command(help=__doc__)
@click.argument("folder", required=False, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--quick", is_flag=True, help="Only every tenth network of topohub.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures there as JSON.")
def main(folder: Path | None, quick: bool, out: Path | None) -> None:
    """Read all files of FOLDER and all networks of topohub."""
    sources = {"topohub": list(plant_names())[:: 10 if quick else 1]}
    if folder is None:
        click.echo("no FOLDER: only topohub is read", err=True)
    else:
        sources["folder"] = _files(folder)
    claims: dict[str, report.Claim] = {}
    samples: dict[str, object] = {}
    summary = Table("source", "networks", "maps", "by default", "admit flows", "with notes", "seconds")
    reasons = Table("network", "why nothing is admitted on it")
    for kind, names in sources.items():
        readings = [read(name) for name in names]
        claims |= dict(_claims(kind, readings))
        counts = [len(readings), *(sum(facts) for facts in zip(*(_facts(each) for each in readings), strict=True))]
        seconds = sum(each.seconds for each in readings)
        summary.add_row(kind, *map(str, counts), f"{seconds:.0f}")
        for reading in [each for each in readings if not each.admits][:SHOWN]:
            reasons.add_row(Path(reading.name).name, reading.reason)
        samples[kind] = {each.name: [each.is_read, each.admits, each.reason] for each in readings}
    report.publish("maps_read", claims, samples, [summary, reasons], out)


if __name__ == "__main__":
    main()
