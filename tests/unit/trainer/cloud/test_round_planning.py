"""Which cuts may be planned for an edge."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.trainer.cloud.test_edge_manager import join_request
from trainer.cloud.round_planning import allowed_cuts, check_min_cut
from trainer.config.settings import RunSettings
from trainer.errors import ProtocolError

LAYERS = 13
SETTINGS = RunSettings(edges=("edge1", "edge2"))


@pytest.mark.parametrize(("settings", "min_cut", "max_cut", "cuts"), [
    (SETTINGS, 0, None, range(1, 13)),
    (SETTINGS, 5, None, range(5, 13)),
    (SETTINGS, 12, None, range(12, 13)),
    (replace(SETTINGS, min_cut=0), 0, None, range(13)),
    (replace(SETTINGS, min_cut=0), 1, None, range(1, 13)),
    (replace(SETTINGS, max_cut=6), 3, None, range(3, 7)),
    (replace(SETTINGS, protect_labels=True, tail_layers=2), 3, None, range(3, 11)),
    (SETTINGS, 5, 2, range(5, 6)),
    (SETTINGS, 1, 7, range(1, 8)),
    (replace(SETTINGS, cuts=((2, 3), (4, 5))), 1, None, range(4, 5)),
])
def test_the_cuts_of_an_edge_start_at_what_it_accepts(
    settings: RunSettings, min_cut: int, max_cut: int | None, cuts: range
) -> None:
    assert allowed_cuts(9, settings, "edge1", LAYERS, min_cut, max_cut) == cuts


@pytest.mark.parametrize(("settings", "min_cut", "reason"), [
    (SETTINGS, 12, None),
    (SETTINGS, 13, "edge1 accepts cuts from 13 on, and the largest possible one is 12"),
    (replace(SETTINGS, max_cut=3), 4, "the largest possible one is 3"),
    (replace(SETTINGS, cuts=((5, 0), (2, 0))), 2, None),
    (replace(SETTINGS, cuts=((5, 0), (2, 0))), 3, "--cuts assigns it 2; start it with --min-cut 2"),
])
def test_an_edge_for_which_no_cut_is_left_is_told_so(settings: RunSettings, min_cut: int, reason: str | None) -> None:
    request = join_request("edge1").model_copy(update={"min_cut": min_cut})
    if reason is None:
        check_min_cut(request, settings, LAYERS)
        return
    with pytest.raises(ProtocolError) as caught:
        check_min_cut(request, settings, LAYERS)
    assert reason in str(caught.value)
