"""Limits of the process, and the option that changes one of them."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TypeVar

import click

from controller.api.limits import RestLimits
from controller.openflow.limits import OpenFlowLimits

MAX_DESCRIPTORS = 65_536

Group = TypeVar("Group", RestLimits, OpenFlowLimits)


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of both interfaces."""

    rest: RestLimits = field(default_factory=RestLimits)
    openflow: OpenFlowLimits = field(default_factory=OpenFlowLimits)


class LimitType(click.ParamType[tuple[str, str, float]]):
    """NAME=VALUE, for example rest.header_bytes=8192."""

    name = "NAME=VALUE"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str, float]:
        """Parse a limit, or fail with the known names."""
        name, _, text = str(value).partition("=")
        known = [f"{group.name}.{limit.name}" for group in fields(Limits) for limit in fields(_DEFAULTS[group.name])]
        if name not in known:
            self.fail(f"{value!r}: there is no limit {name!r}; the limits are {', '.join(known)}.", param, ctx)
        group, _, limit = name.partition(".")
        kind = type(getattr(_DEFAULTS[group], limit))
        try:
            number = kind(text)
        except ValueError:
            number = 0
        if not 0 < number < float("inf"):
            what = "a whole number" if kind is int else "a number"
            self.fail(f"{value!r}: {name} is {what} above 0, for example {name}={_example(group, limit)}.", param, ctx)
        return group, limit, number


_DEFAULTS: dict[str, RestLimits | OpenFlowLimits] = {"rest": RestLimits(), "openflow": OpenFlowLimits()}


def _example(group: str, limit: str) -> str:
    return f"{getattr(_DEFAULTS[group], limit):g}"


def limits_from(chosen: Sequence[tuple[str, str, float]]) -> Limits:
    """The limits with these changes, after raising the limit of open files, within which REST connections must stay."""
    rest = {limit: value for group, limit, value in chosen if group == "rest"}
    openflow = {limit: value for group, limit, value in chosen if group == "openflow"}
    descriptors = raise_descriptor_limit()
    return Limits(_changed(RestLimits(), rest).within(descriptors), _changed(OpenFlowLimits(), openflow))


def _changed(group: Group, changes: dict[str, float]) -> Group:
    return replace(group, **changes)  # type: ignore[arg-type]


def raise_descriptor_limit() -> int:
    """Raise the soft limit of open files to the hard one, at most MAX_DESCRIPTORS; returns the limit in force."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return MAX_DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
