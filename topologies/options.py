"""Command-line options of published networks, the same for every command that takes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import click

from topologies.catalogue import MapOptions
from topologies.option_types import FiniteRange
from topologies.placement.map_document import PlacementOptions
from topologies.plants.survey import SurveyOptions
from topologies.plants.unplaced import Unplaced

_OPTIONS = (
    click.option("--edges", metavar="N|SITE,SITE…",
                 help="Number of edges, or the sites they are attached to; default: up to 4, far apart."),
    click.option("--cloud", metavar="SITE", help="Site of the cloud; default: the most central site."),
    click.option("--scale", type=FiniteRange(0, 1000, min_open=True), metavar="MBPS",
                 help="Emulated Mb/s per real Gb/s; default: the map's own, for a published network 80 Mb/s for its "
                      "fastest fibre (0.2 where no speeds are stated)."),
    click.option("--route-factor", type=FiniteRange(1, 5),
                 help="Fibre length per great-circle distance; default: the rule of ITU-T G.826."),
    click.option("--unplaced", type=click.Choice(["drop", "place", "refuse"]),
                 help="Sites without coordinates: leave them out, place them between their neighbours, or refuse; "
                      "default: peers outside the network and sites with one neighbour are left out if the rest stays "
                      "whole, others are placed."),
    click.option("--km-per-unit", type=FiniteRange(0, 10_000, min_open=True), metavar="KM",
                 help="The coordinates are those of a drawing of this scale."),
    click.option("--length-from", metavar="ATTRIBUTE",
                 help="The attribute of a span that is its length in km, such as weight."),
    click.option("--regenerate", is_flag=True,
                 help="Put regenerator sites on spans beyond optical reach, and count the regenerators."),
    click.option("--regenerator-price", type=FiniteRange(0), metavar="PRICE",
                 help="With --regenerate: the price of a regenerator of one channel, in any unit."),
    click.option("--span-km", type=FiniteRange(0, 20_000, min_open=True), metavar="KM",
                 help="The length of every span of which neither the length nor both places are known."),
)  # fmt: skip


def published_network_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of published networks to a command; `map_options` takes their values."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def map_options(values: dict[str, Any]) -> MapOptions:
    """The options by the values that the command line gave."""
    survey = SurveyOptions(
        values["route_factor"], cast(Unplaced | None, values["unplaced"]), values["km_per_unit"], values["length_from"],
        values["span_km"],
    )
    edges = None if values["edges"] is None else parse_edges(values["edges"])
    if values["cloud"] is not None and not values["cloud"].strip():
        raise click.UsageError("--cloud is empty; give the name of a site, or leave it out for the most central one")
    if values["regenerator_price"] is not None and not values["regenerate"]:
        raise click.UsageError("--regenerator-price applies with --regenerate only")
    placement = PlacementOptions(
        edges, values["cloud"], scale_mbps_per_gbps=values["scale"], regenerate=values["regenerate"],
        regenerator_price=values["regenerator_price"],
    )  # fmt: skip
    return MapOptions(survey, placement)


def parse_edges(text: str) -> int | list[str]:
    """Parse the option `--edges`: a number (`4`) or sites (`Seattle,Houston`)."""
    return int(text) if text.isdigit() else [name.strip() for name in text.split(",") if name.strip()]
