"""HOST[:PORT] that may get events."""

from __future__ import annotations

import click

from controller.telemetry.sink_delivery import Sink, sink_of


class SinkType(click.ParamType[Sink]):
    """A host by name or address, and its port; 443 if left out."""

    name = "HOST[:PORT]"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Sink:
        """Parse HOST[:PORT], or fail with an example."""
        if isinstance(value, tuple):
            return value
        sink = None if set(str(value)) & set("/?#") else sink_of(f"https://{value}")
        if sink is None:
            self.fail(f"{value!r} is not a host with a port; write it as events.example.com:443.", param, ctx)
        return sink
