"""Training from Python: the documentation's code as a script, in a program with threads, and the errors."""

from __future__ import annotations

import csv
import inspect
import json
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tests.documentation import FENCE, ROOT
from trainer import Run, Settings, TrainerError, load_run, train
from trainer.cli.group import paceline
from trainer.cli.train import train as command
from trainer.errors import UsageError

PAGE = ROOT / "docs" / "python-api.md"
INTERACTIVE = """
import asyncio, code, threading

import torch

torch.ones(3, requires_grad=True).sum().backward()  # PyTorch's threads run, as in a notebook
threading.Thread(target=threading.Event().wait, daemon=True).start()


async def cell(source):
    console = code.InteractiveInterpreter({"__name__": "__main__"})
    for block in source:
        exec(compile(block, "<cell>", "exec"), console.locals)

asyncio.run(cell(%r))
print("all cells done")
"""

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run the page's code as cells of a program with threads and an event loop; return the first run."""
    directory = tmp_path_factory.mktemp("notebook")
    blocks = [block[2] for block in FENCE.finditer(PAGE.read_text()) if block[1] == "python"]
    done = subprocess.run([sys.executable, "-c", INTERACTIVE % (blocks,)], cwd=directory, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 0, done.stderr
    out = done.stdout.splitlines()
    assert out[-2:] == ["usage --rounds is 0; it must be at least 1.", "all cells done"]
    assert len(out) == 3, "train prints nothing"
    return load_run(min((directory / "runs").iterdir()))


def test_the_page_runs_and_its_run_can_be_read(run: Run) -> None:
    assert run.summary["status"] == "done"
    assert [row["round"] for row in run.rounds] == [1, 2, 3, 4]
    assert run.edges == ["edge1", "edge2"]
    assert run.model("best").metadata.classes == 3


def test_tables_of_a_run_have_units_and_all_rows(run: Run, tmp_path: Path) -> None:
    done = CliRunner().invoke(paceline, ["export", str(run.directory), "--csv", str(tmp_path / "tables")])
    assert done.exit_code == 0, done.output
    tables = {name: list(csv.DictReader((tmp_path / "tables" / f"{name}.csv").read_text().splitlines()))
              for name in ("rounds", "edges", "transfers")}
    assert [len(rows) for rows in tables.values()] == [4, 8, len(list(run.transfers()))]
    assert [float(row["duration_ms"]) for row in tables["rounds"]] == [row["duration_ms"] for row in run.rounds]
    assert {row["direction"] for row in tables["transfers"]} == {"up", "down"}
    sent_bytes = sum(int(row["bytes"]) for row in tables["transfers"])
    assert sent_bytes == sum(int(row["sent_bytes"]) for row in tables["rounds"])


def test_a_script_without_a_main_guard_gets_errors_with_codes(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from trainer import TrainerError, train\n"
        "import json\n"
        "def own(): ...\n"
        "for settings in ({'model': 'nothing'}, {'data': 'missing.npz'}, {'rounds': 'ten'}, {'speed': 1},\n"
        "                 {'model': own}):\n"
        "    try:\n"
        "        train(**settings)\n"
        "    except TrainerError as error:\n"
        "        print(json.dumps([error.code, str(error)]))\n")
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    codes, sentences = zip(*map(json.loads, done.stdout.splitlines()), strict=True)
    assert codes == ("usage", "data", "usage", "usage", "usage")
    parts = ("There is no model 'nothing'", "there is no file missing.npz",
             "'ten' is not", "No such option",
             "put it in a file such as mine.py")
    assert all(part in sentence for part, sentence in zip(parts, sentences, strict=True)), sentences
    assert not (tmp_path / "runs").exists()


def test_settings_are_the_options_of_the_command() -> None:
    own = {"data", "local", "edges", "port", "runs_dir", "resume", "quiet", "as_json", "trust_samples"}
    options = {option.opts[0].removeprefix("--").replace("-", "_") for option in command.params
               if isinstance(option, click.Option) and option.name not in own}
    assert set(Settings.__annotations__) == options
    assert {"data", "local", "edges", "port", "runs_dir", "resume"} < set(inspect.signature(train).parameters)


def test_what_is_no_data_or_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="data is int"):
        train(5)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="y of data is list, not an array"):
        train(([1.0, 2.0], [object()]))
    with pytest.raises(TrainerError, match="is not the record of a run"):
        load_run(tmp_path)
