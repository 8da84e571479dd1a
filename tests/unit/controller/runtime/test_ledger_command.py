"""`paceline ledger copy`: what it refuses."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

from controller.runtime.ledger_command import command
from controller.storage.ledger import Ledger


def refused(*arguments: str) -> str:
    ran = CliRunner().invoke(command, ["copy", *arguments])
    assert ran.exit_code == 2, ran.output
    return ran.output


def test_what_cannot_be_copied_is_refused_with_the_reason_and_nothing_is_made(tmp_path: Path) -> None:
    ledger, other = f"sqlite:///{tmp_path}/ledger.db", f"sqlite:///{tmp_path}/other.db"
    Ledger(ledger, "pair").close()
    with closing(sqlite3.connect(tmp_path / "photos.db")) as database:
        database.execute("CREATE TABLE photos (id INTEGER)")
    for source, target, sentence in (
        ("ledger.db", other, "'ledger.db' is not the URL of a ledger"),
        ("sqlite://", other, "The ledger sqlite:// is in the memory of a process"),
        (ledger, "sqlite:///:memory:", "is in the memory of a process"),
        (ledger, ledger, "The two ledgers are the same"),
        (f"sqlite:///{tmp_path}/nosuch.db", other, "nosuch.db: no such file."),
        (f"sqlite:///{tmp_path}/photos.db", other, "it has no reservations table"),
        (ledger, f"sqlite:///{tmp_path}/nosuch/other.db", "cannot be copied: "),
        (ledger, "postgresql+psycopg://lab:PLANTED@127.0.0.1:1/x", "cannot be copied: "),
    ):
        output = refused(source, target)
        assert output.startswith("Error: "), output
        assert sentence in output
        assert "PLANTED" not in output
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ledger.db", "photos.db"]


def test_a_ledger_that_a_controller_has_opened_and_never_used_is_an_empty_target(tmp_path: Path) -> None:
    for name in ("a", "b"):
        Ledger(f"sqlite:///{tmp_path}/{name}.db", "pair").close()
    ran = CliRunner().invoke(command, ["copy", f"sqlite:///{tmp_path}/a.db", f"sqlite:///{tmp_path}/b.db"])
    assert (ran.exit_code, "0 reservations" in ran.output) == (0, True)
    Ledger(f"sqlite:///{tmp_path}/b.db", "pair").close()


@pytest.mark.parametrize("arguments", [(), ("sqlite:///a",)])
def test_both_urls_are_needed(arguments: tuple[str, ...]) -> None:
    assert "Missing argument" in refused(*arguments)
