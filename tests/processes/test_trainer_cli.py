"""The command line: every command has help with an example, mistakes are sentences, exit codes differ."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from trainer.cli.main import OWN_COMMANDS, paceline
from trainer.cli.options import to_flags, to_settings
from trainer.errors import TrainerError

COMMANDS = [[name] for name in OWN_COMMANDS] + [["reservations", name] for name in ("list", "show", "release")]


def paceline_process(*arguments: str, run_directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trainer.cli.main", *arguments], capture_output=True, text=True, check=False,
        env={"PACELINE_RUN_DIR": str(run_directory), "PATH": "/usr/bin:/bin"},
    )


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str]) -> None:
    result = CliRunner().invoke(paceline, [*command, "--help"])
    assert result.exit_code == 0
    assert "Example: paceline" in result.output


def test_the_help_tells_commands_and_exit_codes_without_importing_torch() -> None:
    code = (
        "import sys; from click.testing import CliRunner; from trainer.cli.main import paceline\n"
        "for line in (['--help'], ['network', '--help'], ['reservations', '--help'], ['train', '--help']):\n"
        "    print(CliRunner().invoke(paceline, line).output)\n"
        "assert 'torch' not in sys.modules and 'controller' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in (*OWN_COMMANDS, "controller"))
    assert "3 network or controller" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["train"], 3, "No emulation runs on this machine"),
        (["network"], 3, "No emulation runs on this machine"),
        (["network", "--controller", "http://127.0.0.1:9"], 3, "does not answer"),
        (["train", "--local", "--rounds", "0", "--micro", "0"], 2, "--rounds is 0; it must be at least 1. --micro"),
        (["train", "--local", "--cuts", "1,x,3,4"], 2, "separate edges by commas"),
        (["train", "--local", "--cuts", "1,2"], 2, "--cuts must name 4 cuts"),
        (["train", "--local", "--late", "never"], 2, "'never' is not one of 'wait', 'drop', 'shrink'"),
        (["cloud"], 2, "Name the edges to expect"),
        (["cloud", "--resume", "/tmp"], 2, "is not the record of a run"),
        (["train", "--local", "--port", "99"], 2, "--port is 99"),
        (["train", "--local", "--protect-labels", "--tail-layers", "0"], 2, "--tail-layers is 0; it must be"),
        (["plan", "--protect-labels", "--tail-layers", "13"], 2, "the model has 13 layers: at least one is the tail"),
        (["plan", "--protect-labels", "--model", "mlp", "--tail-layers", "99"], 2, "--tail-layers is 99"),
        (["plan", "--map", "nowhere"], 2, "nowhere"),
        (["cloud", "--bind", "here:there", "--edge", "e"], 2, "is not IP:PORT"),
        (["ride"], 2, "ride"),
    ],
)
def test_a_mistake_is_a_sentence_and_an_exit_code(
    arguments: list[str], code: int, sentence: str, tmp_path: Path
) -> None:
    done = paceline_process(*arguments, run_directory=tmp_path)
    assert done.returncode == code
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_flags_repeat_the_settings_for_another_process() -> None:
    def parse(arguments: list[str]) -> dict[str, object]:
        from trainer.cli.train import cloud

        return cloud.make_context("cloud", [*arguments, "--edge", "e"]).params

    given = parse(["--rounds", "3", "--target", "0.9", "--cuts", "2", "--best-effort", "--codec", "bf16",
                   "--protect-labels", "--tail-layers", "2"])
    settings = to_settings(given, edges=("e",))
    assert to_settings(parse(to_flags(given)), edges=("e",)) == settings
    assert settings.cuts == ((2,),)


def test_every_error_has_a_code_of_its_own_and_an_exit_code() -> None:
    def tree(kind: type[TrainerError]) -> list[type[TrainerError]]:
        return [kind, *(below for child in kind.__subclasses__() for below in tree(child))]

    kinds = tree(TrainerError)
    assert len({kind.code for kind in kinds}) == len(kinds)
    assert {kind.exit_code for kind in kinds} == {2, 3, 4}


def test_a_plan_with_protected_labels_says_what_that_costs() -> None:
    result = CliRunner().invoke(paceline, ["plan", "--map", "metro", "--prior", "--protect-labels"])
    assert result.exit_code == 0, result.output
    # 4 edges x 64 samples x 384 values x 4 bytes, each way
    assert "393.2 kB more down and 393.2 kB more up a step" in result.output
    assert "against the best plan without" in result.output


def test_a_plan_prints_every_cut_and_the_maps_edges() -> None:
    result = CliRunner().invoke(paceline, ["plan", "--map", "metro"])
    assert result.exit_code == 0, result.output
    assert "(raw input)" in result.output
    assert all(f"edge{number}  CPU" in result.output for number in range(1, 5))
    assert isinstance(paceline, click.Group)
