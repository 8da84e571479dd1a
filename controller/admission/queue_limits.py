"""Checks proven backlogs against the queues of ports and words the refusal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from controller.admission.live_reservations import LiveReservations
from controller.calculus.failure_bounds import Backlog
from controller.calculus.network_bounds import NoBound
from controller.domain.network import Network
from controller.domain.path import link_names
from controller.domain.route import Route
from controller.errors import NoBuffer


def overfull_queue(
    network: Network, routes: Mapping[str, Route], crowded: Sequence[Backlog], others: LiveReservations
) -> NoBuffer | None:
    """The refusal for the fullest queue that is too small with the requested flows; None if there is none.

    `routes`: those of the requested flows by name. `others`: all other reservations; a queue that is too small for them
    alone, because the map has changed, does not matter to requests that leave its backlog as it is.
    """
    fullest: tuple[float, Backlog, int] | None = None
    for backlog in crowded:
        queue_bytes = network.links[backlog.link].queue_bytes
        excess = backlog.backlog_bytes / queue_bytes
        if excess <= 1 or (fullest and excess <= fullest[0]):
            continue
        others_bytes = _backlog_bytes(others, backlog)
        if others_bytes < backlog.backlog_bytes:
            fullest = excess, backlog, max(0, queue_bytes - others_bytes)
    return None if fullest is None else _refusal(network, routes, *fullest[1:])


def _backlog_bytes(others: LiveReservations, backlog: Backlog) -> int:
    try:
        return others.bounds.backlog_bytes(backlog.link, backlog.failure)
    except NoBound:
        return backlog.backlog_bytes


def _refusal(network: Network, routes: Mapping[str, Route], backlog: Backlog, free_bytes: int) -> NoBuffer:
    link, queue_bytes = backlog.link, network.links[backlog.link].queue_bytes
    crossing = [name for name, route in routes.items() if link in _links(route)]
    flow = (crossing or list(routes))[0]
    while_down = f" while {backlog.failure} is down" if backlog.failure else ""
    sentence = (
        f"{flow}: up to {backlog.backlog_bytes} bytes could wait at {link}{while_down}; its queue holds {queue_bytes}, "
        f"of which others leave {free_bytes}."
    )
    facts = {"flow": flow, "link": link, "failure": backlog.failure, "backlog_bytes": backlog.backlog_bytes}
    return NoBuffer(sentence, **facts, queue_bytes=queue_bytes, free_bytes=free_bytes)


def _links(route: Route) -> set[str]:
    return {*link_names(route.path), *link_names(route.backup or ())}
