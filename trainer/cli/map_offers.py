"""What a map offers to the edges of `paceline plan`, unused or as a controller quotes it, and the node each goes to."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from topologies.maps import Map
from trainer.config.settings import RunSettings
from trainer.errors import ReservationRefusedError
from trainer.planning.plan import EdgeForecast, Offer

if TYPE_CHECKING:
    from trainer.planning.plan import RoundPlan
    from trainer.reservation.controller_client import ControllerClient
    from trainer.reservation.quote_planning import QuotedPlan, QuotePlanner

def served(
    forecasts: Sequence[EdgeForecast], offers: Mapping[str, Offer], micro: int
) -> tuple[list[EdgeForecast], dict[str, str]]:
    """Return the forecasts with the workers that serve the edges, and the node of every edge; one worker for each node.

    `offers`: towards every node.
    """
    from trainer.planning.worker_assignment import assign_workers

    if len(offers) == 1:
        return list(forecasts), dict.fromkeys((forecast.edge for forecast in forecasts), next(iter(offers)))
    nodes = assign_workers(forecasts, offers, micro, {node: node for node in offers}).workers
    return ([replace(forecast, worker=node) for forecast, node in zip(forecasts, nodes, strict=True)],
            {forecast.edge: node for forecast, node in zip(forecasts, nodes, strict=True)})


def unused_offers(network: Map, share: float) -> dict[str, Offer]:
    """Return the offers of an unused network, every flow on its shortest path, towards every node of the cloud."""
    import networkx as nx

    from trainer.reservation.api_types import path_links

    graph: nx.Graph[str] = nx.Graph()
    usable: dict[str, float] = {}
    for link, span in zip(network.links, network.span_names, strict=True):
        path = link.ends if "." not in span else (link.ends[0], span, link.ends[1])
        nx.add_path(graph, path, length=link.length_km / (len(path) - 1))
        for name in (*path_links(path), *path_links(path[::-1])):
            usable[name] = share * network.rate_bps(link)
    offers = {}
    for cloud in network.clouds:
        paths = {edge.name: nx.shortest_path(graph, edge.name, cloud.name, weight="length") for edge in network.edges}
        up = {edge: path_links(tuple(nodes)) for edge, nodes in paths.items()}
        down = {edge: tuple(reversed(path_links(tuple(reversed(nodes))))) for edge, nodes in paths.items()}
        offers[cloud.name] = Offer(up, down, usable, RunSettings().floor_bps)
    return offers


def quoted_plan(
    network: Map, url: str, share: float, forecasts: Sequence[EdgeForecast], micro: int, notify: Callable[[str], None]
) -> tuple[QuotedPlan, list[EdgeForecast], dict[str, str]]:
    """Plan with quotes of the controller, as the cloud does; nothing is reserved. Returns what `served` does, too."""
    from trainer.planning.planner import plan_round
    from trainer.reservation.controller_client import ControllerClient
    from trainer.reservation.quote_planning import QuotePlanner

    with contextlib.closing(ControllerClient(url, 0, notify)) as controller:
        quote_planner = QuotePlanner(RunSettings().floor_bps)
        names = [forecast.edge for forecast in forecasts]
        placed, nodes = list(forecasts), dict.fromkeys(names, network.clouds[0].name)
        if len(network.clouds) > 1:
            placed, nodes = served(forecasts, _quoted_offers(network, controller, quote_planner, names, share, notify),
                                   micro)

        def plan_for(offer: Offer, keep_cuts: bool = True) -> RoundPlan:  # noqa: ARG001 - there are no cuts before
            return plan_round(placed, offer, micro)

        return quote_planner.plan(controller, plan_for, nodes, share, None), placed, nodes


def _quoted_offers(
    network: Map, controller: ControllerClient, quote_planner: QuotePlanner, edges: Sequence[str], share: float,
    notify: Callable[[str], None],
) -> dict[str, Offer]:
    """Return the offers towards the nodes of the cloud that all edges reach.

    Raises: ReservationRefusedError if there is none, ControllerUnreachableError.
    """
    offers, refusal = {}, None
    for node in network.clouds:
        try:
            offers[node.name] = quote_planner.offer(controller, dict.fromkeys(edges, node.name), share)
        except ReservationRefusedError as error:
            notify(f"{error} No edge is assigned to {node.name}.")
            refusal = error
    if refusal is not None and not offers:
        raise refusal
    return offers
