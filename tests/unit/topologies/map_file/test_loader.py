"""Maps: loading, validation and derived identifiers; the run file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from topologies import running_emulation
from topologies.map_file.loader import known_maps, load_map, map_path
from topologies.maps import Map
from topologies.plants.published import read_plant
from topologies.problems import MapError

THREE_MISTAKES = """\
name: bad
scale_mbps_per_gbps: 0.8
nodes:
  - {name: s1, kind: switch, position_km: [0, 0]}
  - {name: e1, kind: egde, position_km: [0, 0]}
links:
  - {ends: [s1, e1], length_km: -2, channel_rate_gbps: 100}
  - {ends: [s1, s9], length_km: 2, channel_rate_gbps: 10000}
"""


def mistakes_of(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "map.yaml"
    path.write_text(text)
    with pytest.raises(MapError) as caught:
        load_map(str(path))
    return [mistake.removeprefix(str(path)) for mistake in caught.value.mistakes]


@pytest.mark.parametrize("name", known_maps())
def test_every_shipped_map_loads(name: str) -> None:
    assert load_map(name).name == name


def test_pair_and_metro_are_what_the_readme_says() -> None:
    pair, metro = load_map("pair"), load_map("metro")
    assert (len(pair.switches), len(pair.edges)) == (2, 2)
    assert (len(metro.switches), len(metro.edges)) == (6, 4)
    assert len({edge.cpu_share for edge in metro.edges}) == 4
    assert metro.cloud is not None
    assert metro.cross_traffic is not None


def test_of_several_clouds_the_training_loop_runs_at_the_first(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text(map_path("pair").read_text().replace("{name: load2, kind: host", "{name: load2, kind: cloud"))
    found = load_map(str(path))
    assert [node.name for node in found.nodes if node.kind == "cloud"] == ["cloud", "load2"]
    assert found.cloud == found.node("cloud")


def test_identifiers_follow_the_order_of_the_file() -> None:
    metro = load_map("metro")
    assert [metro.datapath_id(node.name) for node in metro.switches] == [1, 2, 3, 4, 5, 6]
    assert metro.port("r1", "r2").interface == "r1-eth1"
    assert metro.port("edge1", "r6").number == 1
    assert len({metro.ip(host.name) for host in metro.hosts}) == len(metro.hosts)
    assert len({metro.mac(host.name) for host in metro.hosts}) == len(metro.hosts)
    assert len({metro.management_ip(host.name) for host in metro.hosts}) == len(metro.hosts)


def test_scale_converts_real_rates_into_emulated_rates() -> None:
    metro = load_map("metro")
    trunk = next(link for link in metro.links if link.ends == ("r1", "r2"))
    assert metro.rate_bps(trunk) == round(trunk.rate_gbps * metro.scale_mbps_per_gbps * 1e6)


def test_unknown_map_is_reported_with_the_known_maps() -> None:
    with pytest.raises(MapError, match="no map 'nix': use one of metro, pair, waves, or the path"):
        load_map("nix")


def test_all_mistakes_are_reported_at_once_with_line_value_and_advice(tmp_path: Path) -> None:
    mistakes = mistakes_of(tmp_path, THREE_MISTAKES)
    assert ":5: nodes[1].kind = 'egde': input should be 'switch', 'edge', 'cloud' or 'host'" in mistakes
    assert ":7: links[0].length_km = -2: input should be greater than or equal to 0" in mistakes
    assert ":8: links[1].ends = 's9': no node has this name; the nodes are s1, e1" in mistakes
    assert any("lower scale_mbps_per_gbps to 0.1 or less" in mistake for mistake in mistakes)


@pytest.mark.parametrize("text", ["", "- 1\n", "a: [", "\x00", "name: x\nnodes: 3\nlinks: {}\n"])
def test_file_that_is_not_a_map_raises_map_error(tmp_path: Path, text: str) -> None:
    assert mistakes_of(tmp_path, text)


def test_optical_map_rejects_more_fibres_at_a_switch_than_group_ids_encode(tmp_path: Path) -> None:
    names = [f"s{number}" for number in range(66)]
    nodes = "".join(f"  - {{name: {name}, kind: switch, position_km: [0, 0]}}\n" for name in names)
    links = "".join(f"  - {{ends: [s0, {name}], length_km: 2, channel_rate_gbps: 1}}\n" for name in names[1:])
    plain = f"name: star\nscale_mbps_per_gbps: 1\nnodes:\n{nodes}links:\n{links}"
    (mistake,) = mistakes_of(tmp_path, f"{plain}optical: {{grid: fixed}}\n")
    assert "'s0': 65 fibres to other switches end here; at most 64 can on an optical map" in mistake
    (tmp_path / "plain.yaml").write_text(plain)
    assert len(load_map(str(tmp_path / "plain.yaml")).switches) == 66


def test_queues_are_facts_of_the_map(tmp_path: Path) -> None:
    text = map_path("pair").read_text()
    default = load_map("pair")
    assert {default.queue_bytes_of(link) for link in default.links} == {3_000_000}
    path = tmp_path / "queues.yaml"
    path.write_text(
        text.replace("mtu_bytes: 9000", "mtu_bytes: 9000\nqueue_bytes: 500000").replace(
            "length_km: 20,", "length_km: 20, queue_bytes: 400000,"
        )
    )
    stated = load_map(str(path))
    assert [stated.queue_bytes_of(link) for link in stated.links] == [400_000, *[500_000] * (len(stated.links) - 1)]
    fast = replace(default, scale_mbps_per_gbps=1000.0)
    assert fast.queue_bytes_of(fast.links[0]) == 300_000_000, "100 Gb/s: as long as at 1 Gb/s"


def test_a_queue_too_small_for_its_link_is_refused(tmp_path: Path) -> None:
    text = map_path("pair").read_text()
    (tiny,) = mistakes_of(tmp_path, text.replace("length_km: 20,", "length_km: 20, queue_bytes: 74999,"))
    assert "links[0].queue_bytes = 74999: input should be greater than or equal to 75000" in tiny
    fast = text.replace("scale_mbps_per_gbps: 0.8", "scale_mbps_per_gbps: 4")
    (short,) = mistakes_of(tmp_path, fast.replace("length_km: 20,", "length_km: 20, queue_bytes: 80000,"))
    assert "links[0].queue_bytes = 80000: the ports of s1-s2 need 109014 bytes or more at their rate" in short


def test_shapers_are_facts_of_the_map(tmp_path: Path) -> None:
    text, path = map_path("pair").read_text(), tmp_path / "shaped.yaml"
    assert load_map("pair").shapers is None
    shaped = text.replace("length_km: 20,", "length_km: 20, idle_slope_gbps: 75,")
    path.write_text(shaped.replace("mtu_bytes: 9000", "mtu_bytes: 9000\nats: true"))
    stated = load_map(str(path))
    assert [stated.idle_slope_bps(link) for link in stated.links[:2]] == [60_000_000, None]
    assert stated.shapers == "credit-based shapers on s1-s2 and asynchronous traffic shaping"


@pytest.mark.parametrize(
    ("slope", "more", "mistakes"),
    [
        ("100", "", ["links[0].idle_slope_gbps = 100: an idle slope is below the rate of the link, 100 Gb/s"]),
        ("0", "", ["links[0].idle_slope_gbps = 0: input should be greater than 0"]),
        ("0.000001", "", ["links[0].idle_slope_gbps = 1e-06: to scale it is 8e-07 Mb/s; at least 0.001 Mb/s"]),
        ("50", "ats: true\noptical: {grid: fixed}\n", [
            "links[0].idle_slope_gbps = 50: on an optical map flows travel in lightpaths; ports have no such shapers",
            "ats = True: on an optical map flows travel in lightpaths; ports have no regulators",
        ]),
    ],
)  # fmt: skip
def test_shapers_that_do_not_fit_are_refused(tmp_path: Path, slope: str, more: str, mistakes: list[str]) -> None:
    shaped = map_path("pair").read_text().replace("length_km: 20,", f"length_km: 20, idle_slope_gbps: {slope},")
    assert [mistake.partition(": ")[2] for mistake in mistakes_of(tmp_path, shaped + more)] == mistakes


def test_host_with_two_links_and_disconnected_nodes_are_named(tmp_path: Path) -> None:
    text = """\
