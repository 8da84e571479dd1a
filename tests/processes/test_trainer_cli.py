"""The command line: help with an example, usage errors with exit code 2, no heavy imports for help."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

from tests.forked_processes import ForkServer
from trainer.cli.group import paceline
from trainer.cli.options import to_flags, to_settings
from trainer.cli.overview import COMMANDS, overview, plugin_commands
from trainer.errors import TrainerError

GROUPS = {
    "reservations": ("list", "show", "renew", "change", "commit", "release"),
    "lightpaths": ("show", "defragment"),
    "links": ("down", "up"),
    "ducts": ("down", "up"),
}
COMMAND_LINES = [[name] for name in COMMANDS] + [[group, name] for group, names in GROUPS.items() for name in names]
HEAVY = {"torch", "numpy", "pydantic", "httpx", "rich", "networkx", "fastapi", "matplotlib", "scipy", "controller"}


NO_EMULATION = ForkServer("training", PACELINE_RUN_DIR="/proc/none")


def errors_of(directory: Path, *arguments: str) -> tuple[int | None, str]:
    """Exit code and standard error of a command, where no emulation runs."""
    errors = directory / "errors"
    code = NO_EMULATION.start(directory / "output", arguments, errors=errors).wait(240)
    return code, errors.read_text()


@pytest.mark.parametrize("command", COMMAND_LINES, ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str]) -> None:
    result = CliRunner().invoke(paceline, [*command, "--help"])
    assert result.exit_code == 0
    assert "Example: paceline" in result.output


@pytest.mark.parametrize("group", [*GROUPS, "token", "pki"])
def test_the_list_of_a_groups_commands_is_not_cut(group: str) -> None:
    result = CliRunner().invoke(paceline, [group, "--help"], terminal_width=80)
    commands = result.output.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert commands
    assert not [line for line in commands if line.endswith("...")]


def modules_after(*arguments: str) -> tuple[str, set[str]]:
    """Run a command; return its output and the top-level modules that its process imported."""
    code = (
        "import atexit, sys\n"
        "atexit.register(lambda: print(*sorted(sys.modules), sep='\\n', file=sys.stderr))\n"
        "from trainer.cli.main import run_command_line\n"
        f"run_command_line({list(arguments)!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout, {line.split(".")[0] for line in done.stderr.splitlines()}


def test_the_overview_names_all_commands_and_exit_codes_without_importing_click() -> None:
    output, modules = modules_after("--help")
    assert modules.isdisjoint(HEAVY | {"click", "email"})
    assert all(f"\n  {name} " in output for name in (*COMMANDS, "controller", "maps", "pki", "token"))
    assert "3 network or controller error" in " ".join(output.split())
    assert max(map(len, output.splitlines())) <= 80


@pytest.mark.parametrize("command", COMMAND_LINES, ids=" ".join)
def test_the_help_of_a_command_imports_nothing_heavy(command: list[str]) -> None:
    _, modules = modules_after(*command, "--help")
    assert modules.isdisjoint(HEAVY)


def test_the_overview_lists_every_option_of_the_group_and_is_the_help_of_click() -> None:
    options = [option for parameter in paceline.get_params(click.Context(paceline)) for option in parameter.opts]
    assert {"--help", "--verbose", "--version"} == set(options)
    assert all(f"\n  {option} " in overview() for option in options)
    assert CliRunner().invoke(paceline, ["--help"]).output == overview()


def test_commands_of_other_packages_are_found_as_importlib_metadata_finds_them() -> None:
    entries = importlib.metadata.entry_points(group="paceline.commands")
    assert {"controller", "maps", "pki", "token"} <= {entry.name for entry in entries}
    assert plugin_commands() == {entry.name: (entry.module, entry.attr) for entry in entries}


def test_listing_the_network_imports_nothing_heavy(tmp_path: Path) -> None:
    code = (
        "import sys; from click.testing import CliRunner; from trainer.cli.group import paceline\n"
        "assert CliRunner().invoke(paceline, ['network', '--controller', 'http://127.0.0.1:9']).exit_code\n"
        "print(*sorted(sys.modules), sep='\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert {line.split(".")[0] for line in done.stdout.splitlines()}.isdisjoint(HEAVY)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["train"], 3, "Error: No emulation is running on this machine"),
        (["network"], 3, "Error: No emulation is running on this machine"),
        (["network", "--controller", "http://127.0.0.1:9"], 3, "does not answer"),
        (["train", "--local", "--rounds", "0", "--micro", "0"], 2, "--rounds is 0; it must be at least 1. --micro"),
        (["train", "--local", "--cuts", "1,x,3,4"], 2, "separate edges by commas"),
        (["train", "--local", "--cuts", "1,2"], 2, "--cuts must name 4 cuts"),
        (["train", "--local", "--late", "never"], 2, "'never' is not one of 'wait', 'drop', 'shrink'"),
        (["cloud"], 2, "Name the expected edges"),
        (["cloud", "--resume", "/tmp"], 2, "is not the record of a run"),
        (["train", "--local", "--port", "99"], 2, "--port is 99"),
        (["train", "--local", "--protect-labels", "--tail-layers", "0"], 2, "--tail-layers is 0; it must be"),
        (
            ["plan", "--protect-labels", "--tail-layers", "13"],
            2,
            "the model has 13 layers, and the tail needs",
        ),
        (["plan", "--protect-labels", "--model", "mlp", "--tail-layers", "99"], 2, "--tail-layers is 99"),
        (["plan", "--map", "nowhere"], 2, "nowhere"),
        (["plan", "--batch", "4", "--micro", "8"], 2, "--micro is 8; it must be at most --batch, which is 4 samples"),
        (["plan", "--share", "nan"], 2, "--share is nan; it must be a finite number"),
        (["plan", "--loss", "mse"], 2, "--loss is mse, which needs values"),
        (["plan", "--map", "metro", "--cuts", "99,1,1,1"], 2, "--cuts contains cut 99: the model signal-cnn has 13"),
        (["plan", "--cuts", "1"], 2, "--cuts requires --map"),
        (["plan", "--share", "0.5"], 2, "--share requires --map"),
        (["train", "--edges", "3"], 2, "--edges requires --local"),
        (["train", "--local", "--controller", "http://127.0.0.1:9"], 2, "--controller does not apply to --local"),
        (["train", "--local", "--edges", "2", "--data", "missing.npz"], 2, "edge1: there is no file missing.npz"),
        (["train", "--local", "--edges", "2", "--token-file", "/dev/null"], 2, "The token in /dev/null has 0 bytes"),
        (["train", "--local", "--collect", "5"], 2, "--data is traffic-lights, which does not grow"),
        (["train", "--local", "--collect", "5", "--partition", "column"], 2, "with --collect each edge takes its"),
        (["cloud", "--edge", "edge1", "--bind", "192.0.2.1:7800"], 2, "that is no address of this machine"),
        (["cloud", "--edge", "edge1", "--model", "nothing"], 2, "There is no model 'nothing'"),
        (["cloud", "--bind", "here:there", "--edge", "e"], 2, "is not IP:PORT"),
        (["network", "--controller", "127.0.0.1:8080"], 2, "must be a URL such as http://127.0.0.1:8080"),
        (["reserve", "edge1", "cloud"], 2, "Give either --rate, such as --rate 20M, or --transfer with --deadline"),
        (["reserve", "edge1", "cloud", "--rate", "20"], 3, "No emulation is running"),
        (["reserve", "edge1", "cloud", "--rate", "fast"], 2, "'fast' is not a rate; write for example 20M, 1.5G or"),
        (["reserve", "edge1", "cloud", "--rate", "20MB"], 2, "'20MB': 'MB' is no unit of a rate"),
        (["reserve", "edge1", "cloud", "--rate", "20m"], 2, "'20m': 'm' is no unit of a rate"),
        (["reserve", "edge1", "cloud", "--rate", "20M", "--latency", "45"], 2, "'45': the unit is missing; write"),
        (["reserve", "edge1", "cloud", "--rate", "20M", "--latency", "-4ms"], 2, "'-4ms' is not a time"),
        (["reserve", "edge1", "cloud", "--rate", "20M", "--burst", "0"], 2, "'0' is not a size above 0"),
        (["reserve", "edge1", "cloud", "--rate", "20M", "--deadline", "1s"], 2, "--deadline needs --transfer"),
        (["reserve", "edge1", "cloud", "--rate", "1.5"], 2, "'1.5' is not a whole number of bit/s"),
        (["reserve", "edge1", "cloud", "--rate", "2M", "--start", "noon"], 2, "'noon' is not a time with its zone"),
        (["reserve", "edge1", "cloud", "--rate", "2M", "--source-port", "9-8"], 2, "'9-8' is not a port of 1 to 65535"),
        (["reserve", "edge1"], 2, "Give SOURCE and DESTINATION"),
        (["quote", "--volume", "edge1:cloud"], 2, "write SOURCE:DESTINATION:SIZE, such as edge1:cloud:1MB"),
        (["quote", "--volume", "edge1:cloud:1Mb"], 2, "'Mb' is no unit of a size"),
        (["reservations", "change", "r-1"], 2, "Give what is to change, such as --rate 30M"),
        (["events", "--controller", "http://127.0.0.1:9"], 3, "does not answer"),
        (["edge"], 2, "Missing option '--name'"),
        (["report", "/nowhere"], 2, "does not exist"),
        (["train", "--local", "--edges", "2", "--runs-dir", "/proc/none"], 2, "/proc/none: No such file or directory."),
        (["train", "--local", "--edges", "2", "--runs-dir", "/dev/null"], 2, "Not a directory."),
        (["maps", "metro", "--write", "/proc/none/map.yaml"], 2, "/proc/none/map.yaml: No such file or directory"),
        (["maps", "metro", "--draw", "map.jpg"], 2, "a map is drawn as .png or .svg"),
        (["ride"], 2, "No such command 'ride'"),
    ],
)
def test_an_error_is_one_sentence_with_an_exit_code(
    arguments: list[str], code: int, sentence: str, tmp_path: Path
) -> None:
    done, errors = errors_of(tmp_path, *arguments)
    assert done == code
    assert sentence in errors
    assert "Traceback" not in errors


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("command", [["train", "--local", "--edges", "2"], ["cloud", "--edge", "edge1"]])
def test_a_device_that_is_not_there_leaves_no_run_behind(command: list[str], tmp_path: Path) -> None:
    code, errors = errors_of(tmp_path, *command, "--device", "cuda", "--runs-dir", str(tmp_path / "runs"))
    assert (code, "--device is cuda; PyTorch finds none here" in errors) == (2, True)
    assert not (tmp_path / "runs").exists()


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


def test_a_plan_with_protected_labels_prints_their_cost() -> None:
    result = CliRunner().invoke(paceline, ["plan", "--map", "metro", "--prior", "--protect-labels"])
    assert result.exit_code == 0, result.output
    # 4 edges x 64 samples x 384 values x 4 bytes, each way
    assert "393.2 kB more down and 393.2 kB more up per step" in result.output
    assert "compared to the best plan without" in result.output


def test_a_plan_prints_every_cut_and_the_edges_of_the_map() -> None:
    result = CliRunner().invoke(paceline, ["plan", "--map", "metro"])
    assert result.exit_code == 0, result.output
    assert "(raw input)" in result.output
    assert all(f"edge{number}  CPU" in result.output for number in range(1, 5))
    assert isinstance(paceline, click.Group)
