#!/usr/bin/env bash
# Question: how many bits can a burst have that a link must send within a second? As a linear programme in bits and
#   seconds: maximise x subject to x / rate <= 1 and x <= 1e13. The links have 100 Mb/s, 900 Mb/s, 1 Gb/s, 10 Gb/s and
#   100 Gb/s.
# Software: SciPy 1.17.1, whose linprog and milp run HiGHS, Python 3.11 (pip, own venv).
# Most would expect: x = rate each time; the largest number is 1e13, and double precision has 16 digits.
# Seen: x = rate up to 900 Mb/s. From 1 Gb/s on the answer is 1e13 bits, with status 0 ("Optimal") and a slack of 1
#   second where the row is violated by 99 to 9999 seconds. HiGHS takes coefficients of 1e-9 or less as zero (its
#   option small_matrix_value, which neither function of SciPy can set) and warns of it in its log; SciPy passes on
#   neither the warning nor the row as it was given. In kbit and microseconds, or Mbit and seconds, all answers are
#   right.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check \
    scipy==1.17.1 numpy==2.4.6 2>&1 | grep -v '^WARNING: Location' || true
"$folder/venv/bin/python" -W error - <<'PYTHON'
import sys
from math import inf, isclose

from scipy.optimize import Bounds, LinearConstraint, linprog, milp

MOST_BITS = 1e13
ok = True
for rate_bps in (1e8, 9e8, 1e9, 1e10, 1e11):
    row = [[1 / rate_bps]]
    linear = linprog([-1], A_ub=row, b_ub=[1], bounds=[(0, MOST_BITS)])
    integer = milp([-1], constraints=LinearConstraint(row, -inf, 1), bounds=Bounds(0, MOST_BITS), integrality=[0])
    in_mbit = linprog([-1], A_ub=[[1e6 / rate_bps]], b_ub=[1], bounds=[(0, MOST_BITS / 1e6)])
    print(f"{rate_bps / 1e6:7g} Mb/s: linprog {linear.x[0]:g} bits (status {linear.status}, "
          f"slack {linear.slack[0]:g} s, by hand {1 - linear.x[0] / rate_bps:g} s), "
          f"milp {integer.x[0]:g} bits (status {integer.status}), "
          f"linprog in Mbit {in_mbit.x[0]:g} Mbit")
    lost = rate_bps >= 1e9
    expected = MOST_BITS if lost else rate_bps
    ok = ok and linear.status == integer.status == in_mbit.status == 0
    ok = ok and isclose(linear.x[0], expected) and isclose(integer.x[0], expected)
    ok = ok and isclose(in_mbit.x[0], rate_bps / 1e6) and (linear.slack[0] == 1 or not lost)
print("as described" if ok else "CHANGED")
sys.exit(0 if ok else 1)
PYTHON
