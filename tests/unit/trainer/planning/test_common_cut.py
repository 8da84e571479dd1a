"""With secure aggregation all edges have the best common cut, which never shrinks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.unit.trainer.planning.test_custom_policy import FORECASTS, OFFER
from trainer.errors import PlanError, UsageError
from trainer.planning.common_cut import check_common_cut, plan_common_cut
from trainer.planning.plan import EdgeForecast
from trainer.planning.planner import plan_round


def only(*cuts: int) -> list[EdgeForecast]:
    return [replace(forecast, options=tuple(option for option in forecast.options if option.cut in cuts))
            for forecast in FORECASTS]


STEPS_S = {cut: plan_round(only(cut), OFFER, 4).step_s for cut in (1, 2, 3)}
BEST = min(STEPS_S, key=STEPS_S.__getitem__)


def test_the_common_cut_with_the_shortest_step_is_planned() -> None:
    plan = plan_common_cut(FORECASTS, OFFER, 4)
    assert plan.cuts == (BEST, BEST) and plan.step_s == STEPS_S[BEST]
    assert plan.proven_s <= min(STEPS_S.values())


def test_a_cut_stays_unless_another_gains_and_never_shrinks() -> None:
    assert plan_common_cut(FORECASTS, OFFER, 4, 3, 3).cuts == (3, 3)
    assert plan_common_cut(FORECASTS, OFFER, 4, 2).cuts[0] >= 2
    assert plan_common_cut(only(BEST, 3), OFFER, 4, 0, 3).cuts == ((3, 3) if STEPS_S[3] <= 1.05 * STEPS_S[BEST]
                                                                    else (BEST, BEST))


def test_edges_without_a_common_cut_are_told_so() -> None:
    with pytest.raises(PlanError, match="accept no common cut, which --secure-aggregation needs: edge1 1 to 1, edge2 2 "
                       "to 3"):
        plan_common_cut([only(1)[0], only(2, 3)[1]], OFFER, 4)


def test_a_policy_with_different_or_shrinking_cuts_is_refused() -> None:
    plan = plan_round(only(2), OFFER, 4)
    check_common_cut(plan, 2)
    with pytest.raises(UsageError, match="The policy chose the cuts 2, 2; with --secure-aggregation"):
        check_common_cut(plan, 3)
