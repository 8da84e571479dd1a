"""`paceline maps`: list, show, draw and export maps."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from topologies.catalogue import adapt_map, length_km, resolve_map
from topologies.map_file.loader import known_maps, load_map
from topologies.maps import Map
from topologies.options import map_options, published_network_options
from topologies.placement.siting import reach_km
from topologies.plants.published import plant_names
from topologies.problems import MapError


@click.command()
@click.argument("name", metavar="[MAP|GROUP]", required=False)
@published_network_options
@click.option("--duct", "ducts", metavar="[NAME=]A-B,C-D…", multiple=True,
              help="Spans that share a duct and fail together; may be repeated.")  # fmt: skip
@click.option("--draw", "picture", type=click.Path(path_type=Path), help="Draw the map into this file (.png or .svg).")
@click.option("--write", "file", type=click.Path(path_type=Path),
              help="Write the map into this file: YAML, or RFC 8345 and 8795 JSON (.json), without hosts.")  # fmt: skip
def maps(name: str | None, ducts: tuple[str, ...], picture: Path | None, file: Path | None, **values: Any) -> None:
    """List the maps, or show, draw and export one.

    MAP is one of Paceline's maps, a YAML file, a published network of topohub (sndlib/nobel-us), or a file in GraphML,
    GML, SNDlib's native or XML form, networkx node-link JSON, RFC 8345 JSON, or GNPy's JSON or .xls. GROUP is a group
    of topohub (sndlib): lists its networks.

    Example: paceline maps sndlib/nobel-us --cloud Pittsburgh --draw nobel-us.svg
    """
    console, missing = Console(), ""
    options = map_options(values)
    members = [] if name is None else [plant for plant in plant_names() if plant.startswith(f"{name.strip('/')}/")]
    if name is None or members:
        _refuse_options([*options.stated(), *(["--duct"] * bool(ducts)), *(["--draw"] * bool(picture)),
                         *(["--write"] * bool(file))])  # fmt: skip
        if name is None:
            _list_all(console)
        else:
            console.print("\n".join(members), highlight=False)
        return
    try:
        with tempfile.TemporaryDirectory() as directory:
            path = adapt_map(resolve_map(name, options, Path(directory)), Path(directory), None, ducts)
            topology, text = load_map(str(path)), path.read_text(encoding="utf-8")
        if picture:
            from topologies.drawing.map_drawing import draw  # imports matplotlib: slow, and rarely needed

            missing = draw(topology, picture)
        if file:
            file.write_text(_written(topology, text, file), encoding="utf-8")
    except OSError as error:
        place = error.filename or file or picture  # a full disk names no file
        raise click.ClickException(f"{place}: {error.strerror}") from error
    except (MapError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    _show(console, topology)
    if missing:
        letters = f"{missing[:20]}{'…' if len(missing) > 20 else ''}"
        note = f"note: letters that the picture's font lacks are boxes in it: {letters}"
        console.print(note, highlight=False, markup=False)
    for verb, made in (("wrote", file), ("drew", picture)):
        if made:
            console.print(f"{verb} {made}", highlight=False, markup=False)


def _written(topology: Map, text: str, file: Path) -> str:
    """The map in the form that the file's name asks for; `text`: as YAML."""
    if file.suffix.lower() != ".json":
        return text
    from topologies.rfc8345 import topology_document

    return json.dumps(topology_document(topology), indent=1) + "\n"


def _refuse_options(names: list[str]) -> None:
    if names:
        verb = "do" if len(names) > 1 else "does"
        raise click.UsageError(f"{', '.join(names)} {verb} not apply to a list; name one map")


def _list_all(console: Console) -> None:
    own = Table("map", "switches", "edges", "fibre km", "description", title="Paceline's maps")
    for name in known_maps():
        topology = load_map(name)
        own.add_row(
            name,
            str(len(topology.switches)),
            str(len(topology.edges)),
            f"{length_km(topology):,.0f}",
            escape(topology.description),
        )
    console.print(own)
    groups = Counter(name.partition("/")[0] for name in plant_names())
    published = Table("group", "networks", title="Published networks (topohub); `paceline maps GROUP` lists a group")
    for group, count in groups.items():
        published.add_row(group, str(count))
    console.print(published)


def _show(console: Console, topology: Map) -> None:
    console.print(f"{topology.name}: {topology.description}", highlight=False, markup=False)
    console.print(f"source: {topology.source or 'Paceline'}", highlight=False, markup=False)
    grid = {None: "none: packet links", "fixed": "50 GHz channels", "flexible": "12.5 GHz slots"}[topology.grid]
    if topology.grid is not None:
        grid += f" in the {topology.band} band"
        if topology.regenerators is not None:
            grid += f", regenerators at {', '.join(topology.regenerators) or 'no switch'}"
    facts = f"{len(topology.switches)} switches, {length_km(topology):,.0f} km of fibre; optical grid {grid}; "
    console.print(f"{facts}{topology.scale_mbps_per_gbps:g} Mb/s emulated per Gb/s", highlight=False, soft_wrap=True)
    for note in topology.notes:
        console.print(f"note: {note}", highlight=False, markup=False, soft_wrap=True)
    labels = {node.name: node.label or node.name for node in topology.nodes}
    has_ducts = any(link.duct for link in topology.links)
    columns = ("reach",) if topology.grid else ()
    table = Table(Column("span", no_wrap=True), "between", "km", "channels", "Gb/s", "emulated Mb/s", *columns)
    if has_ducts:
        table.add_column("duct")
    for span, link in zip(topology.span_names, topology.links, strict=True):
        ends = " - ".join(labels[end] for end in link.ends)
        rate_mbps = topology.rate_bps(link) / 1e6
        channels = f"{link.channels} x {link.channel_rate_gbps:g}"
        cells = [span, escape(ends), f"{link.length_km:g}", channels, f"{link.rate_gbps:g}", f"{rate_mbps:g}"]
        is_within = link.length_km <= reach_km(link.loss_db_per_km, topology.band)
        reach = "" if not topology.slots(link) else "yes" if is_within else "beyond"
        table.add_row(*cells, *((reach,) if columns else ()), *((escape(link.duct or ""),) if has_ducts else ()))
    console.print(table)
    shares = [f"{node.name} {node.cpu_share:g}" for node in topology.hosts if node.cpu_share is not None]
    if shares:
        console.print(f"CPU shares in cores: {', '.join(shares)}", highlight=False, soft_wrap=True)
