"""Maps that cannot be emulated are refused before anything is started."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulation.session import check_map
from machine.errors import EmulationError
from topologies.map_file.loader import load_map, map_path


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("km: 20,", "km: 20, idle_slope_gbps: 50,"), "pair has credit-based shapers on s1-s2; Open vSwitch"),
        (("mtu_bytes: 9000", "mtu_bytes: 9000\nats: true"), "pair has asynchronous traffic shaping; Open vSwitch"),
    ],
)
def test_a_map_whose_ports_have_shapers_is_not_emulated(
    tmp_path: Path, change: tuple[str, str], sentence: str
) -> None:
    file = tmp_path / "shaped.yaml"
    file.write_text(map_path("pair").read_text().replace(*change))
    with pytest.raises(EmulationError, match=sentence):
        check_map(load_map(str(file)))
    check_map(load_map("pair"))
