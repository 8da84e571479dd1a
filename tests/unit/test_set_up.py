"""scripts/set-up installs nothing by pip that is not pinned, and everything with a pinned pip."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SET_UP = (ROOT / "scripts/set-up").read_text()
LINES = (ROOT / "constraints.txt").read_text().splitlines()
PINS = {canonicalize_name(Requirement(line).name): Requirement(line) for line in LINES if not line.startswith("#")}


def test_every_line_of_the_constraints_is_an_exact_version() -> None:
    loose = [str(each) for each in PINS.values() if [part.operator for part in each.specifier] != ["=="]]
    assert len(PINS) > 100
    assert loose == []


def test_what_set_up_installs_is_pinned_and_pip_comes_first() -> None:
    steps = re.findall(r'^ *install "[^"]+" (.+)$', SET_UP, re.MULTILINE)
    named = [word for step in steps for word in shlex.split(step) if re.fullmatch(r"[a-z][\w-]+", word)]
    assert named[:3] == ["pip", "setuptools", "wheel"]
    assert {canonicalize_name(name) for name in named} - PINS.keys() == set()


def test_ryu_is_built_with_exact_versions_by_the_pinned_pip() -> None:
    (built,) = re.findall(r"^build_ryu\(\) \{.*\n(.+)\n\}$", SET_UP, re.MULTILINE)
    words = [word for word in built.split() if not word.startswith("-") and word not in ("pip", "install", "&&")]
    assert [word for word in words if "==" not in word] == []
    assert SET_UP.index('install "pip"') < SET_UP.index('step "Ryu')
