"""`paceline bounds`: table, JSON, files that are no networks; nothing heavy is imported for its help."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from controller.runtime.bounds_command import command
from tests.unit.controller.calculus.test_output_port_network import DEMO, changed


@pytest.fixture
def demo(tmp_path: Path) -> Path:
    file = tmp_path / "demo.json"
    file.write_text(json.dumps(DEMO))
    return file


def test_the_table_has_a_row_for_each_flow_and_a_column_for_each_method(demo: Path) -> None:
    result = CliRunner().invoke(command, [str(demo)])
    assert result.exit_code == 0
    for text in ("TFA", "LP", "99.324", "80.050", "f2"):
        assert text in result.output


def test_the_json_has_every_bound_and_nothing_else_is_printed(demo: Path) -> None:
    code = "from controller.runtime.bounds_command import command; command()"
    done = subprocess.run([sys.executable, "-c", code, str(demo), "--json"], capture_output=True, text=True, check=True)
    document = json.loads(done.stdout)
    assert document["network"] == "demo"
    assert document["flows"][0] == {
        "name": "f0", "path": ["s0-o0", "s1-o0"], "bounds_us": {"TFA": 99.324, "LP": 80.05},
    }  # fmt: skip
    assert done.stderr == ""


def test_a_network_with_packets_is_also_analysed_as_a_fluid(tmp_path: Path) -> None:
    file = tmp_path / "packets.json"
    file.write_text(json.dumps(changed(network__packetizer=True)))
    bounds = json.loads(CliRunner().invoke(command, [str(file), "--json"]).output)["flows"][0]["bounds_us"]
    assert list(bounds) == ["TFA", "LP", "TFA fluid", "LP fluid"]
    assert bounds["LP fluid"] == 80.05 < bounds["LP"]


def test_the_network_is_written_with_units(demo: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    first = CliRunner().invoke(command, [str(demo), "--json", "--write", str(out)])
    second = CliRunner().invoke(command, [str(out), "--json"])
    assert first.output == second.output
    assert json.loads(out.read_text())["flows"][2]["arrival_curve"] == {"bursts": ["80.0b"], "rates": ["10000.0bps"]}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is no JSON document"),
        ('{"network": {}}', "servers: must be an array; there is none"),
        (json.dumps(changed(flows__0__path=["x"])), "flows[0].path: must be the name of a server, not 'x'"),
    ],
)
def test_a_file_that_is_no_network_is_a_usage_error(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "bad.json"
    file.write_text(text)
    result = CliRunner().invoke(command, [str(file)])
    assert result.exit_code == 1
    assert told in result.output
    assert str(file) in result.output


def test_the_help_imports_neither_numpy_nor_the_solver() -> None:
    code = (
        "import sys\nfrom controller.runtime.bounds_command import command\n"
        "try:\n    command(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'numpy', 'highspy', 'rich.table'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
