"""Files that the documentation names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documentation import PAGES, ROOT, agree, commands

FILE = re.compile(r"`((?:controller|trainer|bench|mininet|topologies|tests|scripts|docs)/[\w/.-]+)`")
LINK = re.compile(r"\]\(([\w/.-]+)(?:#[\w-]+)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_file_and_link_of_a_page_exists(page: Path) -> None:
    text = page.read_text()
    named = {name for name in FILE.findall(text) if "NAME" not in name}
    assert {name for name in named if not (ROOT / name).exists()} == set()
    assert {link for link in LINK.findall(text) if not (page.parent / link).exists()} == set()


def test_outputs_agree_in_their_words_and_differ_in_what_varies() -> None:
    shown = "a 1.5 ms\n…\nz r-0123abcd at 2026-11-29T21:59:01Z\n"
    assert agree(shown, "a  1.5 ms\nb\nc\nz r-4f1c09a1 at 2026-01-01T00:00:00Z")
    assert not agree(shown, "a 1.6 ms\nb\nz r-4f1c09a1 at 2026-01-01T00:00:00Z")
    assert agree(shown, "a 1.6 ms\nb\nz r-4f1c09a1 at 2026-01-01T00:00:00Z", ((r"\d+\.\d+ ms", "N ms"),))
    assert not agree(shown, "a 1.5 ms\nb\nz r-4f1c09a1 at noon")
    assert agree("[20, 127.0.0.1]", "[20.0, 127.0.0.1]")
    assert not agree("[20]", "[200.0]")
    assert agree('{"id": "r-0123abcd", "kept": true}', '{"id":"r-4f1c09a1","kept":true}')
    assert not agree('{"id": "r-0123abcd", "kept": true}', '{"id":"r-4f1c09a1","kept":false}')


def test_a_command_goes_on_until_a_shell_would_not_ask_for_more(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```console\n$ echo 'a\nb' |\n  cat\na\nb\n\n$ true\n```\n")
    first, second = commands(page)
    assert (first.text, first.output) == ("echo 'a\nb' |\n  cat", "a\nb\n\n")
    assert (second.text, second.output) == ("true", "")
