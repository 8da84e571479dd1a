"""Blocking on published fibre plants with and without moves of lit lightpaths, beside the best published heuristic."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import permutations
from statistics import mean

from rich.table import Table

from harness import report
from controller.optical.candidate_routes import CandidateRoutes
from controller.optical.reallocation import MovePolicy
from controller.optical.rsa import FIRST_FIT, GAP_AWARE, TUNED, RouteOrder
from harness.lightpath_replay import replay
from harness.lightpath_simulation import Outcome, Simulation
from harness.published_plants import SETTINGS, Setting
from harness.route_order_search import RATES_GBPS, Demand, demands

MEAN_HOLDING = 20.0
K = 50
QUICK_SETTINGS = ("NSFNET 250", "COST239 600")

PEER = "peer: k=50 by hops / efficiency"
FULL = "<= 3 moves, slot or route"


@dataclass(frozen=True, slots=True)
class Scheme:
    """A row of the table."""

    order: RouteOrder
    by: str = "length"
    policy: MovePolicy | None = None


SCHEMES = {
    PEER: Scheme(FIRST_FIT, by="hops/efficiency"),
    "no moves, slots x links": Scheme(TUNED),
    "no moves, gap-aware": Scheme(GAP_AWARE),
    "1 move, slot": Scheme(GAP_AWARE, policy=MovePolicy(max_moves=1, may_reroute=False, request_routes=30)),
    "<= 3 moves, slot": Scheme(GAP_AWARE, policy=MovePolicy(may_reroute=False)),
    "1 move, slot or route": Scheme(GAP_AWARE, policy=MovePolicy(max_moves=1)),
    FULL: Scheme(GAP_AWARE, policy=MovePolicy()),
}

GOALS_PERCENT = {
    "no moves, gap-aware": {"NSFNET 250": 1.5, "COST239 600": 1.4, "USNET 450": 0.5},
    "1 move, slot": {"NSFNET 250": 0.60, "COST239 600": 0.60, "USNET 450": 0.13},
    FULL: {"NSFNET 250": 0.12, "COST239 600": 0.03, "USNET 450": 0.02},
}
CLAIM_OF_SCHEME = {"no moves, gap-aware": "_unmoved", "1 move, slot": "_one_slot_move", FULL: ""}


@dataclass(slots=True)
class MovingReport:
    """What `compare_moving` found."""

    claims: dict[str, report.Claim] = field(default_factory=dict)
    samples: dict[str, object] = field(default_factory=dict)
    tables: list[Table] = field(default_factory=list)


def compare_moving(names: Sequence[str], seeds: int, warm_up: int, counted: int) -> MovingReport:
    """Run every scheme on the same requests of each of these settings.

    Raises: ReplayError if a step of a run with moves was impossible.
    """
    result = MovingReport()
    for name in names:
        setting = SETTINGS[name]
        requests = [
            list(demands(setting.sites, setting.erlang / MEAN_HOLDING, MEAN_HOLDING, seed, warm_up + counted))
            for seed in range(seeds)
        ]
        plants = {by: CandidateRoutes(setting.spans, K, by=by) for by in ("length", "hops/efficiency")}
        _compute_routes(plants["length"], setting.sites)
        plants["hops/efficiency"].adopt(plants["length"])
        gc.collect()
        gc.freeze()  # as the controller does with what it holds from the start
        outcomes = {
            scheme_name: [_run(setting, plants[scheme.by], scheme, wanted, warm_up) for wanted in requests]
            for scheme_name, scheme in SCHEMES.items()
        }
        result.tables.append(_table(name, outcomes, counted))
        result.samples[name] = {scheme: [asdict(outcome) for outcome in runs] for scheme, runs in outcomes.items()}
        result.claims.update(_claims(name, outcomes, counted))
    return result


def _compute_routes(routes: CandidateRoutes, sites: Sequence[str]) -> None:
    """Compute the routes, and their order for every rate, before the measurement."""
    for source, destination in permutations(sites, 2):
        for rate_gbps in range(RATES_GBPS[0], RATES_GBPS[1] + 1):
            routes.bounded_candidates(source, destination, rate_gbps, GAP_AWARE.filled)


def _run(setting: Setting, routes: CandidateRoutes, scheme: Scheme, wanted: Sequence[Demand], warm_up: int) -> Outcome:
    simulation = Simulation(routes, scheme.order, scheme.policy)
    outcome = simulation.run(wanted, warm_up)
    if scheme.policy is not None:
        asked = {number: (each.source, each.destination, each.rate_gbps) for number, each in enumerate(wanted)}
        replay(setting.spans, asked, simulation.log, scheme.policy.max_moves)
    return outcome


def _table(name: str, outcomes: dict[str, list[Outcome]], counted: int) -> Table:
    columns = (
        "scheme", "blocked, %", "Gb/s blocked, %", "fairness", "entropy", "moves / 1000", "us / request", "search, ms",
    )  # fmt: skip
    table = Table(*columns, title=f"{name} Erlang, {len(outcomes[PEER])} seeds, 95 % intervals")
    for scheme, runs in outcomes.items():
        blocking, half = report.interval([100 * run.blocking for run in runs])
        table.add_row(
            scheme,
            f"{blocking:.3f} ± {half:.3f}",
            f"{100 * mean(run.bit_rate_blocking for run in runs):.3f}",
            f"{mean(run.pair_fairness for run in runs):.4f}",
            f"{mean(run.fragmentation for run in runs):.3f}",
            f"{1000 * mean(run.moves for run in runs) / counted:.1f}",
            f"{mean(run.decision_us for run in runs):.1f}",
            f"{max(run.search_ms for run in runs):.1f}",
        )
    return table


def _claims(name: str, outcomes: dict[str, list[Outcome]], counted: int) -> dict[str, report.Claim]:
    plant, erlang = name.lower().split()
    prefix = f"{plant}_{erlang}" if plant[-1].isdigit() else plant + erlang
    claims = {}
    for scheme, suffix in CLAIM_OF_SCHEME.items():
        percent, half = report.interval([100 * run.blocking for run in outcomes[scheme]])
        goal = GOALS_PERCENT[scheme].get(name)
        claim = report.Claim(percent, "%") if goal is None else report.at_most(percent, "%", goal)
        claims[f"{prefix}{suffix}_blocking"] = claim
        claims[f"{prefix}{suffix}_half_interval"] = report.Claim(half, "%")
    claims[f"{prefix}_peer_blocking"] = report.Claim(100 * mean(run.blocking for run in outcomes[PEER]), "%")
    runs, has_goals = outcomes[FULL], name in GOALS_PERCENT[FULL]
    effort = {
        "moves_per_1000": (1000 * mean(run.moves for run in runs) / counted, "", 40),
        "search_ms": (max(run.search_ms for run in runs), "ms", 20),
        "decision_us": (mean(run.decision_us for run in runs), "us", 50),
    }
    for figure, (value, unit, limit) in effort.items():
        claim = report.at_most(value, unit, limit) if has_goals else report.Claim(value, unit)
        claims[f"{prefix}_{figure}"] = claim
    return claims
