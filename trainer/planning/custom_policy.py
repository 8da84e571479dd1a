"""User-defined planning policy: a function that chooses every edge's cut and optionally its codec.

The choice is checked against the options of each edge; rates, period and delays follow from it as in any plan.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from trainer.errors import UsageError, UserCodeError
from trainer.planning.plan import EdgeForecast, Offer, Option, RoundPlan
from trainer.planning.planner import plan_round
from trainer.plugins import is_plugin_name, load_function


class CustomPolicy:
    """A planning policy given as `package.module:function`."""

    def __init__(self, name: str) -> None:
        """Raises: UsageError if the function cannot be loaded."""
        if not is_plugin_name(name):
            raise UsageError(f"--policy is {name!r}; write package.module:function.")
        self.name = name
        self._function = load_function(name)

    def plan(
        self,
        number: int,
        forecasts: Sequence[EdgeForecast],
        offer: Offer,
        micro_batches: int,
        current: Sequence[int] | None,
    ) -> RoundPlan:
        """Return the plan of a round with the chosen cuts; `proven_s` is the lower bound over all choices.

        Raises: UsageError if the function fails or its choice is not possible, PlanError.
        """
        names = [forecast.edge for forecast in forecasts]
        try:
            chosen = self._function(
                number=number, forecasts=tuple(forecasts), offer=offer, micros=micro_batches,
                current=None if current is None else dict(zip(names, current, strict=True)),
            )
        except UserCodeError as error:
            raise UserCodeError(str(error).replace(" failed:", f" failed in round {number}:", 1)) from error
        plan = plan_round(self._restricted(chosen, forecasts), offer, micro_batches)
        return dataclasses.replace(plan, proven_s=plan_round(forecasts, offer, micro_batches).proven_s)

    def _restricted(self, chosen: Any, forecasts: Sequence[EdgeForecast]) -> list[EdgeForecast]:
        """Return every edge's forecast restricted to the chosen options."""
        names = [forecast.edge for forecast in forecasts]
        if not isinstance(chosen, Mapping):
            raise UsageError(f"{self.name} returned {_shortened(chosen)}; it must return a cut for every edge, such as "
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
        """Return the options with the chosen cut and, if given, codec."""
        cut, codec = choice if isinstance(choice, tuple) and len(choice) == 2 else (choice, None)
        try:
            cut = operator.index(cut)
        except TypeError:
            raise UsageError(f"{self.name} chose {_shortened(choice)} for {forecast.edge}; write a cut, or a cut and a "
                             "codec, such as 3 or (3, 'int8').") from None
        options = [option for option in forecast.options if option.cut == cut]
        if not options:
            cuts = ", ".join(map(str, sorted({option.cut for option in forecast.options})))
            raise UsageError(f"{self.name} chose cut {cut} for {forecast.edge}; its possible cuts are {cuts}.")
        matching = tuple(option for option in options if codec in (None, option.codec))
        if not matching:
            codecs = ", ".join(dict.fromkeys(option.codec for option in options))
            raise UsageError(
                f"{self.name} chose the codec {codec!r} for {forecast.edge}; its allowed codecs are {codecs}."
            )
        return matching


def _shortened(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
