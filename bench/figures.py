"""Write the table of all figures, docs/figures.md, from the JSON files of the benchmarks (their option --out).

    .venv/bin/python bench/figures.py FOLDER [--out docs/figures.md]

What stands below the line END in an existing page is kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

SCRIPTS = {"codecs": "codec_accuracy", "labels": "label_protection"}
"""Scripts whose name is not that of their JSON report."""
COLUMNS = ("script", "claim", "value", "goal", "holds", "machine", "date")
HEAD = """# Figures

All figures of the benchmarks, as measured. Made by `bench/figures.py` from the files that the benchmarks write with
`--out`; rows without a goal are for comparison. "holds" compares the value with the goal.
"""

END = "<!-- end of the table made by bench/figures.py -->"

Report = Mapping[str, Any]


def read_reports(folder: Path) -> list[tuple[Report, str]]:
    """All benchmark reports of a folder with their dates, by benchmark; other JSON files are skipped.

    The date of a report without one is that of its file.
    """
    reports = []
    for path in sorted(folder.glob("*.json")):
        report = json.loads(path.read_text())
        if isinstance(report, dict) and {"bench", "claims", "machine"} <= report.keys():
            written = datetime.fromtimestamp(path.stat().st_mtime, UTC).date().isoformat()
            reports.append((report, str(report.get("date", written))))
    return sorted(reports, key=lambda report: str(report[0]["bench"]))


def rows_of(report: Report, date: str) -> Iterator[tuple[str, ...]]:
    """One row per claim: the cells of COLUMNS."""
    name, machine = str(report["bench"]), report["machine"]
    script = f"bench/{SCRIPTS.get(name, name)}.py"
    described = f"{machine['cores']} cores, {machine['memory_gib']} GiB, Linux {machine['kernel']}"
    for claim, facts in report["claims"].items():
        value = f"{facts['value']:.4g} {facts['unit']}".strip()
        holds = {True: "yes", False: "no", None: ""}[facts["holds"]]
        yield f"`{script}`", f"`{claim}`", value, facts["goal"] or "", holds, described, date


def table_of(reports: list[tuple[Report, str]]) -> str:
    """The whole document in Markdown."""
    rows = [row for report, date in reports for row in rows_of(report, date)]
    lines = ["| " + " | ".join(cells) + " |" for cells in (COLUMNS, ("---",) * len(COLUMNS), *rows)]
    return "\n".join([HEAD, *lines, ""])


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), default=Path("docs/figures.md"),
              show_default=True, help="Write the table to this file.")  # fmt: skip
def main(folder: Path, out: Path) -> None:
    """Write the table of all figures from the JSON files in FOLDER."""
    reports = read_reports(folder)
    if not reports:
        raise click.ClickException(f"{folder} holds no benchmark report; run benchmarks with --out {folder}/NAME.json")
    _, _, kept = out.read_text().partition(f"{END}\n") if out.exists() else ("", "", "")
    out.write_text(f"{table_of(reports)}\n{END}\n{kept}")
    count = sum(len(report["claims"]) for report, _ in reports)
    click.echo(f"wrote {out}: {count} figures of {len(reports)} benchmarks")


if __name__ == "__main__":
    main()
