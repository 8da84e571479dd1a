"""What is around the process: its map, its ledger's file, an emulation on the same machine."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from controller.domain.network import Network, network_from_map
from controller.errors import StartError
from topologies import running_emulation


def load_network(map_name: str) -> Network:
    """The network of a map by name or file.

    Raises: StartError with the loader's sentences.
    """
    from topologies.loader import load_map
    from topologies.problems import MapError

    try:
        return network_from_map(load_map(map_name))
    except MapError as error:
        raise StartError(str(error), exit_code=2) from error


def default_ledger(map_name: str) -> str:
    """A file for the map: among the run files if we may write there, else in the user's state directory."""
    for directory in (running_emulation.DIRECTORY, Path.home() / ".local/state/paceline"):
        with contextlib.suppress(OSError):
            directory.mkdir(parents=True, exist_ok=True)
            if os.access(directory, os.W_OK):
                return f"sqlite:///{directory}/ledger-{map_name}.db"
    return "sqlite://"


def propagation_emulated(map_name: str) -> bool:
    """Whether an emulation of this map runs here that delays packets as the fibre would."""
    note = running_emulation.read()
    return bool(note and note.map_name == map_name and note.propagation_emulated)
