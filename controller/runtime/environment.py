"""Environment of the process: the map, the default ledger file, an emulation on the same machine."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from controller.domain.network import Network, network_from_map
from controller.errors import StartError
from topologies import running_emulation

if TYPE_CHECKING:
    from topologies.catalogue import MapOptions

log = logging.getLogger(__name__)


def load_network(map_name: str, options: MapOptions | None = None) -> Network:
    """Load the network of a map given by name or file; of a published network, with these options.

    Raises: StartError with the messages of the loader.
    """
    from topologies.catalogue import find_map
    from topologies.problems import MapError

    try:
        found = find_map(map_name, options)
    except MapError as error:
        raise StartError(str(error), exit_code=2) from error
    for note in found.notes:
        log.warning("map=%s note: %s", found.name, note)
    return network_from_map(found)


def default_ledger(map_name: str) -> str:
    """URL of the map's ledger file: in the run directory if it is writable, else in the user's state directory."""
    for directory in (running_emulation.DIRECTORY, Path.home() / ".local/state/paceline"):
        with contextlib.suppress(OSError):
            directory.mkdir(parents=True, exist_ok=True)
            if os.access(directory, os.W_OK):
                return f"sqlite:///{directory}/ledger-{map_name}.db"
    return "sqlite://"


def ledger_in_use(map_name: str) -> str:
    """The ledger of the emulation that runs this map on this machine with its own controller, else the default one."""
    note = running_emulation.read()
    if note is not None and note.map_name == map_name and running_emulation.LEDGER.exists():
        return f"sqlite:///{running_emulation.LEDGER}"
    return default_ledger(map_name)


def propagation_emulated(map_name: str) -> bool:
    """Whether an emulation of this map that emulates propagation delay runs on this machine."""
    emulation = running_emulation.read()
    return bool(emulation and emulation.map_name == map_name and emulation.propagation_emulated)
