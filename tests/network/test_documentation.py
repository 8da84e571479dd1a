"""Every command in README and docs is run as printed, in the order of its page, and its output compared.

`PACELINE_WRITE_DOCS=1 pytest tests/network/test_documentation.py` writes the outputs into the pages instead.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.api.schemas.problem_details import EXAMPLES, problem_of
from tests.documentation import PAGES, ROOT, Command, Shell, agree, commands, laid_out_where_json
from tests.network.conftest import EMULATION_CACHE, START

WRITING = bool(os.environ.get("PACELINE_WRITE_DOCS"))
TIMEOUT_S = 240.0

ELSEWHERE = {
    "make setup": "set-up runs before the tests",
    "make demo": "scripts/fresh-check runs it on a bare Debian",
    "make test": "this test is part of it",
    "make check": "part of make test",
}
"""Commands that are not run here, and why."""

OTHER_TESTS = {"deploy.md": "tests/network/test_deploy.py", "extending.md": "tests/processes/test_extending.py"}
"""Pages whose commands another test runs."""

NUMBER = (r"\d+(\.\d+)?", "N")
PROPAGATION = (r"propagation delay: .*? (?=controller: )", "PROPAGATION ")
"""Depends on the kernel: with netem it is emulated."""
LATE = (r"edge\d exceeded its deadline in step \d+ of round \d+; waiting\. ", "")
COST = (r"\+0 \(tie\)|\+[\d.]+ ms per step \(\+[\d.]+%\)", "COST")

VARIES: dict[str, tuple[tuple[str, str], ...]] = {
    "README.md": (PROPAGATION, LATE, COST, NUMBER),
    "optical.md": (NUMBER,),
    "rest-api.md": (PROPAGATION,),
}
"""What differs from run to run on a page: regular expressions on the text in one line, and what replaces them."""

WITH_COMMANDS = [page for page in PAGES if commands(page) and page.name not in OTHER_TESTS]


IN_PLACE = ("README.md", "CONTRIBUTING.md")
"""Pages whose commands run in this checkout, because they include set-up; their `runs/` are removed afterwards."""


@pytest.fixture
def directory(page: Path, tmp_path: Path) -> Iterator[Path]:
    """Working directory of a page's commands: this checkout, or a copy by symbolic links."""
    if page.name in IN_PLACE:
        runs = ROOT / "runs"
        before = set(runs.iterdir()) if runs.exists() else set()
        yield ROOT
        for run in set(runs.iterdir()) - before if runs.exists() else ():
            shutil.rmtree(run)
        return
    for entry in ROOT.iterdir():
        if entry.name not in ("runs", ".git"):
            (tmp_path / entry.name).symlink_to(entry)
    yield tmp_path


@pytest.fixture
def shell(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    EMULATION_CACHE.end()
    programs = tmp_path_factory.mktemp("bin")
    if shutil.which("sudo") is None:  # the tests run as root: sudo is replaced by exec
        (programs / "sudo").write_text('#!/bin/sh\nexec "$@"\n')
        (programs / "sudo").chmod(0o755)
    shell = Shell(directory, {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "COLUMNS": "120"})
    try:
        yield shell
    finally:
        shell.close()
        subprocess.run([*START, "-c"], capture_output=True, check=False)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda path: path.name)
def test_every_command_is_run_as_printed(page: Path, shell: Shell) -> None:
    text = page.read_text()
    for command in commands(page):
        if command.text.partition("#")[0].strip() in ELSEWHERE:
            continue
        code, output = shell.run(command, TIMEOUT_S)
        if not command.output:
            assert code == 0, f"{command}\nexit code {code}: {output}"
        elif not WRITING:
            assert agree(command.output, output, VARIES.get(page.name, ())), f"{command}\n{output}"
        elif not agree(command.output, output, VARIES.get(page.name, ())):
            text = _written(text, command, output)
    if WRITING:
        page.write_text(text)


def _written(text: str, command: Command, output: str) -> str:
    printed = f"$ {command.text}\n{command.output}"
    assert printed in text, command
    blank = "\n" if command.output.endswith("\n\n") else ""
    return text.replace(printed, f"$ {command.text}\n{laid_out_where_json(output).rstrip()}\n{blank}", 1)


def test_every_page_with_commands_is_run() -> None:
    names = {page.name for page in PAGES if "```console" in page.read_text()}
    assert names == {page.name for page in WITH_COMMANDS} | OTHER_TESTS.keys()
    for page in PAGES:
        for language in ("sh", "bash", "shell"):
            assert f"```{language}\n" not in page.read_text(), f"{page.name}: commands belong in ```console blocks"


def test_the_table_lists_every_error_code() -> None:
    rows = sorted((problem_of(error) for error in EXAMPLES), key=lambda row: (row["status"], row["code"]))
    table = "".join(f"| {row['status']} | `{row['code']}` | {row['detail']} |\n" for row in rows)
    head = "| status | code | for example |\n|---|---|---|\n"
    page = ROOT / "docs/rest-api.md"
    before, found = page.read_text().split(head)
    if WRITING:
        page.write_text(before + head + table)
    else:
        assert found == table
