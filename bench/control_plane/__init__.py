"""Open vSwitch without root, and load on the REST API. Importing it makes the packages of mininet/ importable."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "mininet"))
