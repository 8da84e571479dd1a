"""Metrics as event files of TensorBoard: DIRECTORY/RUN/events.out.tfevents.*, written without TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class TensorBoardSink:
    """Writes the event file of one run; a run that is resumed gets a further one in the same directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._writer: Any = None

    def open(self, run: str, config: Mapping[str, Any]) -> None:
        """Create the file, with the settings as a text."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.plugins.text.metadata import create_summary_metadata
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
        from tensorboard.util.tensor_util import make_tensor_proto

        self._writer = EventFileWriter(str(self._directory / run))
        rows = "\n".join(f"| {name} | {value} |" for name, value in config.items())
        event = Event(step=0)
        value = event.summary.value.add(tag="settings", metadata=create_summary_metadata("settings", ""))
        value.tensor.CopyFrom(make_tensor_proto([f"| setting | value |\n|---|---|\n{rows}"]))
        self._writer.add_event(event)
        self._writer.flush()

    def write(self, step: int, time_s: float, metrics: Mapping[str, float]) -> None:
        """Add scalars, and write them out."""
        from tensorboard.compat.proto.event_pb2 import Event

        event = Event(step=step, wall_time=time_s)
        for name, number in metrics.items():
            event.summary.value.add(tag=name, simple_value=number)
        self._writer.add_event(event)
        self._writer.flush()

    def close(self, status: str) -> None:
        """Close the file."""
        del status
        self._writer.close()
