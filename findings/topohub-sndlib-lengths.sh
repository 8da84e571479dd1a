#!/usr/bin/env bash
# Question: how long are the links of topohub's SNDlib networks, which it gives as `dist` in km, great-circle distances
#   of its longitudes and latitudes? How long is the longest link within New York (sndlib/newyork), and in Norway?
# Software: topohub 1.5.1, Python 3.11 (pip, own venv).
# Most would expect: tens of km in the city, some hundred km in the country, plausible throughout: the library says that
#   positions are longitude and latitude unless noted otherwise, and in these files nothing is noted.
# Seen: 17586 km in the city and 19439 km in Norway. 11 of the 26 networks have positions off the globe, longitudes up
#   to 695 and latitudes up to 716: SNDlib has them as pixels of a drawing. topohub takes them for degrees all the same,
#   and `dist` and the lengths in `stats` follow from that. The 35 sites of India are on the globe, but between Africa
#   and Kazakhstan, so no check of ranges finds them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check \
    topohub==1.5.1 2>&1 | grep -v '^WARNING: Location' || true
"$folder/venv/bin/python" -W ignore::ResourceWarning - <<'PYTHON'
import sys
from importlib.resources import files
from math import asin, cos, radians, sin, sqrt

import topohub

NAMES = sorted(file.name[:-5] for file in (files("topohub") / "data" / "sndlib").iterdir() if file.suffix == ".json")


def great_circle_km(a, b):
    """By the haversine formula, whatever the degrees are."""
    (east_a, north_a), (east_b, north_b) = ([radians(each) for each in place] for place in (a, b))
    half = sin((north_b - north_a) / 2) ** 2 + cos(north_a) * cos(north_b) * sin((east_b - east_a) / 2) ** 2
    return 2 * 6371 * asin(sqrt(half))


off_globe, longest_km, follows = [], {}, True
for name in NAMES:
    network = topohub.get(f"sndlib/{name}")
    places = {node["id"]: node["pos"] for node in network["nodes"]}
    longest_km[name] = max(link["dist"] for link in network["edges"])
    follows = follows and abs(network["graph"]["stats"]["max_link_len"] - longest_km[name]) < 1
    for link in network["edges"]:
        expected = great_circle_km(places[link["source"]], places[link["target"]])
        follows = follows and abs(link["dist"] - expected) < 0.01 * expected + 1
    if any(abs(east) > 180 or abs(north) > 90 for east, north in places.values()):
        off_globe.append(name)
        most = [max(place[axis] for place in places.values()) for axis in (0, 1)]
        print(f"{name}: longitude up to {most[0]:.0f}, latitude up to {most[1]:.0f}, longest link {longest_km[name]} km")
print(f"{len(off_globe)} of {len(NAMES)} networks are off the globe; all lengths are great-circle distances: {follows}")
india = topohub.get("sndlib/india35")
east, north = ([node["pos"][axis] for node in india["nodes"]] for axis in (0, 1))
print(f"india35: longitude {min(east):.1f} to {max(east):.1f}, latitude {min(north):.1f} to {max(north):.1f}")
ok = follows and len(off_globe) == 11 and len(NAMES) == 26
ok = ok and round(longest_km["newyork"]) == 17586 and round(longest_km["norway"]) == 19439
ok = ok and max(east) < 60  # India lies between 68 and 97 degrees east
print("as described" if ok else "CHANGED")
sys.exit(0 if ok else 1)
PYTHON
