"""What starts the workers of the cloud on Ray, for `paceline cloud`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.config.settings import RunSettings

if TYPE_CHECKING:
    from trainer.cloud.edge_manager import Workers
    from trainer.cloud.ray_workers import RayWorkers


def starter(
    settings: RunSettings, host: str, name: str, ca: Path | None, cert: Path | None, key: Path | None,
    token_file: Path | None,
) -> Callable[[Callable[[str], None]], contextlib.AbstractContextManager[Workers]] | None:
    """Return what starts the workers on Ray; None without them. Every machine needs the files at the same paths."""
    if settings.ray is None:
        return None
    from trainer.cloud.ray_workers import CloudPlace, RayWorkers
    from trainer.transport.credentials import load_credentials

    ca, cert, key, token_file = (None if path is None else path.resolve() for path in (ca, cert, key, token_file))
    load = partial(load_credentials, True, ca, cert, key, token_file)
    address, number, edges, device = settings.ray, settings.ray_workers, len(settings.edges), settings.device

    def start(notify: Callable[[str], None]) -> RayWorkers:
        reserves = settings.controller is not None and not settings.best_effort
        place = CloudPlace(host, name, _cloud_nodes(settings, notify), reserves)
        return RayWorkers(address, number, edges, load, device, place, notify)

    return start


def _cloud_nodes(settings: RunSettings, notify: Callable[[str], None]) -> dict[str, str]:
    """Return the nodes of the cloud on the controller's map by their addresses; none without a controller.

    Raises: ControllerUnreachableError if it does not answer and bandwidth is to be reserved.
    """
    from trainer.errors import ControllerUnreachableError
    from trainer.reservation.controller_client import ControllerClient

    if settings.controller is None:
        return {}
    retries = 0 if settings.best_effort else settings.controller_retries
    with contextlib.closing(ControllerClient(settings.controller, retries, notify)) as client:
        try:
            nodes = client.network_json()["nodes"]
        except ControllerUnreachableError:
            if not settings.best_effort:
                raise
            return {}
    return {node["ip"]: node["name"] for node in nodes if node["kind"] == "cloud"}
