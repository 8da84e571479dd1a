"""The text of `paceline --help`, made without click and without importing any command.

`importlib.metadata` would take longer than all the rest, so the entry points of other packages are read directly.
"""

from __future__ import annotations

import os
import sys

from trainer.errors import EXIT_NETWORK, EXIT_TRAINING, EXIT_USAGE

PLUGIN_GROUP = "paceline.commands"
"""The entry points by which other packages add commands."""

COMMANDS = {
    "train": ("trainer.cli.train", "train", "Train on the running emulation, or with --local on this machine."),
    "cloud": ("trainer.cli.train", "cloud", "Run the cloud node of a training run."),
    "edge": ("trainer.cli.train", "edge", "Run an edge node of a training run."),
    "sweep": ("trainer.cli.sweep", "sweep", "Train many combinations of settings and compare them."),
    "plan": ("trainer.cli.plan", "plan", "Print the cost of every cut, and the plan of a round."),
    "report": ("trainer.cli.report", "report", "Write an HTML report of a run."),
    "compare": ("trainer.cli.report", "compare", "Compare runs."),
    "export": ("trainer.cli.export", "export", "Write the trained model of a run as a file."),
    "predict": ("trainer.cli.export", "predict", "Print the predictions of a trained model for samples."),
    "reserve": ("trainer.cli.reserve", "reserve", "Reserve a rate or a transfer between two hosts."),
    "quote": ("trainer.cli.reserve", "quote", "Print the rate and bounds of a reservation without making it."),
    "reservations": ("trainer.cli.network", "reservations", "List, show, change or release reservations."),
    "network": ("trainer.cli.network", "network", "Print the links with reserved and free rates."),
    "paths": ("trainer.cli.operations", "paths", "Print the candidate paths between two hosts."),
    "lightpaths": ("trainer.cli.operations", "lightpaths", "List, show or move lightpaths."),
    "spectrum": ("trainer.cli.spectrum", "spectrum", "Print which slots of each span the lightpaths occupy."),
    "links": ("trainer.cli.operations", "links", "Take a link out of service, or put it back."),
    "ducts": ("trainer.cli.operations", "ducts", "Take a duct out of service, or put it back."),
    "events": ("trainer.cli.events", "events", "Print events, or follow them."),
    "health": ("trainer.cli.operations", "health", "Print whether the controller is in order."),
    "consistency": ("trainer.cli.operations", "consistency", "Compare or repair the switches' entries."),
    "audit": ("trainer.cli.operations", "audit", "Print the audit log: requests, tenants and responses."),
    "runs": ("trainer.cli.runs", "runs", "List, show, pause and stop runs; print what happened in one."),
    "web": ("trainer.cli.web", "web", "Serve a page with the network and the runs, live."),
    "units": ("trainer.cli.units", "units", "Write systemd units of controller, cloud and edges."),
    "metrics": ("trainer.cli.operations", "metrics", "Print the metrics for Prometheus."),
}
"""Name -> module, attribute and one line of help of the trainer's own commands."""

OWN_PLUGINS = {
    "bounds": "Print delay bounds of the flows of a network file.",
    "controller": "Run the network controller: OpenFlow and the REST API.",
    "ledger": "Copy the ledger of a controller to another database.",
    "maps": "List the maps, or show, draw and export one.",
    "pki": "Create test certificates.",
    "switch-check": "Ask a switch what it can do, and print what would not hold.",
    "token": "Add, list and revoke bearer tokens of the REST API.",
    "tsn": "Make and simulate gate control lists for scheduled streams.",
}
"""One line of help of the commands that the other half and the maps add; loading them would take seconds."""

_TEXT = """\
Usage: paceline [OPTIONS] COMMAND [ARGS]...

  Split training of neural networks over reserved, deterministic network flows.

  Example: paceline train --local

Options:
  --version  Show the version and exit.
  --verbose  Log to stderr.
  --help     Show this message and exit.

Commands:
{commands}

  Exit codes: 0 success; 1 a bug in Paceline (of switch-check: a switch lacks
  something); {usage} usage error; {network} network or controller error; {training} training error;
  130 interrupted.
"""


def overview() -> str:
    """Return the help text of `paceline` with one line for every command."""
    lines = {name: line for name, (_, _, line) in COMMANDS.items()}
    lines |= {
        name: OWN_PLUGINS.get(name, f"See: paceline {name} --help")
        for name in sorted(plugin_commands()) if name not in COMMANDS
    }
    width = max(map(len, lines))
    return _TEXT.format(
        commands="\n".join(f"  {name:<{width}}  {line}" for name, line in lines.items()),
        usage=EXIT_USAGE, network=EXIT_NETWORK, training=EXIT_TRAINING,
    )


def plugin_commands() -> dict[str, tuple[str, str]]:
    """Return module and attribute of the commands that installed distributions add, by name."""
    commands: dict[str, tuple[str, str]] = {}
    for directory in sys.path:
        try:
            names = [entry.name for entry in os.scandir(directory or ".")]
        except OSError:  # not a directory, or a zip archive
            continue
        for name in names:
            if name.endswith((".dist-info", ".egg-info")):
                for command, target in _entry_points(f"{directory or '.'}/{name}/entry_points.txt"):
                    module, _, attribute = target.partition(":")
                    commands.setdefault(command, (module, attribute))
    return commands


def _entry_points(path: str) -> list[tuple[str, str]]:
    """Return name and target of the plugin commands in an entry_points.txt; empty if there is no such file."""
    try:
        with open(path, encoding="utf-8") as file:  # noqa: PTH123 - importing pathlib would take longer
            text = file.read()
    except OSError:
        return []
    if f"[{PLUGIN_GROUP}]" not in text:
        return []
    section = text.partition(f"[{PLUGIN_GROUP}]")[2].partition("\n[")[0]
    pairs = [line.partition("=") for line in section.splitlines() if "=" in line]
    return [(name.strip(), target.strip()) for name, _, target in pairs]
