"""One emulation from start to end: checks, network, controller, clean-up."""

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
from topologies.map_file.loader import load_map
from topologies.maps import MANAGEMENT_GATEWAY, MAX_EMULATED_MBPS, Map

Log = Callable[[str], None]


@contextlib.contextmanager
def emulate(settings: EmulationSettings, own_controller: bool = True, log: Log = print) -> Iterator[Emulation]:
    """Run an emulation of a map, with its controller, within the block; all changes are undone afterwards.

    Raises: MapError, EmulationError.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end_on_signal)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background processes with it ignored
    topology = load_map(str(settings.map_path))
    check_map(topology)
    ports = (*settings.openflow, ("127.0.0.1", settings.rest_port)) if own_controller else ()
    kernel_settings.check_requirements(ports, settings.datapath)
    clean_up_after_crash(log)
    with Emulation(topology, settings) as emulation:
        if own_controller:
            controller = _start_controller(emulation)
            try:
                emulation.build()
                controller.wait_until_ready(settings.ready_timeout_s, emulation.connect_switches)
                emulation.write_run_file()
                yield emulation
            finally:
                controller.stop()
        else:
            emulation.build()
            emulation.connect_switches()
            wait_until_connected(topology, settings.ready_timeout_s)
            emulation.write_run_file()
            yield emulation


def check_map(topology: Map) -> None:
    """Check that the links and ports of a map can be emulated.

    Raises: EmulationError.
    """
    if too_fast := [link for link in topology.links if topology.rate_bps(link) > MAX_EMULATED_MBPS * 1e6]:
        ends, rate_mbps = "-".join(too_fast[0].ends), topology.rate_bps(too_fast[0]) / 1e6
        raise EmulationError(
            f"{topology.name} describes a network that exists: {ends} has {rate_mbps:g} Mb/s, and at most "
            f"{MAX_EMULATED_MBPS:g} can be emulated; lower scale_mbps_per_gbps for an emulation"
        )
    if topology.shapers is not None:
        raise EmulationError(
            f"{topology.name} has {topology.shapers}; Open vSwitch has no such ports: run the controller alone, with "
            "switches that have them"
        )


def _start_controller(emulation: Emulation) -> ControllerProcess:
    """Start the controller with an empty ledger; both are recorded in the journal."""
    settings, directory = emulation.settings, running_emulation.CONTROLLER_DIRECTORY
    emulation.journal.record_directory(directory)
    directory.mkdir(exist_ok=True)
    controller = ControllerProcess(
        settings.map_path, settings.openflow[0],
        [("127.0.0.1", settings.rest_port), (MANAGEMENT_GATEWAY, settings.rest_port)],
        f"sqlite:///{running_emulation.LEDGER}", running_emulation.DIRECTORY / "controller.log", settings.pki,
    )  # fmt: skip
    emulation.journal.record_process(controller.process.pid, "controller")
    return controller


def describe(emulation: Emulation, log: Log) -> None:
    """Log what is running and what is not emulated."""
    topology = emulation.topology
    log(
        f"map {topology.name}: {len(topology.switches)} switches, {len(topology.links)} links, "
        f"{len(topology.edges)} edges; scale: 1 Gb/s of fibre = {topology.scale_mbps_per_gbps:g} Mb/s emulated; "
        f"MTU {topology.mtu_bytes} bytes"
    )
    if emulation.propagation_emulated:
        log("propagation delay: emulated with netem")
    else:
        log("propagation delay: not emulated (this kernel has no netem), but included in the bounds")
    if not emulation.vswitch.real_time:
        log("ovs-vswitchd runs without real-time priority (not permitted here): expect more jitter")
    log(f"controller: {emulation.settings.controller_url} (from the hosts); REST documentation at /docs")
    if emulation.settings.pki:
        log(f"TLS with client certificates: export PACELINE_CA={emulation.settings.pki / 'ca.crt'} for clients, "
            f"paceline train --tls-dir {emulation.settings.pki} for training")


def clean_up(log: Log) -> None:
    """Undo the changes of a crashed emulation.

    Raises: EmulationError if an emulation is still running, or a change could not be undone.
    """
    if (running := running_emulation.read()) is not None:
        raise EmulationError(f"map {running.map_name} is running (pid {running.pid}); end that emulation first")
    journal = UndoJournal(running_emulation.DIRECTORY)
    if not journal.exists():
        log("nothing to clean up")
        return
    if failures := journal.undo():
        raise EmulationError("\n".join(failures))
    running_emulation.remove()
    log("cleaned up after an emulation that had crashed")


def _end_on_signal(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    raise SystemExit(128 + number)


def clean_up_after_crash(log: Log) -> None:
    """Clean up if an emulation has crashed before.

    Raises: EmulationError if one is running.
    """
    if running_emulation.read() is not None or UndoJournal(running_emulation.DIRECTORY).exists():
        clean_up(log)
