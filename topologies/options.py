"""Command-line options of published networks, the same for every command that takes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import click

from topologies.option_types import FiniteRange

if TYPE_CHECKING:
    from topologies.catalogue import MapOptions
    from topologies.maps import Band, Grid
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
    click.option("--grid", type=click.Choice(["fixed", "flexible"]),
                 help="Optical grid: channels of 50 GHz (the default), or slots of 12.5 GHz, three a channel."),
    click.option("--band", type=click.Choice(["C", "C+L"]),
                 help="Bands that the fibres' amplifiers carry; C+L has more channels and less reach.  [default: C]"),
    click.option("--channels", type=click.IntRange(1), metavar="N",
                 help="Channels of 100 Gb/s on a fibre whose speed is not stated; default: 4."),
    click.option("--regenerators", metavar="all|none|SITE,SITE…",
                 help="Sites at which a flow may change from one lightpath to the next; default: all."),
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
    """Take the values of these options out of those that the command line gave.

    Raises: click.UsageError if they contradict each other.
    """
    from topologies.catalogue import MapOptions  # slow to import, and not needed to print help
    from topologies.maps import most_channels
    from topologies.placement.map_document import DEFAULT_CHANNELS, PlacementOptions
    from topologies.plants.survey import SurveyOptions

    survey = SurveyOptions(
        values["route_factor"], cast("Unplaced | None", values["unplaced"]), values["km_per_unit"],
        values["length_from"], values["span_km"],
    )
    edges = None if values["edges"] is None else parse_edges(values["edges"])
    if values["cloud"] is not None and not values["cloud"].strip():
        raise click.UsageError("--cloud is empty; give the name of a site, or leave it out for the most central one")
    if values["regenerator_price"] is not None and not values["regenerate"]:
        raise click.UsageError("--regenerator-price applies with --regenerate only")
    grid, band = cast("Grid", values["grid"] or "fixed"), cast("Band", values["band"] or "C")
    most = most_channels(grid, band)
    if values["channels"] is not None and values["channels"] > most:
        more = "; with --band C+L there are more" if band == "C" else ""
        raise click.UsageError(f"--channels is {values['channels']}; at most {most} fit into the {band} band{more}")
    placement = PlacementOptions(
        edges, values["cloud"], channels=values["channels"] or DEFAULT_CHANNELS, scale_mbps_per_gbps=values["scale"],
        grid=grid, band=band, regenerators=_parse_regenerators(values["regenerators"]),
        regenerate=values["regenerate"], regenerator_price=values["regenerator_price"],
    )  # fmt: skip
    return MapOptions(survey, placement)


def _parse_regenerators(text: str | None) -> Sequence[str] | None:
    if text is None or text.strip() == "all":
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise click.UsageError("--regenerators is empty; give all, none, or the names of sites")
    return [] if names == ["none"] else names


def parse_edges(text: str) -> int | list[str]:
    """Parse the option `--edges`: a number (`4`) or sites (`Seattle,Houston`)."""
    return int(text) if text.isdigit() else [name.strip() for name in text.split(",") if name.strip()]
