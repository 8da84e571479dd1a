"""`paceline spectrum`: the slots of every span and the lightpaths in them, as text or as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from string import ascii_letters, digits
from typing import Any

import click

from trainer.cli.controller_access import controller_option, json_option, open_controller, print_json
from trainer.errors import UsageError

Json = dict[str, Any]

FREE = "."
SYMBOLS = ascii_letters + digits
MOST_COLUMNS = 128
"""A wider spectrum is drawn with one character for several slots."""
PICTURE_SUFFIXES = (".png", ".svg")


@click.command(epilog="Example: paceline spectrum --draw spectrum.svg")
@click.option("--draw", "picture", type=click.Path(path_type=Path), help="Draw it into this file (.png or .svg).")
@controller_option
@json_option
def spectrum(picture: Path | None, url: str | None, as_json: bool) -> None:
    """Print for every span of an optical map which slots its lightpaths occupy, in both directions."""
    if picture is not None and picture.suffix.lower() not in PICTURE_SUFFIXES:
        raise UsageError(f"{picture.name}: the spectrum is drawn as {' or '.join(PICTURE_SUFFIXES)}.")
    with open_controller(url, as_json) as client:
        network = client.send("GET", "/v1/network")
        lightpaths = client.send("GET", "/v1/lightpaths")["lightpaths"]
    links = [link for link in network["links"] if link["slots"]]
    if picture is not None:
        from trainer.cli.spectrum_picture import draw_spectrum  # imports matplotlib: slow, and rarely needed

        draw_spectrum(network["map"], links, lightpaths, picture)
    if as_json:
        print_json({"links": [_with_lightpaths(link, lightpaths) for link in links]})
        return
    for line in spectrum_lines(links, lightpaths):
        click.echo(line)
    if picture is not None:
        click.echo(f"drew {picture}")


def spectrum_lines(links: Sequence[Json], lightpaths: Sequence[Json]) -> list[str]:
    """Return a line for each direction of each span, then one for each lightpath and its symbol."""
    if not links:
        return ["The map is not optical: its links have no spectrum."]
    most_slots = max(link["slots"] for link in links)
    slots_per_column = -(-most_slots // MOST_COLUMNS)
    symbols = {each["id"]: SYMBOLS[number % len(SYMBOLS)] for number, each in enumerate(lightpaths)}
    names = [link["link"] for link in links]
    width = max(map(len, names))
    each_is = "one slot" if slots_per_column == 1 else f"{slots_per_column} slots"
    lines = [f"{'link':<{width}}  slot 0 to {most_slots - 1} from left to right, each character {each_is}"]
    for link in links:
        occupied = occupants(link, lightpaths)
        columns = (occupied[first : first + slots_per_column] for first in range(0, link["slots"], slots_per_column))
        row = "".join(next((symbols[name] for name in names if name), FREE) for names in columns)
        free = occupied.count(None)
        lines.append(f"{link['link']:<{width}}  {row}  {free} of {link['slots']} free")
    for lightpath in lightpaths:
        first, state = lightpath["channel"], "lit" if lightpath["lit"] else "booked"
        block = f"slots {first}-{first + lightpath['slots'] - 1}" if lightpath["slots"] > 1 else f"slot {first}"
        facts = f"{block}  {lightpath['modulation']}  {state}"
        lines.append(f"{symbols[lightpath['id']]}  {lightpath['id']}  {' > '.join(lightpath['nodes'])}  {facts}")
    return lines if lightpaths else [*lines, "No lightpaths."]


def occupants(link: Mapping[str, Any], lightpaths: Sequence[Json]) -> list[str | None]:
    """Return the id of the lightpath in each slot of a link; None: free."""
    occupied: list[str | None] = [None] * link["slots"]
    for lightpath in lightpaths:
        if link["link"] in lightpath["links"]:
            first, width = lightpath["channel"], lightpath["slots"]
            occupied[first : first + width] = [lightpath["id"]] * width
    return occupied


def _with_lightpaths(link: Json, lightpaths: Sequence[Json]) -> Json:
    inside = [
        {"lightpath": each["id"], "first_slot": each["channel"], "slots": each["slots"]}
        for each in lightpaths
        if link["link"] in each["links"]
    ]
    return {"link": link["link"], "slots": link["slots"], "lightpaths": inside}
