"""What `paceline plan` prints of a plan."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from trainer.cli.plan import plan


def test_a_plan_tells_how_far_the_edges_computing_differs_and_how_little_the_layers_allow() -> None:
    done = CliRunner().invoke(plan, ["--map", "pair", "--prior"])
    assert done.exit_code == 0, done.output
    forward = [float(time) for time in re.findall(r"forward ([\d.]+) ms", done.output)]
    differ, least = map(float, re.findall(r"differ by ([\d.]+) ms, the layers allow ([\d.]+) ms", done.output)[0])
    assert abs(differ - (max(forward) - min(forward))) < 0.11
    assert 0 <= least <= differ


CLOUDS = """\
name: clouds
description: An edge and a node of the cloud at each of two sites; little room between them.
scale_mbps_per_gbps: 0.8
nodes:
  - {name: s1, kind: switch, position_km: [0, 0]}
  - {name: s2, kind: switch, position_km: [20, 0]}
  - {name: cloud, kind: cloud, position_km: [0, 2]}
  - {name: cloud2, kind: cloud, position_km: [20, 2]}
  - {name: edge1, kind: edge, position_km: [22, 0]}
  - {name: edge2, kind: edge, position_km: [-2, 0]}
links:
  - {ends: [s1, s2], length_km: 20, channel_rate_gbps: RATE}
  - {ends: [cloud, s1], length_km: 2, channel_rate_gbps: 100}
  - {ends: [cloud2, s2], length_km: 2, channel_rate_gbps: 100}
  - {ends: [edge1, s2], length_km: 2, channel_rate_gbps: 100}
  - {ends: [edge2, s1], length_km: 2, channel_rate_gbps: 100}
"""


@pytest.mark.parametrize("rate_gbps", [1, 20])
def test_a_plan_says_to_which_node_of_the_cloud_each_edge_goes(tmp_path: Path, rate_gbps: int) -> None:
    """Each to the near one, over links of 80 Mb/s of which it may use 75 %; `cloud` is the near one of edge2."""
    path = tmp_path / "clouds.yaml"
    path.write_text(CLOUDS.replace("RATE", str(rate_gbps)))
    done = CliRunner().invoke(plan, ["--map", str(path), "--prior", "--cuts", "2,2"])
    assert done.exit_code == 0, done.output
    assert re.findall(r"(edge\d)  to (\w+)  CPU 1  cut  2 .* up ([\d.]+)  down ([\d.]+) Mb/s", done.output) == [
        ("edge1", "cloud2", "60.00", "60.00"), ("edge2", "cloud", "60.00", "60.00")]


def test_a_plan_for_one_node_of_the_cloud_does_not_name_it() -> None:
    done = CliRunner().invoke(plan, ["--map", "pair", "--prior", "--cuts", "2,2"])
    assert done.exit_code == 0, done.output
    assert "edge1  CPU" in done.output
