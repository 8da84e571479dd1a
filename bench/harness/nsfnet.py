"""The 14-node NSFNET and the loads of the DeepRMSA paper."""

from __future__ import annotations

NSFNET_KM = {
    (1, 2): 1050, (1, 3): 1500, (1, 8): 2400, (2, 3): 600, (2, 4): 750, (3, 6): 1800, (4, 5): 600, (4, 11): 1950,
    (5, 6): 1200, (5, 7): 600, (6, 10): 1050, (6, 14): 1800, (7, 8): 750, (7, 10): 1350, (8, 9): 750, (9, 10): 750,
    (9, 12): 300, (9, 13): 300, (11, 12): 600, (11, 13): 750, (12, 14): 300, (13, 14): 150,
}  # fmt: skip
"""Fibre lengths in km. Source: the script for K-SP-FF on NSFNET published with DeepRMSA."""


SPANS = {(str(a), str(b)): float(km) for (a, b), km in NSFNET_KM.items()}


NODES = [str(node) for node in range(1, 15)]


LOADS = {"l12_m14": (12.0, 14.0), "l10_m25": (10.0, 25.0)}
"""Arrival rate and mean holding time, in a common time unit."""
