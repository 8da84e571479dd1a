"""`paceline tsn`: gate control lists for scheduled streams, and a simulation of them."""

from __future__ import annotations

import json
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from controller.runtime.listen_address import AddressType
from topologies.option_types import FiniteRange

if TYPE_CHECKING:
    from controller.tsn.network import TsnNetwork
    from controller.tsn.simulation import SimulationResult
    from controller.tsn.streams import Schedule, TsnStream

EXIT_REFUSED = 3

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_processing = click.option(
    "--processing-ns", type=click.IntRange(0, 10**9), default=2000, show_default=True, metavar="NS",
    help="From the last bit received by a bridge until it can send the frame; of a map, a file of links has its own.",
)  # fmt: skip
_sync_error = click.option(
    "--sync-error-ns", type=click.IntRange(0, 10**7), default=0, show_default=True, metavar="NS",
    help="Most by which the clock of a node is early or late.",
)  # fmt: skip


@click.group("tsn", epilog="Example: paceline tsn schedule streams.csv metro --taprio gates.sh")
def command() -> None:
    """Gate control lists for periodic streams (IEEE 802.1Qbv): make, export and simulate them.

    They are exported, not run here: Open vSwitch has no gates.
    """


@command.command(epilog="Example: paceline tsn schedule streams.csv metro --out schedule.json")
@click.argument("streams_file", metavar="STREAMS", type=_FILE)
@click.argument("network_name", metavar="NETWORK")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path),
              help="Write streams and gate control lists there as JSON.")  # fmt: skip
@click.option("--taprio", type=click.Path(dir_okay=False, path_type=Path),
              help="Write a tc command for every port there.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print streams and gate control lists as JSON.")
@click.option("--limit", "limit_s", type=FiniteRange(0, min_open=True), default=300.0, show_default=True,
              metavar="SECONDS", help="Time for the search if some stream finds no place at once.")  # fmt: skip
@_processing
@_sync_error
def schedule(
    streams_file: Path, network_name: str, out: Path | None, taprio: Path | None, as_json: bool, limit_s: float,
    processing_ns: int, sync_error_ns: int,
) -> None:  # fmt: skip
    """Schedule all streams of the file STREAMS on NETWORK, a map or a file of links, and simulate the result.

    STREAMS is CSV with the columns src, dst, size (bytes on the wire), period and deadline (ns). NETWORK is a map's
    name or file, or CSV with the columns link, rate (Gb/s), t_proc and t_prop (ns). If a stream is refused, all are
    told with their failure code (IEEE 802.1Q, Table 46-15), and the exit code is 3.
    """
    from controller.tsn.export import schedule_document, taprio_lines
    from controller.tsn.gate_lists import gate_lists
    from controller.tsn.scheduler import schedule as schedule_streams
    from controller.tsn.simulation import simulate

    network = _network(network_name, processing_ns, sync_error_ns)
    streams = _streams(streams_file, network)
    end_s = time.monotonic() + limit_s
    made = schedule_streams(network, streams, lambda: time.monotonic() < end_s)
    if made.refused:
        for refusal in made.refused:
            click.echo(f"refused with code {refusal.code.value}: {refusal.reason}", err=True)
        raise SystemExit(EXIT_REFUSED)
    lists = gate_lists(network, made)
    document = schedule_document(made, lists)
    _write(out, json.dumps(document, indent=1) + "\n")
    _write(taprio, "".join(line + "\n" for line in taprio_lines(lists)))
    if as_json:
        click.echo(json.dumps(document, indent=1))
        return
    _print_schedule(network, made, document)
    try:
        _print_result(simulate(network, document))
    except ValueError as error:
        click.echo(f"Not simulated: {error}.")


@command.command(epilog="Example: paceline tsn simulate schedule.json metro --cycles 10")
@click.argument("schedule_file", metavar="SCHEDULE", type=_FILE)
@click.argument("network_name", metavar="NETWORK")
@click.option("--cycles", type=click.IntRange(1, 1000), default=2, show_default=True,
              help="Hyperperiods of all streams.")  # fmt: skip
@_processing
@_sync_error
def simulate(schedule_file: Path, network_name: str, cycles: int, processing_ns: int, sync_error_ns: int) -> None:
    """Simulate the gate control lists of SCHEDULE, as `paceline tsn schedule --out` writes them.

    Only the lists and the instants of the talkers are read. Best effort fills every port, and the clocks of half of the
    nodes are early, those of the others late, by the whole sync error. The exit code is 3 if a frame is lost or late.
    """
    from controller.tsn.simulation import simulate as run

    network = _network(network_name, processing_ns, sync_error_ns)
    clocks_ns = {
        node: sync_error_ns if number % 2 else -sync_error_ns for number, node in enumerate(sorted(network.nodes))
    }
    try:
        result = run(network, json.loads(schedule_file.read_text()), cycles, clocks_ns=clocks_ns)
    except (ValueError, OSError, RecursionError) as error:
        raise click.ClickException(f"{schedule_file} is no schedule: {error}") from error
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        sentence = f"{schedule_file} is no schedule for {network_name}: {error} is missing or not what it must be"
        raise click.ClickException(sentence) from error
    _print_result(result)
    if result.lost or result.late:
        raise SystemExit(EXIT_REFUSED)


