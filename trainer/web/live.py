"""Fragments of a page that are sent again when they change. Source: WHATWG HTML, "Server-sent events"."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from trainer.web.templating import Parts

Content = str | Parts

HEARTBEAT_S = 10.0
LEAST_PAUSE_S = 0.15
"""Changes that follow each other faster are sent together."""


@dataclass(frozen=True, slots=True)
class Fragment:
    """A part of a page: the element with this id. `topics`: whose changes may change it.

    `poll_s`: it depends on files, too, so it is rendered anew in this interval; None: only after changes.
    """

    id: str
    topics: frozenset[str]
    render: Callable[[], Content | Awaitable[str]]
    poll_s: float | None = None

    async def content(self) -> Content:
        """Return its content as it is now."""
        rendered = self.render()
        return rendered if isinstance(rendered, str | Parts) else await rendered


class Wakeups:
    """Wakes all streams of one event loop, from any thread."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._events: set[asyncio.Event] = set()
        self.is_closed = False

    def bind(self) -> None:
        """Use the running event loop."""
        self._loop = asyncio.get_running_loop()

    def wake(self) -> None:
        """Wake all streams. Thread-safe."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._set)

    def close(self) -> None:
        """End all streams."""
        self.is_closed = True
        self.wake()

    def _set(self) -> None:
        for event in self._events:
            event.set()

    def subscribe(self) -> asyncio.Event:
        """Return an event that is set at every wake-up."""
        event = asyncio.Event()
        self._events.add(event)
        return event

    def unsubscribe(self, event: asyncio.Event) -> None:
        """Wake this stream no more."""
        self._events.discard(event)


async def stream(
    fragments: Sequence[Fragment], versions: Callable[[], Mapping[str, int]], wakeups: Wakeups
) -> AsyncIterator[str]:
    """Yield the fragments as server-sent events: all of them first, then those that have changed."""
    wakeup = wakeups.subscribe()
    sent: dict[str, Content] = {}
    seen: dict[str, tuple[int, ...]] = {}
    poll_s = min((fragment.poll_s for fragment in fragments if fragment.poll_s), default=HEARTBEAT_S)
    try:
        yield "retry: 1000\n\n"
        while not wakeups.is_closed:
            wakeup.clear()
            now = versions()
            for fragment in fragments:
                version = tuple(now.get(topic, 0) for topic in sorted(fragment.topics))
                if fragment.poll_s is None and seen.get(fragment.id) == version:
                    continue
                seen[fragment.id] = version
                content = await fragment.content()
                before = sent.get(fragment.id)
                if before is not content and before != content:
                    sent[fragment.id] = content
                    yield _event(fragment.id, content, before)
            await asyncio.sleep(LEAST_PAUSE_S)
            try:
                await asyncio.wait_for(wakeup.wait(), poll_s)
            except TimeoutError:
                yield ": keep-alive\n\n"
    finally:
        wakeups.unsubscribe(wakeup)


def _event(id_: str, content: Content, before: Content | None) -> str:
    """Return the event that tells a content; of one with pieces those that have changed."""
    if isinstance(content, Parts) and isinstance(before, Parts):
        changes = content.changes_since(before)
        if changes is not None:
            return f"event: pieces\ndata: {json.dumps({'id': id_, **changes})}\n\n"
    return f"event: fragment\ndata: {json.dumps({'id': id_, 'html': str(content)})}\n\n"
