"""Delay bounds by linear programmes on several forests, against PLP by lp_solve and total-flow analysis.

Net B: rings of 4 and 8 servers, every flow all the way round; net C: an interleaved tandem of 8; net D: 30 flows on an
industrial network of 8 switches at 72.7 %, in Saihu's JSON form. Each network is analysed by every method in one run.
PLP is solved as published (one forest, TFA rows) by Debian's lp_solve, which is unpacked into a temporary folder; a
ratio is against the smaller of its bound and the published one. Without --networks net D is skipped, and where lp_solve
cannot be had the published bounds remain.

`speed_over_lp_solve` is on net D: the time of PLP by lp_solve over ours on one forest, whose mean bound is below
that of PLP (`fast_mean_over_plp`).

    .venv/bin/python bench/tightness.py --networks FOLDER [--quick] [--out FILE.json]
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from harness import report
from controller.calculus.fifo_network import FifoNetwork
from controller.calculus.output_port_bounds import servers_and_streams
from controller.calculus.output_port_network import network_from_json
from controller.calculus.path_bounds import PathBounds
from harness.lp_solve_peer import LpSolve, PeerError, plp_by_lp_solve
from harness.published_networks import Case, ring, tandem, total_flow_delays

INDUSTRIAL = "ind_30_12Mbps_1.json"
PUBLISHED_US: Mapping[str, tuple[float, float | None]] = {
    "ring4_80": (1448.7, None), "ring4_95": (3061.0, None), "ring8_80": (3863.0, None), "tandem8_90": (2277.7, None),
    "industrial73": (3249.06, 1446.38),
}  # fmt: skip
"""PLP by panco and lp_solve: the largest bound and the mean. Source: Saihu's networks analysed by its own tools."""
EFFORT = {
    "ring4_80": (4, 2), "ring4_95": (4, 2), "ring8_80": (8, 1), "tandem8_90": (2, 1), "industrial73": (2, 1),
}  # fmt: skip
"""Forests and rounds."""
PEER_LIMIT_S = 400.0


@dataclass(frozen=True)
class Result:
    """The bounds of all flows by one method, and its time."""

    bounds_us: list[float]
    seconds: float

    @property
    def largest_us(self) -> float:
        return max(self.bounds_us)

    @property
    def mean_us(self) -> float:
        return statistics.fmean(self.bounds_us)


def timed(method: Callable[[], list[float]]) -> Result:
    began_s = time.perf_counter()
    bounds_us = method()
    return Result(bounds_us, time.perf_counter() - began_s)


def by_programmes(case: Case, forests: int, rounds: int) -> list[float]:
    """Total-flow analysis and linear programmes from nothing."""
    bounds = PathBounds(FifoNetwork.of(*case), total_flow_delays(case))
    bounds.analyse(forests, rounds)
    return [bounds.bound_us(number) for number in range(len(case[1]))]


def by_total_flow(case: Case) -> list[float]:
    delays_us = total_flow_delays(case)
    return [sum(delays_us[name] for name in stream.servers) for stream in case[1].values()] if delays_us else []


def one_flow(case: Case) -> tuple[float, float]:
    """Return the seconds for the first flow from nothing, and the median over all flows with their models kept."""
    delays_us = total_flow_delays(case)
    bounds = PathBounds(FifoNetwork.of(*case), delays_us)

    def ask(flow: int) -> list[float]:
        return [bounds.flow_bound_us(flow)]

    cold = timed(partial(ask, 0))
    for flow in range(len(case[1])):
        ask(flow)  # makes the models
    return cold.seconds, statistics.median(timed(partial(ask, flow)).seconds for flow in range(len(case[1])))


def industrial(folder: Path | None) -> Case | None:
    """Net D from a folder of networks."""
    if folder is None or not (folder / INDUSTRIAL).exists():
        Console().print(f"[bold]Net D is skipped: give --networks FOLDER with {INDUSTRIAL}.[/bold]")
        return None
    servers, streams = servers_and_streams(network_from_json(json.loads((folder / INDUSTRIAL).read_text())))
    return servers, dict(enumerate(streams))


def peer_results(cases: Mapping[str, Case]) -> dict[str, Result]:
    """PLP by lp_solve, of every network that it finishes in time."""
    results: dict[str, Result] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            solver = LpSolve(Path(folder))
            for name, case in cases.items():
                results[name] = timed(partial(plp_by_lp_solve, case, solver, PEER_LIMIT_S))
        except PeerError as error:
            Console().print(f"[bold]PLP by lp_solve is incomplete: {error}[/bold]")
    return results