@command.command(epilog="Example: paceline tsn receive --listen 0.0.0.0:5004 --to 127.0.0.1:6004 --offset 2")
@click.option("--listen", type=AddressType(), required=True, help="Where the datagrams of both paths arrive.")
@click.option("--to", type=AddressType(), required=True, help="Where each datagram is passed on, once.")
@click.option("--offset", type=click.IntRange(0, 1400), default=0, show_default=True, metavar="BYTES",
              help="Bytes before the sequence number, 16 bits in network order; 2 for RTP.")  # fmt: skip
@click.option("--history", type=click.IntRange(1, 32_768), default=1024, show_default=True,
              help="How many numbers behind the newest are still known.")  # fmt: skip
def receive(listen: tuple[str, int], to: tuple[str, int], offset: int, history: int) -> None:
    """Receive a seamless flow for another program: UDP that comes over two paths goes on once.

    Copies are known by their sequence number, per sender (IEEE 802.1CB, vector recovery). Ends with a signal and tells
    what was passed on and dropped.
    """
    from controller.runtime.seamless_receiver import SeamlessReceiver

    with socket.socket(socket.AF_INET6 if ":" in listen[0] else socket.AF_INET, socket.SOCK_DGRAM) as receiving:
        try:
            receiving.bind(listen)
            receiver = SeamlessReceiver(receiving, to, offset, history)
        except OSError as error:
            sentence = f"cannot receive at {listen[0]}:{listen[1]} for {to[0]}:{to[1]}: {error.strerror or error}"
            raise click.ClickException(sentence) from error
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
        click.echo(f"receiving at {listen[0]}:{listen[1]} for {to[0]}:{to[1]}")
        try:
            receiver.serve()
        except KeyboardInterrupt:
            counts = receiver.counts
            click.echo(f"{counts.passed} passed on, {counts.copies} copies dropped, {counts.rogue} out of range, "
                       f"{counts.short} without a number, {counts.refused} not taken")  # fmt: skip
        finally:
            receiver.close()


def _network(name: str, processing_ns: int, sync_error_ns: int) -> TsnNetwork:
    from controller.errors import StartError
    from controller.runtime.environment import load_network
    from controller.tsn.instance_files import InstanceError, network_from_csv
    from controller.tsn.network import tsn_network_from_map

    if name.endswith(".csv"):
        try:
            return network_from_csv(_text(Path(name)), Path(name).stem, sync_error_ns)
        except InstanceError as error:
            raise click.ClickException("\n".join(f"{name}: {mistake}" for mistake in error.mistakes)) from error
    try:
        network = load_network(name)
    except StartError as error:
        raise click.ClickException(error.detail) from error
    if network.has_shapers:
        raise click.ClickException(f"{name}: its ports have shapers (idle_slope_gbps, ats); gate control lists are for "
                                   "ports of strict priority alone")  # fmt: skip
    return tsn_network_from_map(network, processing_ns, sync_error_ns)


def _streams(file: Path, network: TsnNetwork) -> list[TsnStream]:
    from controller.tsn.instance_files import InstanceError, streams_from_csv

    try:
        return streams_from_csv(_text(file), network)
    except InstanceError as error:
        raise click.ClickException("\n".join(f"{file}: {mistake}" for mistake in error.mistakes)) from error


def _text(file: Path) -> str:
    try:
        return file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise click.ClickException(f"{file} cannot be read: {reason}") from error


def _write(out: Path | None, text: str) -> None:
    if out is None:
        return
    try:
        out.write_text(text)
    except OSError as error:
        raise click.ClickException(f"{out} cannot be written: {error.strerror}") from error


def _print_schedule(network: TsnNetwork, made: Schedule, document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    title = f"{network.name}: {len(made.streams)} streams"
    table = Table("stream", "from", "to", "every us", "sent at us", "latency us", "of at most us", title=title)
    for stream in document["streams"]:
        sent = " ".join(f"{frame['time_aware_offset_ns'] / 1000:g}" for frame in stream["frames"])
        latency_ns = max(stream["latency_ns"].values())
        times = f"{stream['interval_ns'] / 1e3:g}", sent, f"{latency_ns / 1e3:g}", f"{stream['max_latency_ns'] / 1e3:g}"
        table.add_row(stream["stream"], stream["talker"], " ".join(stream["listeners"]), *times)
    Console().print(table)


def _print_result(result: SimulationResult) -> None:
    sent = sum(found.sent for found in result.receptions.values())
    click.echo(
        f"Simulated: {sent} frames to listeners beside {result.best_effort_frames} of best effort: {result.lost} lost, "
        f"{result.late} late, jitter {result.jitter_ns} ns."
    )
