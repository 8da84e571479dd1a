"""Paceline's trainer, and its Python API: docs/python-api.md.

    from trainer import train, load_run

The API is imported on first use: commands that need neither start without it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.api import Settings, load_run, train
    from trainer.errors import TrainerError
    from trainer.records.run_reader import Run
    from trainer.records.trained_model import TrainedModel

__all__ = ["Run", "Settings", "TrainedModel", "TrainerError", "load_run", "train"]

_MODULES = {
    "Run": "trainer.records.run_reader",
    "Settings": "trainer.api",
    "TrainedModel": "trainer.records.trained_model",
    "TrainerError": "trainer.errors",
    "load_run": "trainer.api",
    "train": "trainer.api",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'trainer' has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES[name]), name)
