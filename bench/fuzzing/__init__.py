"""The fuzzer of promises: tenants that change reservations at random, senders at their limits, bounds as the oracle."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "mininet"))
