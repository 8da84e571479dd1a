"""All commands take the same names; a near miss suggests the right one, and options that do not apply are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from controller.errors import StartError
from controller.runtime.environment import load_network
from tests.unit.topologies.network_files import gnpy, link, node, node_link, placed
from topologies.catalogue import MapOptions, find_map
from topologies.commands import maps
from topologies.placement.map_document import PlacementOptions
from topologies.problems import MapError
from trainer.cli.plan import _load
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
        (["metro", "--edges", "3"], "metro is a map already: its file says where its nodes are, so --edges does"),
        (["metro", "--cloud", "r1", "--unplaced", "drop"], "so --unplaced, --cloud do not apply"),
        (["pair", "--route-factor", "1.2"], "so --route-factor does not apply"),
        (["pair", "--length-from", "weight"], "so --length-from does not apply"),
        (["--edges", "3"], "--edges does not apply to a list; name one map"),
        (["sndlib", "--draw", "x.png"], "--draw does not apply to a list; name one map"),
        (["sndlib/nobel-us", "--span-km", "9"], "so --span-km does not apply"),
    ],
)
def test_options_that_do_not_apply_are_refused(arguments: list[str], sentence: str) -> None:
    shown = CliRunner().invoke(maps, arguments)
    assert (shown.exit_code > 0, sentence in shown.output) == (True, True), shown.output


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
