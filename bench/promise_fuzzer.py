"""Plays several tenants and senders at their limits against a real network, with the bounds as the oracle.

Tenants reserve, change, hold and release at random, with bursts, limits, windows, ranks and protection; spans are cut.
Senders keep exactly to what was granted, or flood. Every datagram is judged: bounds and limits, losses, marks, and
whether a flow exceeded the arrival curve that the bounds of the others rely on.

    sudo .venv/bin/python bench/promise_fuzzer.py [--minutes 60] [--seed N] [--quick] [--out FILE.json]
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import click
import httpx

from harness import report
from emulation.fault_injection import attach_to_running_emulation
from emulation.network import EmulationSettings
from emulation.session import emulate
from fuzzing.session import Outcome, fuzz, table_of
from machine.errors import EmulationError
from topologies import running_emulation
from topologies.map_file.loader import load_map, map_path

QUICK_MINUTES = 1.0


@click.command()
@click.option("--minutes", type=click.FloatRange(0.1), default=60.0, show_default=True, help="How long to play.")
@click.option("--seed", type=int, default=None, help="Repeat the moves of an earlier run. [default: the time]")
@click.option("--map", "map_name", default="metro", show_default=True, help="The map to play on.")
@click.option("--quick", is_flag=True, help="Play for a minute.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the results to this file as JSON.")
def main(minutes: float, seed: int | None, map_name: str, quick: bool, out: Path | None) -> None:
    """Fuzz the promises of the controller on an emulated network."""
    seed = int(time.time()) if seed is None else seed
    directory = Path(tempfile.mkdtemp(prefix=f"promise-fuzzer-{seed}-"))
    click.echo(f"seed {seed}; moves and arrivals are in {directory}")
    try:
        with emulate(EmulationSettings(map_path(map_name))):
            note = running_emulation.read()
            assert note is not None
            with httpx.Client(base_url="http://127.0.0.1:8080", timeout=60) as api:
                outcome = fuzz(
                    load_map(note.map_path), note, api, attach_to_running_emulation(),
                    QUICK_MINUTES * 60 if quick else minutes * 60, seed, directory,
                )  # fmt: skip
    except EmulationError as error:
        raise click.ClickException(str(error)) from error
    samples: dict[str, object] = {
        "flows": [asdict(each) for each in outcome.verdicts], "problems": outcome.problems, "seed": seed,
    }  # fmt: skip
    report.publish("promise_fuzzer", _claims(outcome), samples, [table_of(outcome)], out)
    raise SystemExit(1 if outcome.is_violated else 0)


def _claims(outcome: Outcome) -> dict[str, report.Claim]:
    return {
        "flows_violated": report.at_most(len(outcome.violated), "", 0),
        "contract_violations": report.at_most(len(outcome.problems), "", 0),
        "datagrams_judged": report.Claim(sum(each.judged for each in outcome.verdicts), ""),
        "largest_share_of_bound": report.Claim(
            max((each.largest_share_of_bound for each in outcome.verdicts), default=0), ""
        ),
    }


if __name__ == "__main__":
    main()
