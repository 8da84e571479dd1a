"""HTML report of a run: one self-contained page, and its plots as PNG files."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

from trainer.records.plots import plots
from trainer.records.run_reader import Row, Run, key_figures

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1080px; margin: 2em auto; padding: 0 1em }
h1 { font-size: 1.5em } h2 { font-size: 1.1em; margin-top: 2em }
table { border-collapse: collapse } td, th { padding: .15em .8em .15em 0; text-align: right }
td:first-child, th:first-child { text-align: left } .facts td { text-align: left }
th { border-bottom: 1px solid #999; font-weight: 600 } img { width: 100%; height: auto }
.broken { color: #b03030 } .wide { overflow-x: auto }
"""


def write_report(run: Run, page: Path, images: Path) -> list[Path]:
    """Write the page and the PNG files; return their paths."""
    images.mkdir(parents=True, exist_ok=True)
    parts, files = [], []
    for name, (title, figure) in plots(run).items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
        file = images / f"{name}.png"
        file.write_bytes(buffer.getvalue())
        files.append(file)
        data = base64.b64encode(buffer.getvalue()).decode()
        parts.append(f'<h2>{html.escape(title)}</h2>\n<img alt="{html.escape(title)}" '
                     f'src="data:image/png;base64,{data}">')
    page.write_text(_page(run, "\n".join(parts)), encoding="utf-8")
    return [page, *files]


def _page(run: Run, images: str) -> str:
    name = html.escape(run.directory.name)
    error = run.summary.get("error")
    failure = f'<p class="broken">{html.escape(str(error))}</p>' if error else ""
    lines = "\n".join(f"<tr><td>{html.escape(key)}</td><td>{html.escape(value)}</td></tr>"
                      for key, value in key_figures(run).items())
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Paceline: {name}</title><style>{STYLE}</style></head>
<body><h1>Training run {name}</h1>
{failure}<table class="facts">{lines}</table>
{images}
{_rounds(run)}
</body></html>
"""


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
