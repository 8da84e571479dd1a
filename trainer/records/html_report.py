"""HTML report of a run: one self-contained page, and its plots as PNG files."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

from trainer.records.plots import Plot, plots
from trainer.records.run_reader import Row, Run, beside_fedavg, key_figures

DPI = 150

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1080px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.5em; overflow-wrap: anywhere } h2 { font-size: 1.1em; margin: 2.2em 0 .6em }
h3 { font-size: 1em; font-weight: 600; margin: .6em 0 .2em }
table { border-collapse: collapse } td, th { padding: .15em .8em .15em 0; text-align: right; vertical-align: top }
td:first-child, th:first-child { text-align: left; white-space: nowrap }
.facts td { text-align: left; overflow-wrap: anywhere }
th { border-bottom: 1px solid #999; font-weight: 600 }
img { display: block; width: 100%; height: auto }
.tiles, .pair { display: grid; gap: 1em }
.tiles { grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)) }
.pair { grid-template-columns: repeat(auto-fit, minmax(min(340px, 100%), 1fr)) }
.pair { margin-top: 1.2em } .pair figure { max-width: 540px }
figure { margin: 0 }
.tile { border: 1px solid #ddd; border-radius: 8px; padding: .8em 1em; line-height: 1.35 }
.tile b { display: block; font-size: 1.7em; font-weight: 600 } .tile span { color: #555; font-size: .9em }
.broken, .tile .broken { color: #b03030 }
.wide { overflow-x: auto } .wide img { min-width: 760px }
summary { cursor: pointer }
@media (max-width: 600px) { td:first-child { white-space: normal } body { margin: 1em auto } }
@media (max-width: 420px) { .tiles { grid-template-columns: 1fr 1fr } .tile b { font-size: 1.35em } }
"""


def write_report(run: Run, page: Path, images: Path) -> list[Path]:
    """Write the page and the PNG files; return their paths."""
    images.mkdir(parents=True, exist_ok=True)
    files, sections = [], dict[str, list[str]]()
    for name, plot in plots(run).items():
        buffer = io.BytesIO()
        plot.figure.savefig(buffer, format="png", dpi=DPI)
        file = images / f"{name}.png"
        file.write_bytes(buffer.getvalue())
        files.append(file)
        sections.setdefault(plot.section, []).append(_figure(plot, buffer.getvalue()))
    page.write_text(_page(run, {name: _section(figures) for name, figures in sections.items()}), encoding="utf-8")
    return [page, *files]


def _figure(plot: Plot, png: bytes) -> str:
    title, data = html.escape(plot.title), base64.b64encode(png).decode()
    image = f'<img alt="{title}" src="data:image/png;base64,{data}">'
    return f'<figure><h3>{title}</h3>{f"""<div class="wide">{image}</div>""" if plot.wide else image}</figure>'


def _section(figures: list[str]) -> str:
    return figures[0] if len(figures) == 1 and "wide" in figures[0] else f'<div class="pair">{"".join(figures)}</div>'


