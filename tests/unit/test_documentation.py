"""Files that the documentation names exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.documentation import PAGES, ROOT

FILE = re.compile(r"`((?:controller|trainer|bench|mininet|topologies|tests|scripts|docs)/[\w/.-]+)`")
LINK = re.compile(r"\]\(([\w/.-]+)(?:#[\w-]+)?\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_file_and_link_of_a_page_exists(page: Path) -> None:
    text = page.read_text()
    named = {name for name in FILE.findall(text) if "NAME" not in name}
    assert {name for name in named if not (ROOT / name).exists()} == set()
    assert {link for link in LINK.findall(text) if not (page.parent / link).exists()} == set()