def claims_of(
    ours: Mapping[str, Result], peer: Mapping[str, Result], fast: Result | None, single: tuple[float, float] | None
) -> dict[str, report.Claim]:
    """The figures and their goals."""

    def largest_ratio(name: str) -> float:
        peer_us = peer[name].largest_us if name in peer else PUBLISHED_US[name][0]
        return ours[name].largest_us / min(peer_us, PUBLISHED_US[name][0])

    claims = {
        "ring8_80_over_plp": report.at_most(largest_ratio("ring8_80"), "", 0.90),
        "ring4_95_over_plp": report.at_most(largest_ratio("ring4_95"), "", 0.75),
        "tandem8_90_over_plp": report.Claim(largest_ratio("tandem8_90"), ""),
        "ring8_80_seconds": report.Claim(ours["ring8_80"].seconds, "s"),
    }
    if "industrial73" in ours and fast is not None and single is not None:
        published_us = PUBLISHED_US["industrial73"][1] or 0.0
        mean_us = min(published_us, peer["industrial73"].mean_us) if "industrial73" in peer else published_us
        claims["industrial73_mean_over_plp"] = report.at_most(ours["industrial73"].mean_us / mean_us, "", 0.965)
        claims["industrial73_seconds"] = report.at_most(ours["industrial73"].seconds, "s", 3.0)
        claims["one_flow_cold_s"] = report.at_most(single[0], "s", 0.5)
        claims["one_flow_kept_ms"] = report.at_most(single[1] * 1e3, "ms", 20)
        claims["fast_mean_over_plp"] = report.Claim(fast.mean_us / mean_us, "")
        if "industrial73" in peer:
            speed = peer["industrial73"].seconds / fast.seconds
            claims["speed_over_lp_solve"] = report.at_least(speed, "", 20)
    return claims


def table_of(
    cases: Mapping[str, Case], ours: Mapping[str, Result], peer: Mapping[str, Result], quick: Mapping[str, Result]
) -> Table:
    table = Table("network", "TFA us", "PLP published", "PLP by lp_solve us", "s", "LP us", "LP mean us", "s",
                  title="Largest bound, and seconds")  # fmt: skip
    for name in cases:
        total = f"{quick[name].largest_us:.1f}" if quick[name].bounds_us else "none"
        solved = [f"{peer[name].largest_us:.1f}", f"{peer[name].seconds:.2f}"] if name in peer else ["-", "-"]
        mine = [f"{ours[name].largest_us:.1f}", f"{ours[name].mean_us:.1f}", f"{ours[name].seconds:.2f}"]
        table.add_row(name, total, f"{PUBLISHED_US[name][0]:.1f}", *solved, *mine)
    return table


@click.command()
@click.option("--networks", type=click.Path(path_type=Path, file_okay=False, exists=True),
              help=f"Folder with {INDUSTRIAL}.")  # fmt: skip
@click.option("--quick", is_flag=True, help="PLP by lp_solve of the small networks only; about a minute.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(networks: Path | None, quick: bool, out: Path | None) -> None:
    """Compare the bounds and times of the methods on networks with published bounds."""
    cases = {
        "ring4_80": ring(4, 0.80), "ring4_95": ring(4, 0.95), "ring8_80": ring(8, 0.80), "tandem8_90": tandem(8, 0.90),
    }  # fmt: skip
    net_d = industrial(networks)
    if net_d is not None:
        cases["industrial73"] = net_d
    by_programmes(cases["ring4_80"], 1, 1)  # loads the solver
    ours = {name: timed(partial(by_programmes, case, *EFFORT[name])) for name, case in cases.items()}
    total = {name: timed(partial(by_total_flow, case)) for name, case in cases.items()}
    fast = None if net_d is None else timed(partial(by_programmes, net_d, 1, 1))
    single = None if net_d is None else one_flow(net_d)
    skipped = {"ring8_80", "industrial73"} if quick else set()
    peer = peer_results({name: case for name, case in cases.items() if name not in skipped})
    samples = {
        method: {name: {"bounds_us": result.bounds_us, "seconds": result.seconds} for name, result in results.items()}
        for method, results in {"linear_programmes": ours, "plp_by_lp_solve": peer, "total_flow": total}.items()
    }
    claims = claims_of(ours, peer, fast, single)
    report.publish("tightness", claims, samples, [table_of(cases, ours, peer, total)], out)


if __name__ == "__main__":
    main()
