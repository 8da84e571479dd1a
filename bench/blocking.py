"""Blocking probability of lightpath requests on published fibre plants, and decisions per second.

Requests arrive as a Poisson process, need 25-100 Gb/s between two random nodes and hold for a random time; a request
without a route with enough contiguous free slots is blocked. The set-up is that of the DeepRMSA paper (Chen et al.,
Journal of Lightwave Technology 37, 2019). First fit over the k shortest routes, the usual baseline, runs beside our
route order in the same process and on the same requests.

Then on NSFNET, COST239, USNET and JPN48, at the loads of Doherty et al. (J. Opt. Commun. Netw. 17(9), 2025): the best
heuristic published there (the peer) beside ours without and with moves of lit lightpaths. Of every run with moves the
log is replayed by a checker that shares no code with the search.

Decisions per second are per second of processor time, releases included. The decisions do no I/O: on an idle machine
processor time equals elapsed time.

    .venv/bin/python bench/blocking.py [--quick] [--setting "USNET 450"] [--out FILE.json]
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import click
from matplotlib.figure import Figure
from rich.table import Table

from harness import report
from controller.optical.candidate_routes import CandidateRoutes
from controller.optical.route_order import tuned_selection_for
from controller.optical.rsa import BY_COST, FIRST_FIT, MOST_USED, RouteOrder
from harness.moving_comparison import QUICK_SETTINGS, compare_moving
from harness.nsfnet import LOADS, NODES, SPANS
from harness.published_plants import SETTINGS
from harness.route_order_search import blocked_demands, demands

REFERENCE = {"l12_m14": 0.0002, "l10_m25": 0.0257}
"""Blocking of the best k-shortest-path first fit (k=50 by km)."""
WARM_UP, COUNTED = 3000, 10_000
ORDERS = "orders"

OURS = "tuned order"
K5 = "first fit, k=5 by km"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Result of one seed: the blocked share of the counted requests, and the processor time of the decisions."""

    blocking: float
    seconds: float


def simulate(routes: CandidateRoutes, order: RouteOrder, load: tuple[float, float], seed: int) -> Outcome:
    """Decide every request of one seed."""
    requests = list(demands(NODES, *load, seed, WARM_UP + COUNTED))
    began_s = time.process_time()
    blocked = blocked_demands(routes, order, requests)
    took_s = time.process_time() - began_s
    return Outcome(sum(number >= WARM_UP for number in blocked) / COUNTED, took_s)


def per_second(outcomes: list[Outcome]) -> float:
    """Decisions per second, releases included."""
    return len(outcomes) * (WARM_UP + COUNTED) / sum(outcome.seconds for outcome in outcomes)


def route_orders() -> dict[str, tuple[CandidateRoutes, RouteOrder]]:
    """Return the route orders to compare: the baselines, then ours."""
    ours = tuned_selection_for(SPANS)
    km5, hops5, km50 = CandidateRoutes(SPANS, 5), CandidateRoutes(SPANS, 5, by="hops"), CandidateRoutes(SPANS, 50)
    return {
        K5: (km5, FIRST_FIT),
        "first fit, k=5 by hops": (hops5, FIRST_FIT),
        "first fit, k=50 by km": (km50, FIRST_FIT),
        "most used, k=50 by km": (km50, MOST_USED),
        "slots x links, k=50": (km50, BY_COST),
        OURS: (CandidateRoutes(SPANS, ours.k, by=ours.by), ours.order),
    }


