"""One emulation from beginning to end: checks, network, controller, and nothing left behind."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType

from emulation.controller_process import ControllerProcess, wait_until_connected
from emulation.network import Emulation, EmulationSettings
from machine import kernel_settings
from machine.errors import EmulationError
from machine.undo_journal import UndoJournal
from topologies import running_emulation
from topologies.loader import load_map

Say = Callable[[str], None]


@contextlib.contextmanager
def emulate(settings: EmulationSettings, own_controller: bool = True, say: Say = print) -> Iterator[Emulation]:
    """A running emulation of a map, with its controller; everything is gone when the block ends.

    Raises: MapError, EmulationError.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end_on_signal)
    plan = load_map(str(settings.map_path))
    ports = (settings.openflow, ("127.0.0.1", settings.rest_port)) if own_controller else ()
    kernel_settings.check(ports, settings.datapath)
    clear_the_way(say)
    with Emulation(plan, settings) as emulation:
        if own_controller:
            log = running_emulation.DIRECTORY / "controller.log"
            controller = ControllerProcess(
                settings.map_path, settings.openflow, settings.rest_port, log, emulation.journal,
                settings.pki,
            )  # fmt: skip
            try:
                emulation.build()
                controller.wait_until_ready(settings.ready_timeout_s, emulation.seek_controller)
                emulation.announce()
                yield emulation
            finally:
                controller.stop()
        else:
            emulation.build()
            emulation.seek_controller()
            wait_until_connected(plan, settings.ready_timeout_s)
            emulation.announce()
            yield emulation


def describe(emulation: Emulation, say: Say) -> None:
    """Say what runs, and what is not emulated."""
    plan = emulation.plan
    say(
        f"map {plan.name}: {len(plan.switches)} switches, {len(plan.links)} links, {len(plan.edges)} edges; "
        f"scale: 1 Gb/s of fibre = {plan.scale_mbps_per_gbps:g} Mb/s here; frames of {plan.mtu_bytes} bytes"
    )
    if emulation.propagation_emulated:
        say("propagation delay: emulated with netem")
    else:
        say("propagation delay: not emulated (this kernel has no netem); it is accounted for in the bounds")
    if not emulation.vswitch.real_time:
        say("ovs-vswitchd runs without real-time priority (not permitted here): expect more jitter")
    say(f"controller: {emulation.settings.controller_url} from the hosts, Swagger at /docs")
    if emulation.settings.pki:
        say(f"TLS with client certificates; for clients: export PACELINE_CA={emulation.settings.pki / 'ca.crt'}; "
            f"for training too: paceline train --tls-dir {emulation.settings.pki}")


def clean(say: Say) -> None:
    """Undo what a crashed emulation has left behind.

    Raises: EmulationError if one is still running, or something could not be undone.
    """
    if (alive := running_emulation.read()) is not None:
        raise EmulationError(f"map {alive.map_name} is running (pid {alive.pid}); end it there first")
    journal = UndoJournal(running_emulation.DIRECTORY)
    if not journal.exists():
        say("nothing to clean up")
        return
    if failures := journal.undo():
        raise EmulationError("\n".join(failures))
    running_emulation.remove()
    say("cleaned up after an emulation that did not end well")


def _end_on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise SystemExit(128 + number)


def clear_the_way(say: Say) -> None:
    """Clean up after an emulation that has crashed.

    Raises: EmulationError if one is running.
    """
    if running_emulation.read() is not None or UndoJournal(running_emulation.DIRECTORY).exists():
        clean(say)
