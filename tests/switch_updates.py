"""The changes sent to switches, stage by stage."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from controller.dataplane.entries import SwitchState, entries_of
from controller.dataplane.pipeline import intended_states
from controller.dataplane.update_order import Change
from controller.domain.network import Network
from controller.domain.reservation import Reservation
from controller.switches.state_tracker import SwitchStateTracker

StageChanges = dict[str, list[Change]]
"""By switch, in order."""


def updates(
    network: Network, before: Iterable[Reservation], after: Iterable[Reservation], unknown: Collection[str] = ()
) -> list[StageChanges]:
    """The update from one set of reservations to another; the state of the `unknown` switches is not known."""
    old, new = ({reservation.id: reservation for reservation in some} for some in (before, after))
    states = intended_states(network, old.values())
    return updates_from(network, {name: state for name, state in states.items() if name not in unknown}, old, new)


def updates_from(
    network: Network,
    applied: Mapping[str, SwitchState],
    old: Mapping[str, Reservation],
    new: Mapping[str, Reservation],
) -> list[StageChanges]:
    """The update of switches with these applied states from one set of reservations to another."""
    tracker = SwitchStateTracker(network)
    tracker.set_intended(old)
    read = {name: entries_of(state) for name, state in applied.items()}
    keys = {name: set(keys) for name, each in read.items() for keys in tracker.set_applied(name, each).values()}
    for name, changed in tracker.set_intended({**dict.fromkeys(old), **new}).items():
        keys.setdefault(name, set()).update(changed)
    stages = [stage for stage in tracker.update_stages(keys, require_all=False) if isinstance(stage, dict)]
    non_empty = [{name: changes for name, changes in stage.items() if changes} for stage in stages]
    return [stage for stage in non_empty if stage]  # a stage without changes only confirms earlier ones


def kinds(stages: Iterable[StageChanges]) -> list[dict[str, list[str]]]:
    """The kinds of the changes of each stage, by switch."""
    return [{name: [change.kind for change in changes] for name, changes in stage.items()} for stage in stages]
