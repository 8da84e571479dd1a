"""What switches are told, step by step; every step is confirmed before the next."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from controller.dataplane.entries import SwitchState
from controller.dataplane.pipeline import wanted_states
from controller.dataplane.update_order import Change
from controller.domain.network import Network
from controller.domain.reservation import Reservation
from controller.switches.state_tracker import SwitchStateTracker

Step = dict[str, list[Change]]
"""By switch, in order."""


def told(
    network: Network, before: Iterable[Reservation], after: Iterable[Reservation], unknown: Collection[str] = ()
) -> list[Step]:
    """When those reservations become these; what the `unknown` switches hold is not known."""
    gone, come = ({each.id: each for each in some} for some in (before, after))
    states = wanted_states(network, gone.values())
    return told_from(network, {name: state for name, state in states.items() if name not in unknown}, gone, come)


def told_from(
    network: Network,
    held: Mapping[str, SwitchState],
    gone: Mapping[str, Reservation],
    come: Mapping[str, Reservation],
) -> list[Step]:
    """When switches hold this, should have held the one, and should now hold the other."""
    holdings = SwitchStateTracker(network)
    holdings.set_intended(gone)
    touched = {name: set(keys) for name, state in held.items() for keys in holdings.learn(name, state).values()}
    for name, keys in holdings.set_intended({**dict.fromkeys(gone), **come}).items():
        touched.setdefault(name, set()).update(keys)
    steps = [step for step in holdings.update_stages(touched, all_of_them=False) if isinstance(step, dict)]
    said = [{name: changes for name, changes in step.items() if changes} for step in steps]
    return [step for step in said if step]  # a step without a change only has the switches confirm what they were told


def kinds(steps: Iterable[Step]) -> list[dict[str, list[str]]]:
    """What is done in each step, by switch."""
    return [{name: [change.kind for change in changes] for name, changes in step.items()} for step in steps]
