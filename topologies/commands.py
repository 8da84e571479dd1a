"""`paceline maps`: list, show, draw and export maps."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from topologies.catalogue import adapt_map, length_km, resolve_map
from topologies.loader import known_maps, load_map
from topologies.maps import Map
from topologies.placement import PlacementOptions
from topologies.problems import MapError
from topologies.published import plant_names


def parse_edges(text: str) -> int | list[str]:
    """Parse the option `--edges`: a number (`4`) or sites (`Seattle,Houston`)."""
    return int(text) if text.isdigit() else [name.strip() for name in text.split(",") if name.strip()]


@click.command()
@click.argument("name", metavar="[MAP|GROUP]", required=False)
@click.option("--edges", default="4", show_default=True, metavar="N|SITE,SITE…",
              help="Number of edges, or the sites they are attached to (published networks only).")  # fmt: skip
@click.option("--cloud", metavar="SITE", help="Site of the cloud; default: the most central site.")
@click.option("--scale", type=click.FloatRange(0, 1000, min_open=True), default=0.2, show_default=True,
              metavar="MBPS", help="Emulated Mb/s per real Gb/s (published networks only).")  # fmt: skip
@click.option("--route-factor", type=click.FloatRange(1, 5),
              help="Fibre length per great-circle distance; default: the rule of ITU-T G.826.")  # fmt: skip
@click.option("--duct", "ducts", metavar="[NAME=]A-B,C-D…", multiple=True,
              help="Spans that share a duct and fail together; may be repeated.")  # fmt: skip
@click.option("--draw", "picture", type=click.Path(path_type=Path), help="Draw the map into this file (.png or .svg).")
@click.option("--write", "file", type=click.Path(path_type=Path), help="Write the map as YAML into this file.")
def maps(
    name: str | None, edges: str, cloud: str | None, scale: float, route_factor: float | None,
    ducts: tuple[str, ...], picture: Path | None, file: Path | None,
) -> None:  # fmt: skip
    """List the maps, or show, draw and export one.

    MAP is one of Paceline's maps, a YAML file, a published network of topohub (sndlib/nobel-us), or a GraphML,
    node-link JSON or GNPy JSON file. GROUP is a group of topohub (sndlib): lists its networks.

    Example: paceline maps sndlib/nobel-us --cloud Pittsburgh --draw nobel-us.svg
    """
    console = Console()
    if name is None:
        return _list_all(console)
    if members := [plant for plant in plant_names() if plant.startswith(f"{name}/")]:
        return console.print("\n".join(members), highlight=False)
    options = PlacementOptions(parse_edges(edges), cloud, scale_mbps_per_gbps=scale)
    try:
        with tempfile.TemporaryDirectory() as directory:
            path = adapt_map(resolve_map(name, options, Path(directory), route_factor), Path(directory), None, ducts)
            topology, text = load_map(str(path)), path.read_text()
        _show(console, topology)
        if file:
            file.write_text(text)
            console.print(f"wrote {file}", highlight=False)
        if picture:
            from topologies.drawing import draw  # imports matplotlib: slow, and rarely needed

            draw(topology, picture)
            console.print(f"drew {picture}", highlight=False)
    except (MapError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from error


def _list_all(console: Console) -> None:
    own = Table("map", "switches", "edges", "fibre km", "description", title="Paceline's maps")
    for name in known_maps():
        topology = load_map(name)
        own.add_row(
            name,
            str(len(topology.switches)),
            str(len(topology.edges)),
            f"{length_km(topology):,.0f}",
            topology.description,
        )
    console.print(own)
    groups = Counter(name.partition("/")[0] for name in plant_names())
    published = Table("group", "networks", title="Published networks (topohub); `paceline maps GROUP` lists a group")
    for group, count in groups.items():
        published.add_row(group, str(count))
    console.print(published)


def _show(console: Console, topology: Map) -> None:
    console.print(f"{topology.name}: {topology.description}", highlight=False)
    console.print(f"source: {topology.source or 'Paceline'}", highlight=False)
    labels = {node.name: node.label or node.name for node in topology.nodes}
    has_ducts = any(link.duct for link in topology.links)
    table = Table("span", "between", "km", "Gb/s", "emulated Mb/s", *(("duct",) if has_ducts else ()))
    for span, link in zip(topology.span_names, topology.links, strict=True):
        ends = " - ".join(labels[end] for end in link.ends)
        rate_mbps = topology.rate_bps(link) / 1e6
        cells = [span, ends, f"{link.length_km:g}", f"{link.rate_gbps:g}", f"{rate_mbps:g}"]
        table.add_row(*cells, *((link.duct or "",) if has_ducts else ()))
    console.print(table)
