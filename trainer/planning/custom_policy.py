"""A planner policy of one's own: a function that chooses every edge's cut, and its codec if it likes.

What it says is checked against what each edge may do; rates, beat and delays follow from it as in any plan.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.errors import UsageError
from trainer.planning.plan import EdgeForecast, Offer, Option, RoundPlan
from trainer.planning.planner import plan_round
from trainer.plugins import is_plugin_name, load_function


class Policy:
    """A user's `package.module:function`."""

    def __init__(self, name: str) -> None:
        """Raises: UsageError if there is no such function."""
        if not is_plugin_name(name):
            raise UsageError(f"--policy is {name!r}; write package.module:function.")
        self.name = name
        self._function = load_function(name)

    def plan(
        self, number: int, forecasts: Sequence[EdgeForecast], offer: Offer, micros: int, current: Sequence[int] | None
    ) -> RoundPlan:
        """The plan of a round with what the function chooses; `proven_s` is what the planner's own could reach.

        Raises: UsageError if the function fails or chooses what cannot be, PlanError.
        """
        names = [forecast.edge for forecast in forecasts]
        try:
            chosen = self._function(
                number=number, forecasts=tuple(forecasts), offer=offer, micros=micros,
                current=None if current is None else dict(zip(names, current, strict=True)),
            )
        except Exception as error:  # the user's code may raise anything; it is told as theirs, not as a bug of ours
            raise UsageError(f"{self.name} failed in round {number}: {type(error).__name__}: {error}.") from error
        plan = plan_round(self._only(chosen, forecasts), offer, micros)
        return dataclasses.replace(plan, proven_s=plan_round(forecasts, offer, micros).proven_s)

    def _only(self, chosen: Any, forecasts: Sequence[EdgeForecast]) -> list[EdgeForecast]:
        """Every edge's forecast with the chosen options alone."""
        names = [forecast.edge for forecast in forecasts]
        if not isinstance(chosen, Mapping):
            raise UsageError(f"{self.name} returned {_shown(chosen)}; it must return a cut for every edge, such as "
                             f"{{'{names[0]}': 3}}.")
        for edge in names:
            if edge not in chosen:
                raise UsageError(f"{self.name} chose no cut for {edge}; it must choose one for each of "
                                 f"{', '.join(names)}.")
        for edge in chosen:
            if edge not in names:
                raise UsageError(f"{self.name} chose a cut for {edge!r}; the edges are {', '.join(names)}.")
        return [dataclasses.replace(forecast, options=self._options(chosen[forecast.edge], forecast))
                for forecast in forecasts]

    def _options(self, choice: Any, forecast: EdgeForecast) -> tuple[Option, ...]:
        """Those with the cut, or the cut and codec, that was chosen."""
        cut, codec = choice if isinstance(choice, tuple) and len(choice) == 2 else (choice, None)
        try:
            cut = operator.index(cut)
        except TypeError:
            raise UsageError(f"{self.name} chose {_shown(choice)} for {forecast.edge}; write a cut, or a cut and a "
                             "codec, such as 3 or (3, 'int8').") from None
        options = [one for one in forecast.options if one.cut == cut]
        if not options:
            cuts = ", ".join(map(str, sorted({one.cut for one in forecast.options})))
            raise UsageError(f"{self.name} chose cut {cut} for {forecast.edge}; its cuts are now {cuts}.")
        kept = tuple(one for one in options if codec in (None, one.codec))
        if not kept:
            codecs = ", ".join(dict.fromkeys(one.codec for one in options))
            raise UsageError(f"{self.name} chose the codec {codec!r} for {forecast.edge}; its codecs are now {codecs}.")
        return kept


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
