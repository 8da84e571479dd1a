"""One writer per map and ledger."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from controller.errors import StartError
from controller.storage.writer_lock import NoLock, acquire_writer_lock


def test_a_map_of_a_ledger_has_one_writer_however_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "ledger.db")
    lock = acquire_writer_lock(f"sqlite:///{tmp_path}/ledger.db", "pair")
    names = ("ledger.db", f"../{tmp_path.name}/ledger.db", "link.db")
    for url in [f"sqlite:///{tmp_path}/{name}" for name in names] + [f"sqlite:///file:{tmp_path}/ledger.db?uri=true"]:
        with pytest.raises(StartError, match=rf"ledger\.db: process {os.getpid()} on .* since 20\d\d-.*Z\. Stop it"):
            acquire_writer_lock(url, "pair")
    other = acquire_writer_lock(f"sqlite:///{tmp_path}/ledger.db", "maps/other ü.yaml")
    lock.release()
    lock.release()
    acquire_writer_lock(f"sqlite:///{tmp_path}/ledger.db", "pair").release()
    other.release()
    assert [path.name for path in tmp_path.iterdir()] == ["link.db"]


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file:x?mode=memory&uri=true"])
def test_a_ledger_in_memory_needs_no_lock(url: str) -> None:
    assert type(acquire_writer_lock(url, "pair")) is NoLock


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("nonsense://x", "nonsense://x cannot be opened"),
        ("nonsense", "nonsense cannot be opened"),
        ("sqlite:////nosuch/ledger.db", "cannot be locked: /nosuch/ledger.db.pair.lock: No such file or directory"),
    ],
)
def test_a_ledger_that_cannot_be_locked_is_reported(url: str, words: str) -> None:
    with pytest.raises(StartError, match=words):
        acquire_writer_lock(url, "pair")


def test_a_lock_whose_holder_is_about_to_name_itself_is_refused_all_the_same(tmp_path: Path) -> None:
    lock = acquire_writer_lock(f"sqlite:///{tmp_path}/ledger.db", "pair")
    (tmp_path / "ledger.db.pair.lock").write_text("")
    with pytest.raises(StartError, match=r"uses the ledger .*ledger\.db\. Stop it first"):
        acquire_writer_lock(f"sqlite:///{tmp_path}/ledger.db", "pair")
    lock.release()
