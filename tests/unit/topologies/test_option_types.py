"""Numbers on command lines are finite."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from topologies.option_types import FiniteRange
from trainer.cli.group import paceline


@pytest.mark.parametrize("text", ["nan", "NaN", "inf", "-inf", "1e999"])
def test_what_is_no_finite_number_is_refused(text: str) -> None:
    for kind in (FiniteRange(0), FiniteRange(0, min_open=True), FiniteRange(max=5), FiniteRange()):
        with pytest.raises(click.BadParameter):
            kind.convert(text, None, None)


def test_limits_are_those_of_click() -> None:
    assert FiniteRange(0, 5).convert("2.5", None, None) == 2.5
    with pytest.raises(click.BadParameter, match="not in the range"):
        FiniteRange(0, 5).convert("5.1", None, None)


def commands(group: click.Group, name: str = "paceline") -> Iterator[tuple[str, click.Command]]:
    with click.Context(group) as context:
        for child in group.list_commands(context):
            command = group.get_command(context, child)
            assert command is not None
            yield f"{name} {child}", command
            if isinstance(command, click.Group):
                yield from commands(command, f"{name} {child}")


def test_no_option_with_limits_takes_nan() -> None:
    """Click's own range takes it, since nan is neither below nor above a limit."""
    ranges = {
        f"{name} {option.opts[0]}": option.type
        for name, command in commands(paceline) for option in command.params
        if isinstance(option.type, click.FloatRange)
    }  # fmt: skip
    assert {name for name, kind in ranges.items() if not isinstance(kind, FiniteRange)} == set()
    assert "paceline controller --reservation-days" in ranges