def _page(run: Run, sections: Mapping[str, str]) -> str:
    name = html.escape(run.directory.name)
    error = run.summary.get("error")
    failure = f'<p class="broken">{html.escape(str(error))}</p>' if error else ""
    parts = {key: sections.get(key, "") for key in ("curves", "confusion", "delays", "cuts", "cost", "steps",
                                                    "promises")}
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Paceline: {name}</title><style>{STYLE}</style></head>
<body><h1>Training run {name}</h1>
{failure}{_tiles(run)}
{parts["curves"]}
{parts["confusion"]}
<h2>Settings and results</h2>
<table class="facts">{_facts(key_figures(run).items())}</table>
{_settings(run)}
{"".join(f"<h2>{heading}</h2>{body}" for heading, body in (
    ("Delays", parts["delays"]), ("Plan", parts["cuts"]), ("Cost", parts["cost"]), ("Steps", parts["steps"]),
    ("Promises", parts["promises"])) if body)}
{_rounds(run)}
</body></html>
"""


def _tiles(run: Run) -> str:
    """Return the four figures to see first."""
    metric, promises = run.metric, run.summary["promises"]
    value = "-" if metric["final"] is None else f"{metric['final']:.3f}"
    target = "no target set"
    if metric["target"] is not None:
        reached = metric["reached_round"]
        target = f"target {metric['target']:g} " + (f"reached in round {reached}" if reached else "not reached")
    rounds = f"training, {len(run.rounds)} round{'' if len(run.rounds) == 1 else 's'} with {len(run.edges)} edges"
    kept = (f"{promises['kept']} of {promises['made']}", "reserved transfers within their bounds")
    if not promises["made"]:
        kept = ("none", "promises: nothing was reserved")
    sent = f"{run.megabytes()[-1]:.1f} MB" if run.rounds else "-"
    tiles = [
        (value, f"{metric['name']}, {target}", False),
        (f"{run.seconds()[-1]:.1f} s" if run.rounds else "-", rounds, False),
        (*kept, promises["kept"] < promises["made"]),
        (sent, f"segments and gradients{beside_fedavg(run)}", False),
    ]
    cells = "".join(
        f'<div class="tile"><b{" class=broken" if broken else ""}>{html.escape(figure)}</b>'
        f"<span>{html.escape(text)}</span></div>"
        for figure, text, broken in tiles)
    return f'<div class="tiles">{cells}</div>'


def _settings(run: Run) -> str:
    """Return the settings that were given or chosen, folded."""
    settings = {name.replace("_", " "): value for name, value in run.settings.items() if value not in (None, [], "")}
    if not settings:
        return ""
    facts = _facts((name, ", ".join(map(str, value)) if isinstance(value, list) else str(value))
                   for name, value in settings.items())
    return f'<details><summary>All settings</summary><table class="facts">{facts}</table></details>'


def _facts(pairs: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"<tr><td>{html.escape(key)}</td><td>{html.escape(value)}</td></tr>" for key, value in pairs)


def _rounds(run: Run) -> str:
    """Return the table of rounds and the list of adaptations and lost edges."""
    if not run.rounds:
        return "<p>No round was completed.</p>"
    head = "".join(f"<th>{text}</th>" for text in ("round", "time (s)", *map(html.escape, run.edges), "training (ms)",
                                                    "transmission (ms)", "loss", html.escape(run.metric["name"]),
                                                    "promises kept"))
    body = "\n".join(_line(run, row) for row in run.rounds)
    notes = [f"<li>Round {row['round']}: {html.escape(note)}</li>" for row in run.rounds for note in _notes(row)]
    events = f"<h2>Adaptations and lost edges</h2><ul>{''.join(notes)}</ul>" if notes else ""
    return (f'<h2>Rounds: layers on each edge, target delays</h2><div class="wide"><table><tr>{head}</tr>'
            f"\n{body}</table></div>{events}")


def _line(run: Run, row: Row) -> str:
    cuts = {edge["edge"]: str(edge["cut"]) for edge in row["edges"]}
    bounded = [transfer["kept"] for transfer in row["transfers"] if transfer["kept"] is not None]
    promises = f"{sum(bounded)}/{len(bounded)}" if bounded else ""
    mark = ' class="broken"' if bounded and not all(bounded) else ""
    value = row.get("metric", row["accuracy"])
    metric = "" if value is None else f"{value:.4f}"
    cells = [str(row["round"]), f"{row['duration_ms'] / 1e3:.2f}", *(cuts.get(name, "-") for name in run.edges),
             _ms(row["training_delay_ms"]["target"]), _ms(row["transmission_delay_ms"]["target"]),
             f"{row['loss']:.4f}", metric]
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + f"<td{mark}>{promises}</td></tr>"


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _notes(row: Row) -> list[str]:
    lost = (f"{edge['edge']} was {'excluded' if edge.get('excluded') else 'lost'}: {edge['reason']}"
            for edge in row.get("lost", ()))
    return [*row["adaptations"], *lost]
