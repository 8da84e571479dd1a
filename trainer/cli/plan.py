"""`paceline plan`: the costs of every cut, and the plan of a round on a map, without training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from topologies.options import map_options, published_network_options
from trainer.cli import cut_table
from trainer.cli.preflight import check_names
from trainer.config.fine_tuning import FREEZE_HELP, LORA_HELP
from trainer.config.objectives import LOSS_HELP, METRIC_HELP
from trainer.config.settings import RunSettings, parse_cuts
from trainer.errors import UsageError

if TYPE_CHECKING:
    from topologies.catalogue import MapOptions
    from topologies.maps import Map
    from trainer.config.objectives import Objective
    from trainer.planning.forecasts import StepForecaster
    from trainer.planning.plan import Alternative, RoundPlan
    from trainer.profiling.predictor import LayerSeconds
    from trainer.reservation.bandwidth import QuoteStats

MSS_OVERHEAD_BYTES = 52
"""IP and TCP headers with timestamps, inside the MTU."""


@click.command(epilog="Example: paceline plan --map metro")
@click.option(
    "--map", "map_name", help="Plan a round on this map, with the CPU shares of its edges and all links free; any map "
    "that `paceline maps` takes. Where it has several nodes of the cloud, each has one worker, as fast as the slowest, "
    "and the plan says which edge goes where."
)
@published_network_options
@click.option(
    "--model", help="Model of the zoo, or package.module:function.  [default: by data]"
)
@click.option("--data", help="Data set, or FILE.npz or package.module:function, whose samples the model is built for.  "
              "[default: images of 3 x 32 x 32 in 3 classes]")
@click.option("--freeze", help=FREEZE_HELP)
@click.option("--lora", metavar="RANK[:PATTERN]", help=LORA_HELP)
@click.option("--loss", help=LOSS_HELP)
@click.option("--metric", help=METRIC_HELP)
@click.option("--batch", default=64, show_default=True, help="Samples per mini-batch.")
@click.option("--micro", default=4, show_default=True, help="Micro-batches per mini-batch.")
@click.option("--controller", help="With --map: URL of a controller; plan with its current quotes.")
@click.option("--share", default=0.75, show_default=True, help="Share of the free capacity to use (0..1).")
@click.option("--min-cut", default=1, show_default=True, help="Minimum number of layers on an edge.")
@click.option("--cuts", help="With --map: plan these cuts, one for each edge separated by commas.")
@click.option("--codec", default="fp32", show_default=True, type=click.Choice(["fp32", "bf16", "int8", "zstd", "auto"]),
              help="Codec of segments; auto as at the start of a run.")
@click.option("--protect-labels", is_flag=True, help="Keep labels and the last layers on the edges.")
@click.option(
    "--tail-layers", default=1, show_default=True, help="With --protect-labels: number of last layers on the edges."
)
@click.option("--privacy", is_flag=True,
              help="Measure what the segment of every cut gives away of its inputs: the distance correlation, on "
              "samples of --data (the traffic lights if not given), for a model that is not trained.")
@click.option("--json", "as_json", is_flag=True, help="Print the cuts as JSON.")
@click.option("--prior", is_flag=True, help="Predict from costs and a benchmark; do not run the layers.")
def plan(
    map_name: str | None, model: str | None, data: str | None, freeze: str | None, lora: str | None, loss: str | None,
    metric: str | None, batch: int, micro: int, controller: str | None, share: float, min_cut: int, cuts: str | None,
    codec: str, protect_labels: bool, tail_layers: int, privacy: bool, as_json: bool, prior: bool,
    **map_values: Any,
) -> None:
    """Print every cut with its FLOPs, bytes and times on this machine; with --map, the plan of a round.

    With --protect-labels, the additional bytes and the step time compared to the best plan without.
    """
    import torch

    from trainer.cloud.preparation import check_model
    from trainer.models.building import random_batch
    from trainer.models.zoo import choose_model
    from trainer.planning.codec_selection import CodecSelector
    from trainer.planning.forecasts import StepForecaster
    from trainer.profiling import profiler
    from trainer.profiling.layer_costs import layer_costs
    from trainer.profiling.predictor import prior_seconds

    if as_json and map_name is not None:
        raise UsageError("--json prints the cuts, not the plan on a map; leave --map out.")
    if controller is not None and map_name is None:
        raise UsageError("--controller requires --map, which defines the CPU shares of the edges.")
    if cuts is not None and map_name is None:
        raise UsageError("--cuts requires --map, whose edges have these cuts.")
    options = map_options(map_values)
    if map_name is None and options.stated():
        raise UsageError(f"{options.stated()[0]} requires --map, the published network that it is about.")
    network = None if map_name is None else _load(map_name, options)
    names = ("edge1",) if network is None else tuple(node.name for node in network.edges)
    settings = RunSettings(
        edges=names, data=data or RunSettings().data, model=model, freeze=freeze, lora=lora, loss=loss, metric=metric,
        batch=batch,
        micro=micro, share=share, min_cut=min_cut,
        cuts=parse_cuts(cuts) if cuts else (), codec=codec, protect_labels=protect_labels, tail_layers=tail_layers)
    settings.check()
    if map_name is None and click.get_current_context().get_parameter_source("share") is ParameterSource.COMMANDLINE:
        raise UsageError("--share requires --map, whose free capacity it is of.")
    if len(settings.cuts) > 1:
        raise UsageError(f"--cuts is {cuts!r}; one round is planned, so there is one cut for each edge.")
    check_names(settings)
    torch.set_num_threads(1)
    sample_shape, classes, values, objective = _samples_of(data, loss, metric)
    if model is None:
        model = choose_model(settings.task, sample_shape)[0]
    built, tail, values = check_model(model, settings, sample_shape, classes, {}, values, objective)
    samples = random_batch(-(-batch // micro), sample_shape, values)
    layers = built.layers
    costs = layer_costs(layers, sample_shape, partial(random_batch, sample_shape=sample_shape, integers=values),
                        built.unchanging)
    if prior:
        layer_seconds = prior_seconds(costs, profiler.benchmark_node(), len(samples))
    else:
        layer_seconds = profiler.profile_layers(layers, samples)
    leakage = cut_table.leakage(built, data, values) if privacy else None
    table = cut_table.rows(costs, built.boundaries, layer_seconds, batch, micro, leakage)
    if as_json:
        click.echo(json.dumps({"model": model, "batch": batch, "micro": micro, "cuts": table}, indent=1))
    else:
        cut_table.show(model, table, batch, micro, prior)
    if network is None:
        return
    edges = {node.name: _scaled(layer_seconds, node.cpu_share) for node in network.edges}
    cloud = _scaled(layer_seconds, min(node.cpu_share or 1.0 for node in network.clouds))
    forecaster = StepForecaster(
        edges, cloud, built.boundaries, dict.fromkeys(edges, batch), micro, [0] * len(costs), CodecSelector(codec),
        tail, objective.target_bytes,
    )
    cuts_of = {name: range(cut, cut + 1) for row in settings.cuts for name, cut in zip(edges, row, strict=True)}
    _print_round(network, forecaster, range(min_cut, len(costs)), share, controller, cuts_of)


def _print_round(
    network: Map, forecaster: StepForecaster, all_cuts: range, share: float, controller: str | None,
    fixed: Mapping[str, range],
) -> None:
    """Print the plan of a round, the next-best cuts and, if labels are protected, the cost of that.

    `fixed`: the cuts of the edges, if they are not planned.
    """
    from trainer.cli.map_offers import quoted_plan, served, unused_offers
    from trainer.planning.node_offers import offer_for
    from trainer.planning.planner import alternatives, plan_round

    names, micro, tail = [node.name for node in network.edges], forecaster.micro, forecaster.tail
    mss = dict.fromkeys(names, network.mtu_bytes - MSS_OVERHEAD_BYTES)
    cuts = all_cuts if tail is None else range(all_cuts.start, tail)
    forecasts = forecaster.forecasts(mss, fixed or dict.fromkeys(names, cuts))
    if controller is None:
        offers = unused_offers(network, share)
        forecasts, nodes = served(forecasts, offers, micro)
        offer = offer_for(nodes, offers)
        best = plan_round(forecasts, offer, micro)
        _print_plan(network, best, f"using {share:.0%} of every link", nodes)
    else:
        quoted, forecasts, nodes = quoted_plan(network, controller, share, forecasts, micro, click.echo)
        offer, best = quoted.offer, quoted.plan
        _print_plan(network, best, f"using {share:.0%} of the free capacity at {controller}", nodes)
        _print_quotes(quoted.quote_stats)
    if tail is not None:
        unprotected = forecaster.forecasts(mss, fixed or dict.fromkeys(names, all_cuts), unprotected=True)
        unprotected_plan = plan_round([replace(forecast, worker=planned.worker) for forecast, planned in zip(
            unprotected, forecasts, strict=True)], offer, micro)
        _print_protection(
            best, unprotected_plan, [forecaster.sizes(edge.edge, edge.cut, edge.codec) for edge in best.edges]
        )
    if not fixed:
        _print_alternatives(best, alternatives(forecasts, offer, micro, best))


def _scaled(layer_seconds: LayerSeconds, cpu_share: float | None) -> LayerSeconds:
    """Scale the layer times to a node with a share of a core of this machine; layers use one core at most."""
    share = min(1.0, cpu_share or 1.0)
    return replace(
        layer_seconds,
        forward_s=tuple(s / share for s in layer_seconds.forward_s),
        backward_s=tuple(s / share for s in layer_seconds.backward_s),
    )


def _samples_of(
    data: str | None, loss: str | None, metric: str | None
) -> tuple[tuple[int, ...], int, tuple[int, int] | None, Objective]:
    """Return the shape of a sample, the number of outputs, the range of whole inputs, and what is trained for."""
    from trainer.config.objectives import choose_objective
    from trainer.data.dataset import is_binary
    from trainer.data.load import load

    if data is None:
        return (3, 32, 32), 3, None, choose_objective(loss, metric, None, None, False)
    loaded = load(data, RunSettings().seed)
    for note in loaded.notes:
        click.echo(note, err=True)
    objective = choose_objective(loss, metric, None, loaded.target_shape, is_binary(loaded.train),
                                 loaded.class_shape, loaded.vocabulary)
    return tuple(loaded.train.inputs.shape[1:]), loaded.classes, loaded.whole_numbers, objective


def _load(map_name: str, options: MapOptions | None = None) -> Map:
    from topologies.catalogue import find_map
    from topologies.problems import MapError

    try:
        network = find_map(map_name, options)
    except MapError as error:
        raise UsageError(str(error)) from error
    for note in network.notes:
        click.echo(f"note: {note}", err=True)
    if network.cloud is None or not network.edges:
        raise UsageError(f"The map {network.name} has no cloud or no edges; training needs both.")
    return network


def _print_quotes(stats: QuoteStats) -> None:
    click.echo(f"  {stats.quotes} quotes in {stats.seconds * 1e3:.1f} ms; with all free capacity a micro-batch takes "
               f"{stats.up_s * 1e3:.1f} ms up ({stats.up_bottleneck}), {stats.down_s * 1e3:.1f} ms down "
               f"({stats.down_bottleneck})")


def _print_plan(network: Map, best: RoundPlan, using: str, nodes: Mapping[str, str]) -> None:
    """Print a plan; `nodes`: the node of the cloud that serves each edge, told where the map has several."""
    click.echo(f"\nOn {network.name}, {using}:")
    for edge in best.edges:
        cpu = network.node(edge.edge).cpu_share
        to = f"  to {nodes[edge.edge]}" if len(network.clouds) > 1 else ""
        click.echo(f"  {edge.edge}{to}  CPU {cpu or 1:g}  cut {edge.cut:>2}  {edge.codec}  "
                   f"forward {edge.forward_s * 1e3:.1f} ms  backward {edge.backward_s * 1e3:.1f} ms  "
                   f"up {edge.up_bps / 1e6:.2f}  down {edge.down_bps / 1e6:.2f} Mb/s")
    click.echo(
        f"  for each of {best.micro_batches} micro-batches: training delay {best.training_delay_s * 1e3:.1f} ms, "
        f"transmission delay {best.transmission_delay_s * 1e3:.1f} ms up, {best.return_delay_s * 1e3:.1f} ms "
        f"down, cloud {best.cloud_s * 1e3:.1f} ms, period {best.period_s * 1e3:.1f} ms"
    )
    click.echo(f"  step time {best.step_s * 1e3:.0f} ms; work of the busiest resource {best.bound_s * 1e3:.0f} ms; "
               f"proven lower bound over all plans {best.proven_s * 1e3:.0f} ms; forward times of the edges differ by "
               f"{best.training_spread_s * 1e3:.1f} ms, the layers allow {best.least_spread_s * 1e3:.1f} ms")


def _print_protection(best: RoundPlan, unprotected: RoundPlan, sizes: Sequence[Mapping[str, int]]) -> None:
    """Print the cost of keeping labels on the edges."""
    down, up = (sum(edge[name] for edge in sizes) / 1e3 for name in ("tail_down_bytes", "tail_up_bytes"))
    more = best.step_s - unprotected.step_s
    click.echo(
        f"\nLabels stay on the edges: {down:.1f} kB more down and {up:.1f} kB more up per step on all edges;\n"
        f"  step time {more * 1e3:+.0f} ms ({more / unprotected.step_s:+.1%}) compared to the best plan without "
        f"({unprotected.step_s * 1e3:.0f} ms, cuts {' '.join(map(str, unprotected.cuts))})"
    )


def _print_alternatives(best: RoundPlan, others: Sequence[Alternative]) -> None:
    """Print the next-best cut of every edge with its cost."""
    click.echo("\nNext-best cut of each edge, with the best choice for all others:")
    chosen = {edge.edge: edge for edge in best.edges}
    for other in others:
        more = other.step_s - best.step_s
        cost = f"{more * 1e3:+.1f} ms per step ({more / best.step_s:+.1%})" if more > 1e-6 else "+0 (tie)"
        click.echo(f"  {other.edge}  cut {other.cut:>2} {other.codec} instead of {chosen[other.edge].cut:>2} "
                   f"{chosen[other.edge].codec}: {cost}")
