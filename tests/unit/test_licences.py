"""docs/licences.md: every pinned distribution and every Debian package is in its tables; scapy is for tests alone."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LICENCES = (ROOT / "docs/licences.md").read_text()
LISTED = {canonicalize_name(name) for name in re.findall(r"^\| ([\w.-]+) \| [^|]+ \|", LICENCES, re.MULTILINE)}


def test_every_pinned_distribution_has_a_licence_in_the_tables() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {canonicalize_name(Requirement(line).name) for line in lines if line and not line.startswith("#")}
    assert pinned - LISTED == set()


def test_every_debian_package_of_set_up_has_a_licence_in_the_tables() -> None:
    found = re.findall(r"\bpackages\+?=\((.*?)\)", (ROOT / "scripts/set-up").read_text(), re.DOTALL)
    assert len(found) == 2
    assert set(" ".join(found).split()) - LISTED == set()


def test_only_tests_import_scapy() -> None:
    sources = [path for folder in ("controller", "trainer", "topologies", "mininet", "bench")
               for path in (ROOT / folder).rglob("*.py")]  # fmt: skip
    assert len(sources) > 100
    assert [str(path) for path in sources if "scapy" in imported_by(path)] == []


def imported_by(path: Path) -> set[str]:
    """The top-level packages that a module imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names