def plot(results: Mapping[str, Mapping[str, list[Outcome]]]) -> Figure:
    """Plot the blocking of each route order with its 95 % interval, one chart per load."""
    figure = Figure(figsize=(11, 3.6), layout="constrained")
    names = list(results)
    for axes, load in zip(figure.subplots(1, len(LOADS), sharey=True), LOADS, strict=True):
        intervals = [report.interval([outcome.blocking for outcome in results[name][load]]) for name in names]
        means, halves = [[1e2 * interval[part] for interval in intervals] for part in (0, 1)]
        colours = ["#2f7f5f" if name == OURS else "#8d8d8d" for name in names]
        axes.barh(names, means, xerr=halves, color=colours, ecolor="#222222", capsize=3)
        axes.axvline(100 * REFERENCE[load], color="#b03030", linestyle="--", linewidth=1, label="best known first fit")
        rate, holding = LOADS[load]
        axes.set_title(f"{rate:g} requests per time unit, holding time {holding:g}", fontsize=9)
        axes.set_xlabel("blocked, % of requests; 95 % interval over seeds", fontsize=8)
        axes.set_xlim(left=0)
        axes.tick_params(labelsize=8)
        axes.invert_yaxis()
        axes.legend(fontsize=7)
    return figure


@dataclass(slots=True)
class OrderReport:
    """What `compare_orders` found."""

    claims: dict[str, report.Claim] = field(default_factory=dict)
    samples: dict[str, object] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)
    plots: dict[str, Figure] = field(default_factory=dict)


def compare_orders(seeds: int) -> OrderReport:
    """Run all route orders on the same requests on NSFNET."""
    results: dict[str, dict[str, list[Outcome]]] = {}
    table = Table(
        "route order", *(f"blocking {load}" for load in LOADS), "requests/s", title=f"{seeds} seeds, 95 % intervals"
    )
    for name, (routes, order) in route_orders().items():
        for source in NODES:  # compute the routes before the measurement
            for destination in NODES:
                routes.between(source, destination)
        results[name] = {load: [simulate(routes, order, LOADS[load], seed) for seed in range(seeds)] for load in LOADS}
        intervals = [report.interval([outcome.blocking for outcome in outcomes]) for outcomes in results[name].values()]
        speed = per_second([outcome for outcomes in results[name].values() for outcome in outcomes])
        table.add_row(name, *(f"{mean:.5f} ± {half:.5f}" for mean, half in intervals), f"{speed:,.0f}")
    claims = {}
    for load, outcomes in results[OURS].items():
        mean, half = report.interval([outcome.blocking for outcome in outcomes])
        claims[f"blocking_{load}"] = report.at_most(mean, "", REFERENCE[load])
        claims[f"blocking_{load}_half_interval"] = report.Claim(half, "")
    ours = [outcome for outcomes in results[OURS].values() for outcome in outcomes]
    claims["requests_per_s"] = report.at_least(per_second(ours), "1/s", 100_000)
    fastest = [outcome for outcomes in results[K5].values() for outcome in outcomes]
    claims["requests_per_s_k5"] = report.at_least(per_second(fastest), "1/s", 200_000)
    samples: dict[str, object] = {
        name: {load: [outcome.blocking for outcome in outcomes] for load, outcomes in loads.items()}
        for name, loads in results.items()
    }
    return OrderReport(claims, samples, [table], {"orders": plot(results)})


@click.command(help=__doc__)
@click.option("--quick", is_flag=True, help="Five seeds instead of ten.")
@click.option("--setting", "settings", multiple=True, type=click.Choice([ORDERS, *SETTINGS]),
              help="Only this plant and load, or the route orders without moves; may be repeated.")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures there as JSON, and a plot beside it.")
def main(quick: bool, settings: tuple[str, ...], out: Path | None) -> None:
    """Run all route orders on the same requests, then all schemes with and without moves."""
    chosen = settings or (ORDERS, *(QUICK_SETTINGS if quick else SETTINGS))
    orders = compare_orders(5 if quick else 10) if ORDERS in chosen else OrderReport()
    moving = compare_moving([name for name in chosen if name != ORDERS], 3 if quick else 10, WARM_UP, COUNTED)
    report.publish(
        "blocking", {**orders.claims, **moving.claims}, {**orders.samples, **moving.samples},
        [*orders.tables, *moving.tables], out, orders.plots,
    )  # fmt: skip


if __name__ == "__main__":
    main()
