"""A user's policy in the planner's place: what it chooses is planned, what cannot be is refused with a sentence."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trainer.errors import UsageError
from trainer.planning.custom_policy import Policy
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
MakePolicy = Callable[[str], Policy]


@pytest.fixture
def policy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakePolicy:
    """A policy from its source."""
    monkeypatch.syspath_prepend(tmp_path)

    def make(body: str) -> Policy:
        (tmp_path / "chosen_by_test.py").write_text(body)
        monkeypatch.delitem(sys.modules, "chosen_by_test", raising=False)
        return Policy("chosen_by_test:policy")

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    return make


def plan(one: Policy, number: int = 1, current: list[int] | None = None) -> RoundPlan:
    return one.plan(number, FORECASTS, OFFER, 4, current)


def test_the_cuts_and_codecs_that_are_chosen_are_planned(policy: MakePolicy) -> None:
    chosen = plan(policy("def policy(number):\n    return {'edge1': (1, 'int8'), 'edge2': (number, 'fp32')}"), number=3)
    assert [(edge.cut, edge.codec) for edge in chosen.edges] == [(1, "int8"), (3, "fp32")]
    best = plan_round(FORECASTS, OFFER, 4)
    assert chosen.proven_s == best.proven_s <= best.step_s <= chosen.step_s
    assert sum(edge.up_bps for edge in chosen.edges) <= 60e6


def test_with_a_cut_alone_the_codec_is_the_best_for_it(policy: MakePolicy) -> None:
    only = [EdgeForecast(one.edge, tuple(o for o in OPTIONS if o.cut == 1), one.state_bits) for one in FORECASTS]
    assert plan(policy("def policy():\n    return {'edge1': 1, 'edge2': 1}")).edges == plan_round(only, OFFER, 4).edges


def test_it_sees_forecasts_offer_and_the_last_cuts(policy: MakePolicy) -> None:
    one = policy(
        "def policy(forecasts, offer, micros, current):\n"
        "    assert micros == 4 and offer.usable_bps['up'] == 60e6\n"
        "    assert {one.cut for one in forecasts[0].options} == {1, 2, 3}\n"
        "    return {edge: 1 + cut % 3 for edge, cut in current.items()}\n"
    )
    assert plan(one, 2, [1, 3]).cuts == (2, 1)


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        ("{'edge1': 9, 'edge2': 1}", r"chosen_by_test:policy chose cut 9 for edge1; its cuts are now 1, 2, 3\."),
        ("{'edge1': 1}", r"chose no cut for edge2; it must choose one for each of edge1, edge2\."),
        ("{'edge1': 1, 'edge2': 1, 'edge7': 1}", r"chose a cut for 'edge7'; the edges are edge1, edge2\."),
        ("{'edge1': (1, 'fp8'), 'edge2': 1}", r"chose the codec 'fp8' for edge1; its codecs are now fp32, int8\."),
        ("{'edge1': 1.5, 'edge2': 1}", r"chose 1\.5 for edge1; write a cut, or a cut and a codec"),
        ("[1, 1]", r"returned \[1, 1\]; it must return a cut for every edge, such as \{'edge1': 3\}\."),
        ("None", r"returned None; it must return a cut for every edge"),
        ("1 / 0", r"chosen_by_test:policy failed in round 1: ZeroDivisionError: division by zero\."),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(policy: MakePolicy, returned: Any, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        plan(policy(f"def policy():\n    return {returned}"))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("chosen_by_test:number", "chosen_by_test:number: number is not a function but of type int"),
        ("chosen_by_test:nothing", "the module chosen_by_test has no function nothing"),
        ("nowhere_at_all:policy", "the module nowhere_at_all cannot be imported"),
        ("planner", "--policy is 'planner'; write package.module:function"),
    ],
)
def test_what_is_no_function_is_refused(policy: MakePolicy, name: str, sentence: str) -> None:
    policy("number = 3\ndef policy():\n    return {}")
    with pytest.raises(UsageError, match=sentence):
        Policy(name)
