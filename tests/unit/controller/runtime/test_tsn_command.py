"""`paceline tsn`: schedules, refusals with name and code, mistakes in files with their lines."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from controller.runtime.tsn_command import command
from topologies.map_file.loader import DIRECTORY

LINKS = "link,q_num,rate,t_proc,t_prop\n" + "".join(
    f'"({a}, {b})",8,1,2000,0\n' for x, y in ((0, 1), (0, 2), (1, 3), (1, 4)) for a, b in ((x, y), (y, x))
)
STREAMS = (
    "stream,src,dst,size,period,deadline,jitter\n"
    '0,2,[3],500,100000,100000,0\n1,2,"[3, 4]",100,200000,200000,0\n2,4,[2],400,400000,50000,0\n'
)


@pytest.fixture
def links(tmp_path: Path) -> Path:
    file = tmp_path / "links.csv"
    file.write_text(LINKS)
    return file


def run(tmp_path: Path, streams: str, *arguments: object) -> Result:
    file = tmp_path / "streams.csv"
    file.write_text(streams)
    return CliRunner().invoke(command, ["schedule", str(file), *map(str, arguments)])


def test_streams_are_scheduled_exported_and_simulated(tmp_path: Path, links: Path) -> None:
    out, taprio = tmp_path / "schedule.json", tmp_path / "gates.sh"
    result = run(tmp_path, STREAMS, links, "--out", out, "--taprio", taprio)
    assert result.exit_code == 0, result.output
    assert "0 lost, 0 late, jitter 0 ns" in result.output
    document = json.loads(out.read_text())
    assert document["streams"][0]["latency_ns"] == {"3": 3 * 4000 + 2 * 2000}
    assert all(line.startswith("tc qdisc replace dev '") for line in taprio.read_text().splitlines())
    again = CliRunner().invoke(command, ["simulate", str(out), str(links)])
    assert (again.exit_code, "0 lost, 0 late" in again.output) == (0, True)


def test_a_schedule_that_is_not_kept_exits_with_3(tmp_path: Path, links: Path) -> None:
    out = tmp_path / "schedule.json"
    run(tmp_path, STREAMS, links, "--out", out)
    result = CliRunner().invoke(command, ["simulate", str(out), str(links), "--sync-error-ns", "3000"])
    assert (result.exit_code, "0 lost, 0 late" in result.output) == (3, False)


def test_an_impossible_stream_is_named_with_code_21(tmp_path: Path, links: Path) -> None:
    result = run(tmp_path, STREAMS + "far,4,[2],1500,400000,39999,0\n", links)
    assert result.exit_code == 3
    assert result.stderr == (
        "refused with code 21: stream far: a frame of 1500 bytes takes at least 40000 ns from 4 to 2, more than its "
        "largest latency of 39999 ns\n"
    )


def test_a_map_is_a_network_and_json_is_printed_alone(tmp_path: Path) -> None:
    streams = "src,dst,size,period,deadline\nedge1,cloud,200,10000000,10000000\n"
    document = json.loads(run(tmp_path, streams, "pair", "--json").stdout)
    (interface,) = document["nodes"]["edge1"]["ietf-interfaces:interfaces"]["interface"]
    assert (interface["name"], interface["description"]) == ("edge1-eth1", "edge1->s1")


def test_all_mistakes_of_a_file_are_told_with_their_lines(tmp_path: Path, links: Path) -> None:
    streams = 'src,dst,size,period,deadline\n2,[9],1,1e6,x\n2,[2],9999,1.5,1\n7,"[3,,]",1,1,1\n'
    result = run(tmp_path, streams, links)
    assert result.exit_code == 1
    for text in (
        "line 2: deadline is 'x', it must be a number from 1",
        "line 2: dst is '[9]', it must be different nodes of the network other than src",
        "line 3: size is '9999', it must be a number from 1 to 9042",
        "line 3: period is '1.5', it must be a whole number",
        "line 3: dst is '[2]'",
        "line 4: dst is '[3,,]', it must be a list of nodes",
        "line 4: src is '7', it must be a node of the network",
    ):
        assert text in result.stderr
    assert "deadline is missing" in run(tmp_path, "src,dst,size,period\n", links).stderr
    assert "there is no stream" in run(tmp_path, "src,dst,size,period,deadline\n", links).stderr
    links.write_text('link,rate\n"(1, 1)",1\n"(1, 2)",0\n"(1, 2)",1\n')
    told = run(tmp_path, STREAMS, links).stderr
    assert "line 2: link is '(1, 1)', it must be two different nodes" in told
    assert "line 3: rate is '0'" in told
    assert "line 4: link is '(1, 2)', it must be there only once" in told
    assert "did you mean pair?" in run(tmp_path, STREAMS, "pai").stderr


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"nodes": {}, "streams": [{}]}', '{"nodes": 1, "streams": []}'])
def test_what_is_no_schedule_is_told_in_a_sentence(tmp_path: Path, links: Path, text: str) -> None:
    file = tmp_path / "schedule.json"
    file.write_text(text)
    result = CliRunner().invoke(command, ["simulate", str(file), str(links)])
    assert result.exit_code == 1
    assert "is no schedule" in result.stderr


def test_no_gates_are_made_for_ports_with_shapers(tmp_path: Path) -> None:
    file = tmp_path / "shaped.yaml"
    file.write_text((DIRECTORY / "pair.yaml").read_text() + "ats: true\n")
    result = run(tmp_path, "src,dst,size,period,deadline\nedge1,cloud,100,1000000,1000000\n", file)
    assert (result.exit_code, "its ports have shapers" in result.output) == (1, True)
