"""The table of `paceline plan`: FLOPs, bytes, times and, if wanted, leakage of every cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from trainer.errors import UsageError

if TYPE_CHECKING:
    from trainer.models.boundary import Boundary
    from trainer.models.building import BuiltModel
    from trainer.profiling.layer_costs import LayerCost
    from trainer.profiling.predictor import LayerSeconds


def leakage(built: BuiltModel, data: str | None, values: tuple[int, int] | None) -> list[float]:
    """Measure the segments of every cut on the first training samples, standardized as in a run.

    Raises: UsageError if the samples are too few.
    """
    import torch

    from trainer.config.settings import RunSettings
    from trainer.data import standardization
    from trainer.data.load import load
    from trainer.privacy.distance_correlation import LEAST_SAMPLES
    from trainer.profiling.leakage import MOST_SAMPLES, segment_leakage

    train = load(data or RunSettings().data, RunSettings().seed).train
    if len(train) < LEAST_SAMPLES:
        raise UsageError(f"--privacy needs at least {LEAST_SAMPLES} training samples; {data} has {len(train)}.")
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(RunSettings().seed))[:MOST_SAMPLES]
    inputs = train.inputs[order]
    if values is None:
        how = standardization.choose_standardization([standardization.summarize(inputs, train.labels[order], 1)])
        inputs = standardization.standardize(inputs, how).to(torch.float32)
    return segment_leakage(built.layers, built.boundaries, inputs)


def rows(
    costs: Sequence[LayerCost], boundaries: Sequence[Boundary], layer_seconds: LayerSeconds, batch: int, micro: int,
    leaked: Sequence[float] | None,
) -> list[dict[str, Any]]:
    """Return a row for every cut; times are those of a mini-batch."""
    from trainer.protocol.segments import segment_bytes

    total = sum(layer_seconds.forward_s) + sum(layer_seconds.backward_s)
    table = []
    for cut, boundary in enumerate(boundaries):
        forward, backward = sum(layer_seconds.forward_s[:cut]), sum(layer_seconds.backward_s[:cut])
        row: dict[str, Any] = {
            "cut": cut,
            "last_layer": costs[cut - 1].name if cut else None,
            "forward_flops": sum(cost.forward_flops for cost in costs[:cut]),
            "parameters": sum(cost.parameters for cost in costs[:cut]),
            "segment_bytes": segment_bytes(boundary, batch, "fp32"),
            "edge_forward_ms": 1e3 * micro * forward,
            "edge_backward_ms": 1e3 * micro * backward,
            "cloud_ms": 1e3 * micro * abs(total - forward - backward),
        }
        table.append(row if leaked is None else {**row, "distance_correlation": leaked[cut]})
    return table


def show(model: str, cuts: Sequence[Mapping[str, Any]], batch: int, micro: int, prior: bool) -> None:
    """Print the rows as a table."""
    source = "predicted from FLOPs, bytes and a benchmark" if prior else "measured"
    click.echo(f"{model}, batch {batch} in {micro} micro-batches; times on one core of this machine, {source}\n")
    has_leakage = "distance_correlation" in cuts[0]
    click.echo("cut  last layer        MFLOP/sample  parameters  segment kB  edge fwd ms  edge bwd ms  cloud ms"
               + ("  distance corr." if has_leakage else ""))
    for row in cuts:
        click.echo(f"{row['cut']:>3}  {row['last_layer'] or '(raw input)':<16} {row['forward_flops'] / 1e6:>13.2f} "
                   f"{row['parameters']:>11} {row['segment_bytes'] / 1e3:>11.1f} {row['edge_forward_ms']:>12.1f} "
                   f"{row['edge_backward_ms']:>12.1f} {row['cloud_ms']:>9.1f}"
                   + (f" {row['distance_correlation']:>15.2f}" if has_leakage else ""))
