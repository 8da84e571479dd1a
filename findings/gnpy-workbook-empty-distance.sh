#!/usr/bin/env bash
# Question: what does GNPy's reader of workbooks make of a link whose cell "Distance (km)" is empty?
# Software: GNPy 3.0.1 (gnpy-convert-xls), openpyxl 3.1.5, Python 3.11 (pip, own venv).
# Most would expect: the row is refused, or the link is left out with a warning: a fibre without a length says nothing.
# Seen: it becomes a fibre of 80 km, like any other in the JSON, with exit code 0. Nothing is printed of the link: only
#   optional columns that the workbook lacks are named. Links of 1 km and of 0 km in it keep their lengths.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check gnpy==3.0.1 openpyxl==3.1.5 2>&1 \
    | grep -v '^WARNING: Location' || true
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import json
import subprocess
import sys
from pathlib import Path

from openpyxl import Workbook

LINKS = {("A", "B"): 1, ("B", "C"): None, ("C", "D"): 0}

book = Workbook()
nodes, links = book.active, book.create_sheet("Links")
nodes.title = "Nodes"
for sheet in (nodes, links):
    for _ in range(3):
        sheet.append([""])
nodes.append([""])
nodes.append(["City", "State", "Country", "Region", "Latitude", "Longitude", "Type"])
for number, city in enumerate("ABCD"):
    nodes.append([city, "", "", "", number, number, "ROADM"])
links.append(["Node A", "Node Z", "east"])
links.append(["", "", "Distance (km)"])
for ends, km in LINKS.items():
    links.append([*ends, km])
book.save("network.xlsx")

program = Path(sys.executable).with_name("gnpy-convert-xls")
run = subprocess.run([program, "network.xlsx", "--output", "network.json"], capture_output=True, text=True, check=False)
fibres = [element for element in json.loads(Path("network.json").read_text())["elements"] if element["type"] == "Fiber"]
lengths = {}
for fibre in fibres:
    ends = next(pair for pair in LINKS if all(f" {city} " in f" {fibre['uid'].replace('(', ' ').replace(')', ' ').replace('→', ' ')} "
                                              for city in pair))
    lengths.setdefault(ends, set()).add((fibre["params"]["length"], fibre["params"]["length_units"]))
for ends, km in LINKS.items():
    print(f"{'-'.join(ends)}: distance {km!r} in the workbook, {lengths[ends]} in the JSON")
said = (run.stdout + run.stderr).lower()
print("exit code", run.returncode, "said:", said.strip() or "nothing")
ok = (run.returncode == 0 and lengths == {("A", "B"): {(1, "km")}, ("B", "C"): {(80, "km")}, ("C", "D"): {(0, "km")}}
      and not any(word in said for word in ("distance", "length", "default", "80")))
print("as described" if ok else "CHANGED")
sys.exit(0 if ok else 1)
PYTHON
