"""Shared by the benchmarks that run transfers or training. Importing it makes the packages of mininet/ importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "mininet"))
