"""All commands take the same names; a near miss suggests the right one, and options that do not apply are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from controller.domain.network import network_from_map
from controller.errors import StartError
from controller.runtime.environment import load_network
from tests.unit.topologies.network_files import gnpy, link, node, node_link, placed
from topologies.catalogue import MapOptions, find_map
from topologies.commands import maps
from topologies.options import map_options, published_network_options
from topologies.placement.map_document import PlacementOptions
from topologies.problems import MapError
from trainer.cli.plan import _load, plan
from trainer.errors import UsageError


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nobel-us", "no map 'nobel-us': did you mean sndlib/nobel-us?"),
        ("Nobel-US", "did you mean sndlib/nobel-us?"),
        ("sndlib/nobel_us", "did you mean sndlib/nobel-us"),
        ("abilene", "did you mean sndlib/abilene or topozoo/Abilene?"),
        ("topozoo/abilene", "did you mean topozoo/Abilene?"),
        ("Metro", "did you mean metro?"),
        ("metor", "did you mean metro"),
        ("zzzzzzzz", "use one of metro, pair, waves, a published network (`paceline maps` lists them), or a file"),
        ("lab.yaml", "there is no file lab.yaml"),
        ("net.graphml", "there is no file net.graphml"),
        ("/", "no map '/' (it is a directory, not a file)"),
    ],
)
def test_every_command_says_the_same_about_a_name_that_is_none(name: str, sentence: str) -> None:
    shown = CliRunner().invoke(maps, [name])
    assert (shown.exit_code, sentence in shown.output) == (1, True), shown.output
    with pytest.raises(StartError) as of_controller:
        load_network(name)
    with pytest.raises(UsageError) as of_plan:
        _load(name)
    assert sentence in str(of_controller.value.detail)
    assert sentence in str(of_plan.value)


def test_every_command_takes_published_networks_and_files(tmp_path: Path) -> None:
    (tmp_path / "line.json").write_text(json.dumps(gnpy([("A", "B", 80), ("A", "B", 61)])))
    for name in ("sndlib/nobel-us", str(tmp_path / "line.json")):
        found = find_map(name)
        assert _load(name) == found
        lengths_km = {link.length_km for link in load_network(name).links.values()}
        assert lengths_km == {link.length_km for link in found.links}


def test_a_file_of_unknown_form_is_refused(tmp_path: Path) -> None:
    (tmp_path / "net.dot").write_text("graph {}")
    with pytest.raises(MapError, match=r"the form of a file is told by its suffix, one of \.yaml, \.yml, "):
        find_map(str(tmp_path / "net.dot"))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["metro", "--edges", "3"], "its file says where its nodes are and what its fibres carry, so --edges does"),
        (["metro", "--cloud", "r1", "--unplaced", "drop"], "so --unplaced, --cloud do not apply"),
        (["pair", "--route-factor", "1.2"], "so --route-factor does not apply"),
        (["pair", "--length-from", "weight"], "so --length-from does not apply"),
        (["--edges", "3"], "--edges does not apply to a list; name one map"),
        (["sndlib", "--draw", "x.png"], "--draw does not apply to a list; name one map"),
        (["sndlib/nobel-us", "--span-km", "9"], "so --span-km does not apply"),
        (["waves", "--band", "C+L", "--regenerators", "none"], "so --band, --regenerators do not apply"),
        (["--channels", "8", "--grid", "flexible"], "--channels, --grid do not apply to a list; name one map"),
        (["sndlib/nobel-us", "--channels", "97"], "--channels is 97; at most 96 fit into the C band; with --band C+L"),
        (["sndlib/nobel-us", "--channels", "166", "--band", "C+L"], "is 166; at most 165 fit into the C+L band"),
        (["sndlib/nobel-us", "--regenerators", ", "], "--regenerators is empty; give all, none, or the names of sites"),
        (["sndlib/nobel-us", "--regenerators", "Housten"], "nobel-us has no site 'Housten'; some of its 14 sites: "),
    ],
)
def test_options_that_do_not_apply_are_refused(arguments: list[str], sentence: str) -> None:
    shown = CliRunner().invoke(maps, arguments)
    assert (shown.exit_code > 0, sentence in shown.output) == (True, True), shown.output


OPTICAL = ["--band", "C+L", "--channels", "165", "--regenerators", "houston,Pittsburgh", "--edges", "2"]


def test_a_map_of_both_bands_is_made_by_options_alike_for_every_command(tmp_path: Path) -> None:
    out = tmp_path / "both.yaml"
    shown = CliRunner().invoke(maps, ["sndlib/nobel-us", *OPTICAL, "--write", str(out)], env={"COLUMNS": "140"})
    assert "50 GHz channels in the C+L band, regenerators at houston, pittsburg;" in shown.output, shown.output
    found = find_map(str(out))
    spans = [link for link in found.links if link.ends[0] not in ("edge1", "edge2", "cloud", "load1", "load2")]
    assert (found.band, found.regenerators) == ("C+L", ("houston", "pittsburg"))
    assert {found.slots(link) for link in spans} == {165}
    assert any("beyond optical reach (1600 km)" in note for note in found.notes)
    options = options_of(*OPTICAL)
    of_controller, of_file = load_network("sndlib/nobel-us", options), network_from_map(found)
    assert (of_controller.band, of_controller.regenerators) == (of_file.band, of_file.regenerators)
    assert of_controller.links == of_file.links
    assert _load("sndlib/nobel-us", options) == found


def options_of(*arguments: str) -> MapOptions:
    """What `map_options` takes from a command line."""
    given: list[MapOptions] = []

    @click.command()
    @published_network_options
    def command(**values: Any) -> None:
        given.append(map_options(values))

    command.main(list(arguments), standalone_mode=False)
    return given[0]


def test_channels_do_not_apply_where_every_span_has_a_speed(tmp_path: Path) -> None:
    file = node_link(tmp_path / "net.json", placed("Oslo", "Bergen"), [link("Oslo", "Bergen", capacity_gbps=10)])
    with pytest.raises(MapError, match="net states the speed of every span, so --channels does not apply"):
        find_map(file, options_of("--channels", "8"))


def test_options_without_a_map_are_refused_by_plan() -> None:
    shown = CliRunner().invoke(plan, ["--band", "C+L"])
    assert isinstance(shown.exception, UsageError)
    assert str(shown.exception).startswith("--band requires --map")


def test_regenerator_sites_that_are_added_regenerate_also_where_no_site_does() -> None:
    found = find_map("sndlib/nobel-us", options_of("--regenerators", "none", "--regenerate", "--band", "C+L"))
    assert found.regenerators == tuple(node.name for node in found.switches if (node.label or "").startswith("regen"))
    assert len(found.regenerators) == 7
    assert find_map("sndlib/nobel-us", options_of("--regenerators", "none")).regenerators == ()


def test_the_scale_of_any_map_can_be_changed() -> None:
    shown = CliRunner().invoke(maps, ["pair", "--scale", "0.4"])
    assert (shown.exit_code, "0.4 Mb/s emulated per Gb/s" in shown.output) == (0, True)


def test_maps_shows_notes_parallel_spans_channels_reach_and_shares_and_writes_them(tmp_path: Path) -> None:
    nodes = [*placed("Oslo", "Bergen", "Stavanger"), node("Upstream")]
    links = [
        link("Oslo", "Bergen", capacity_gbps=10, duct="d"),
        link("Oslo", "Bergen", length_km=3500, capacity_gbps=10),
        link("Bergen", "Stavanger", length_km=90, capacity_gbps=10),
        link("Oslo", "Upstream"),
    ]
    file, out = node_link(tmp_path / "net.json", nodes, links), tmp_path / "net.yaml"
    shown = CliRunner().invoke(maps, [file, "--edges", "1", "--write", str(out)], env={"COLUMNS": "140"})
    for words in (
        "note: left out, without coordinates: Upstream", "oslo-bergen.2", "1 x 10", "beyond", "50 GHz channels",
        "CPU shares in cores: edge1 0.12, cloud 1",
    ):  # fmt: skip
        assert words in shown.output, shown.output
    again = find_map(str(out))
    assert again.notes == find_map(file, MapOptions(placement=PlacementOptions(edges=1))).notes
    assert len([link for link in again.links if set(link.ends) == {"oslo", "bergen"}]) == 2