name: bad
scale_mbps_per_gbps: 1
nodes:
  - {name: s1, kind: switch, position_km: [0, 0]}
  - {name: s2, kind: switch, position_km: [0, 0]}
  - {name: e1, kind: edge, position_km: [0, 0]}
  - {name: s3, kind: switch, position_km: [0, 0]}
links:
  - {ends: [s1, e1], length_km: 1, channel_rate_gbps: 10}
  - {ends: [s2, e1], length_km: 1, channel_rate_gbps: 10}
cross_traffic: {source: s1, sink: e1, bottleneck: [s1, s2]}
"""
    text_of_all = "\n".join(mistakes_of(tmp_path, text))
    assert "a edge has exactly one link" not in text_of_all
    assert "nodes[2].name = 'e1': an edge has exactly one link, to a switch; it has 2" in text_of_all
    assert "links = 's3': these nodes cannot reach the rest" in text_of_all
    assert "cross_traffic.source = 's1': name a host of this map: e1" in text_of_all
    assert "cross_traffic.bottleneck" in text_of_all


def test_run_file_is_valid_only_while_the_emulation_runs(tmp_path: Path) -> None:
    def run_file(pid: int) -> running_emulation.RunningEmulation:
        host = running_emulation.RunningHost("edge1", "edge", 1, "10.0.0.1", "10.254.0.2", 0.2, ("/a",))
        return running_emulation.RunningEmulation("pair", "/pair.yaml", pid, "http://x", "/ovs", False, (host,))

    running_emulation.write(run_file(pid=1), tmp_path)
    assert running_emulation.read(tmp_path) == run_file(pid=1)
    running_emulation.write(run_file(pid=2**22 + 1), tmp_path)
    assert running_emulation.read(tmp_path) is None
    running_emulation.remove(tmp_path)
    running_emulation.remove(tmp_path)
    assert running_emulation.read(tmp_path) is None


def test_unknown_node_or_port_raises_key_error(metro: Map) -> None:
    for ask in (lambda: metro.node("nix"), lambda: metro.port("r1", "r3"), lambda: metro.port("nix", "r1")):
        with pytest.raises(KeyError):
            ask()


@pytest.fixture
def metro() -> Map:
    return load_map("metro")


def test_links_between_the_same_switches_are_parallel_spans_and_a_host_has_one_link(tmp_path: Path) -> None:
    text = map_path("pair").read_text()
    first = "  - {ends: [s1, s2], length_km: 20, channels: 1, channel_rate_gbps: 100}\n"
    path = tmp_path / "two.yaml"
    path.write_text(text.replace("links:\n", "links:\n" + first.replace("[s1, s2]", "[s2, s1]")))
    doubled = load_map(str(path))
    assert doubled.span_names[:2] == ("s2-s1", "s1-s2.2")
    assert {doubled.link_index(name) for name in ("s1-s2.2", "s2-s1.2")} == {1}
    assert doubled.link_index("s2-s1") == 0
    assert len({(port.node, port.number) for port in doubled.ports}) == 2 * len(doubled.links)
    for near, far in doubled.link_ports:
        assert (doubled.opposite(near), doubled.opposite(far)) == (far, near)
    (twice,) = mistakes_of(tmp_path, text.replace("links:\n", "links:\n" + first.replace("s2", "edge1")))
    assert "these two are linked already; raise `channels` of that link instead" in twice


def doubling(levels: int) -> str:
    lines = ["a0: &a0 [1, 1]", *(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, levels))]
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (doubling(30), "with its aliases the file has more than 200000 values"),
        ("name: " + "[" * 40 + "]" * 40, "values are nested more than 32 deep"),
        ("name: " + "[" * 100_000, "values are nested more than 32 deep"),
        ("a: &a [*a]", "*a stands for no complete value"),
        ("a: *b", "*b stands for no complete value"),
    ],
)
def test_repetition_and_nesting_are_limited_before_anything_is_built(
    tmp_path: Path, text: str, sentence: str
) -> None:
    path = tmp_path / "deep.yaml"
    path.write_text(text)
    with pytest.raises(MapError, match=re.escape(sentence)) as refused:
        load_map(str(path))
    assert len(refused.value.mistakes) == 1


def test_aliases_of_few_values_are_allowed(tmp_path: Path) -> None:
    text = map_path("pair").read_text().replace("channel_rate_gbps: 100", "channel_rate_gbps: &rate 100", 1)
    path = tmp_path / "aliased.yaml"
    head, _, rest = text.partition("&rate 100")
    path.write_text(f"{head}&rate 100{rest.replace('channel_rate_gbps: 100', 'channel_rate_gbps: *rate')}")
    assert load_map(str(path)).links == load_map("pair").links


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("deep.json", "[" * 100_000, "nested too deeply"),
        ("entities.graphml", '<!DOCTYPE g [<!ENTITY a "b">]><graphml>&a;</graphml>', "defines entities"),
        ("large.json", " " * ((16 << 20) + 1), "larger than 16777216 bytes"),
    ],
)
def test_fibre_plants_are_limited_too(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(MapError, match=words):
        read_plant(str(tmp_path / name))


NUMBERS = ["length_km: 20", "position_km: [0, 0]", "cpu_share: 0.20", "scale_mbps_per_gbps: 0.8"]


@pytest.mark.parametrize("value", [".nan", ".inf", "-.inf"])
@pytest.mark.parametrize("entry", NUMBERS)
def test_a_number_that_is_none_is_refused(tmp_path: Path, entry: str, value: str) -> None:
    text = map_path("pair").read_text()
    assert entry in text
    broken = entry.replace("[0, 0]", f"[{value}, 0]") if "[" in entry else f"{entry.split(':')[0]}: {value}"
    (mistake,) = mistakes_of(tmp_path, text.replace(entry, broken, 1))
    assert "input should be a finite number" in mistake


def test_a_map_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "pair.yaml"
    path.write_text(map_path("pair").read_text(), encoding="utf-8-sig")
    assert load_map(str(path)) == load_map("pair")


def test_a_link_that_is_almost_without_rate_is_refused(tmp_path: Path) -> None:
    text = map_path("pair").read_text().replace("channel_rate_gbps: 100}", "channel_rate_gbps: 1.0e-9}", 1)
    (mistake,) = mistakes_of(tmp_path, text)
    assert "1 x 1e-09 Gb/s to scale is 8e-10 Mb/s; a link has at least 0.001 Mb/s" in mistake


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("length_km: 20,", "length_km: 20, length_km: 90,"), ":15: `length_km` stands twice here; write it once"),
        (("name: pair", "name: pair\nname: other"), ":3: `name` stands twice here; write it once"),
        (("channels: 1,", 'duct: "a\\x1b[2J",'), ".duct = 'a\\x1b[2J': control characters are not shown; remove them"),
    ],
)
def test_an_entry_that_stands_twice_and_control_characters_are_refused(
    tmp_path: Path, change: tuple[str, str], sentence: str
) -> None:
    (mistake,) = mistakes_of(tmp_path, map_path("pair").read_text().replace(*change, 1))
    assert sentence in mistake


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "it is empty"),
        ("name: x".encode("utf-16"), "it is not UTF-8, but perhaps UTF-16; save it as UTF-8"),
        ("name: Ö".encode("latin-1"), "it is not UTF-8 (byte 6 is 0xd6); save it as UTF-8"),
        (b"\x1f\x8b\x08", "it is compressed (gzip); decompress it"),
    ],
)
def test_a_file_that_is_no_text_is_told_as_such(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "map.yaml").write_bytes(content)
    with pytest.raises(MapError, match=re.escape(f"map.yaml: not a readable YAML file: {sentence}")):
        load_map(str(tmp_path / "map.yaml"))
