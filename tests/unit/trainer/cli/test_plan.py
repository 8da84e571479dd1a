"""What `paceline plan` prints of a plan."""

from __future__ import annotations

import re

from click.testing import CliRunner

from trainer.cli.plan import plan


def test_a_plan_tells_how_far_the_edges_computing_differs_and_how_little_the_layers_allow() -> None:
    done = CliRunner().invoke(plan, ["--map", "pair", "--prior"])
    assert done.exit_code == 0, done.output
    forward = [float(time) for time in re.findall(r"forward ([\d.]+) ms", done.output)]
    differ, least = map(float, re.findall(r"differ by ([\d.]+) ms, the layers allow ([\d.]+) ms", done.output)[0])
    assert abs(differ - (max(forward) - min(forward))) < 0.11
    assert 0 <= least <= differ
