"""Emulates a map: Mininet hosts and Open vSwitch switches, controller process, faults, cross-traffic."""

import sys
from importlib.util import find_spec

try:
    _has_mininet = find_spec("mininet.net") is not None
except ModuleNotFoundError:
    _has_mininet = False
if not _has_mininet:
    sys.exit("Error: this Python has no Mininet; Debian's package mininet has it, and `make setup` makes a .venv that "
             "finds it")  # fmt: skip
