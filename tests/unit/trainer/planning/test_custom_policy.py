"""Custom policies: valid choices are planned, invalid ones are usage errors with a sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.errors import UsageError
from trainer.planning.custom_policy import CustomPolicy
from trainer.planning.plan import EdgeForecast, Offer, Option, RoundPlan
from trainer.planning.planner import plan_round
from trainer.protocol.codec import Codec

CODEC_BITS: dict[Codec, float] = {"fp32": 4e6, "int8": 1e6}
OPTIONS = tuple(
    Option(cut, codec, 0.01 * cut, 0.02 * cut, 0.01, bits / cut, bits / cut)
    for cut in (1, 2, 3) for codec, bits in CODEC_BITS.items()
)
FORECASTS = [EdgeForecast(name, OPTIONS, (0.0, 0.0, 0.0, 0.0)) for name in ("edge1", "edge2")]
OFFER = Offer({"edge1": ("up",), "edge2": ("up",)}, {"edge1": ("down",), "edge2": ("down",)},
              {"up": 60e6, "down": 60e6}, 1e6)
MakePolicy = Callable[[str], CustomPolicy]


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakePolicy:
    """Builds a policy from source code."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(body: str) -> CustomPolicy:
        (tmp_path / "policy_of_test.py").write_text(body)
        monkeypatch.delitem(sys.modules, "policy_of_test", raising=False)
        return CustomPolicy("policy_of_test:policy")

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return make


def plan(custom: CustomPolicy, number: int = 1, current: list[int] | None = None) -> RoundPlan:
    return custom.plan(number, FORECASTS, OFFER, 4, current)


def test_chosen_cuts_and_codecs_are_planned(policy: MakePolicy) -> None:
    chosen = plan(policy("def policy(number):\n    return {'edge1': (1, 'int8'), 'edge2': (number, 'fp32')}"), number=3)
    assert [(edge.cut, edge.codec) for edge in chosen.edges] == [(1, "int8"), (3, "fp32")]
    best = plan_round(FORECASTS, OFFER, 4)
    assert chosen.proven_s == best.proven_s <= best.step_s <= chosen.step_s
    assert sum(edge.up_bps for edge in chosen.edges) <= 60e6


def test_a_choice_without_codec_gets_the_best_codec(policy: MakePolicy) -> None:
    only = [EdgeForecast(f.edge, tuple(o for o in OPTIONS if o.cut == 1), f.state_bits) for f in FORECASTS]
    assert plan(policy("def policy():\n    return {'edge1': 1, 'edge2': 1}")).edges == plan_round(only, OFFER, 4).edges


def test_the_function_receives_forecasts_offer_and_current_cuts(policy: MakePolicy) -> None:
    custom = policy(
        "def policy(forecasts, offer, micros, current):\n"
        "    assert micros == 4 and offer.usable_bps['up'] == 60e6\n"
        "    assert {option.cut for option in forecasts[0].options} == {1, 2, 3}\n"
        "    return {edge: 1 + cut % 3 for edge, cut in current.items()}\n"
    )
    assert plan(custom, 2, [1, 3]).cuts == (2, 1)


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        ("{'edge1': 9, 'edge2': 1}", r"policy_of_test:policy chose cut 9 for edge1; its possible cuts are 1, 2, 3\."),
        ("{'edge1': 1}", r"chose no cut for edge2; it must choose one for each of edge1, edge2\."),
        ("{'edge1': 1, 'edge2': 1, 'edge7': 1}", r"chose a cut for 'edge7'; the edges are edge1, edge2\."),
        ("{'edge1': (1, 'fp8'), 'edge2': 1}", r"chose the codec 'fp8' for edge1; its allowed codecs are fp32, int8\."),
        ("{'edge1': 1.5, 'edge2': 1}", r"chose 1\.5 for edge1; write a cut, or a cut and a codec"),
        ("[1, 1]", r"returned \[1, 1\]; it must return a cut for every edge, such as \{'edge1': 3\}\."),
        ("None", r"returned None; it must return a cut for every edge"),
        ("1 / 0", r"policy_of_test:policy failed in round 1: ZeroDivisionError: division by "
                  r"zero \(policy_of_test.py, line 2\)\."),
    ],
)
def test_an_invalid_choice_is_a_usage_error(policy: MakePolicy, returned: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        plan(policy(f"def policy():\n    return {returned}"))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("policy_of_test:number", "policy_of_test:number: number is not a function but of type int"),
        ("policy_of_test:nothing", "the module policy_of_test has no function nothing"),
        ("nowhere_at_all:policy", "the module nowhere_at_all cannot be imported"),
        ("planner", "--policy is 'planner'; write package.module:function"),
    ],
)
def test_a_name_that_is_not_a_function_is_a_usage_error(policy: MakePolicy, name: str, sentence: str) -> None:
    policy("number = 3\ndef policy():\n    return {}")
    with pytest.raises(UsageError, match=sentence):
        CustomPolicy(name)
