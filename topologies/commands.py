"""`paceline maps`: list and draw maps."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from topologies.catalogue import adapted, found_map, length_km
from topologies.loader import known_maps, load_map
from topologies.maps import Map
from topologies.placement import Wishes
from topologies.problems import MapError
from topologies.published import plant_names


def edges_wanted(text: str) -> int | list[str]:
    """`4` or `Seattle,Houston`."""
    return int(text) if text.isdigit() else [name.strip() for name in text.split(",") if name.strip()]


@click.command()
@click.argument("what", metavar="[MAP|GROUP]", required=False)
@click.option("--edges", default="4", show_default=True, metavar="N|SITE,SITE…",
              help="How many edges, or at which sites (for published networks).")  # fmt: skip
@click.option("--cloud", metavar="SITE", help="Where the cloud is; without it the most central site.")
@click.option("--scale", type=click.FloatRange(0, 1000, min_open=True), default=0.2, show_default=True,
              metavar="MBPS", help="Emulated Mb/s for each real Gb/s.")  # fmt: skip
@click.option("--route-factor", type=click.FloatRange(1, 5),
              help="Fibre per great-circle km; without it the rule of ITU-T G.826.")  # fmt: skip
@click.option("--duct", "ducts", metavar="[NAME=]A-B,C-D…", multiple=True,
              help="Spans that lie in one duct and are cut together; may be repeated.")  # fmt: skip
@click.option("--draw", "picture", type=click.Path(path_type=Path), help="Draw it there, .png or .svg.")
@click.option("--write", "file", type=click.Path(path_type=Path), help="Write its YAML file there.")
def maps(
    what: str | None, edges: str, cloud: str | None, scale: float, route_factor: float | None,
    ducts: tuple[str, ...], picture: Path | None, file: Path | None,
) -> None:  # fmt: skip
    """List maps, or show, draw and write one.

    A MAP is one of Paceline's, a YAML file, a name of topohub (sndlib/nobel-us), a GraphML, node-link JSON or GNPy
    JSON file. A GROUP is one of topohub's (sndlib).

    Example: paceline maps sndlib/nobel-us --cloud Pittsburgh --draw nobel-us.svg
    """
    console = Console()
    if what is None:
        return _list_all(console)
    if any(name.startswith(f"{what}/") for name in plant_names()):
        return console.print("\n".join(name for name in plant_names() if name.startswith(f"{what}/")), highlight=False)
    wishes = Wishes(edges_wanted(edges), cloud, scale_mbps_per_gbps=scale)
    try:
        with tempfile.TemporaryDirectory() as directory:
            path = adapted(found_map(what, wishes, Path(directory), route_factor), Path(directory), None, ducts)
            plan, text = load_map(str(path)), path.read_text()
        _show(console, plan)
        if file:
            file.write_text(text)
            console.print(f"written: {file}", highlight=False)
        if picture:
            from topologies.drawing import draw  # slow to import, seldom wanted

            draw(plan, picture)
            console.print(f"drawn: {picture}", highlight=False)
    except (MapError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _list_all(console: Console) -> None:
    own = Table("map", "switches", "edges", "fibre km", "what", title="maps of Paceline's own")
    for name in known_maps():
        plan = load_map(name)
        own.add_row(name, str(len(plan.switches)), str(len(plan.edges)), f"{length_km(plan):,.0f}", plan.description)
    console.print(own)
    groups = Counter(name.partition("/")[0] for name in plant_names())
    published = Table("group", "networks", title="published networks (topohub); `paceline maps GROUP` lists them")
    for group, count in groups.items():
        published.add_row(group, str(count))
    console.print(published)


def _show(console: Console, plan: Map) -> None:
    console.print(f"{plan.name}: {plan.description}", highlight=False)
    console.print(f"source: {plan.source or 'Paceline'}", highlight=False)
    labels = {node.name: node.label or node.name for node in plan.nodes}
    has_ducts = any(link.duct for link in plan.links)
    table = Table("span", "between", "km", "Gb/s", "emulated Mb/s", *(("duct",) if has_ducts else ()))
    for link in plan.links:
        ends = " - ".join(labels[end] for end in link.ends)
        rate_mbps = plan.rate_bps(link) / 1e6
        cells = ["-".join(link.ends), ends, f"{link.length_km:g}", f"{link.rate_gbps:g}", f"{rate_mbps:g}"]
        table.add_row(*cells, *((link.duct or "",) if has_ducts else ()))
    console.print(table)
