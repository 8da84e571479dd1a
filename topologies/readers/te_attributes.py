"""Attributes of RFC 8795 (TE topologies) of a link, as those that other formats state by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PROPAGATION_US_PER_KM = 4.9
"""Group delay of standard single-mode fibre (n about 1.468). Source: ITU-T G.652."""

TE = "ietf-te-topology:te"


def te_attributes(te: Mapping[str, Any]) -> dict[str, object]:
    """Length by the delay metric (us, RFC 7471), rate by the largest bandwidth (bytes/s), duct by the first SRLG."""
    attributes = te.get("te-link-attributes")
    if not isinstance(attributes, Mapping):
        return {}
    found: dict[str, object] = {}
    delay_us = attributes.get("te-delay-metric")
    if isinstance(delay_us, int) and not isinstance(delay_us, bool) and delay_us > 0:
        found["length_km"] = round(delay_us / PROPAGATION_US_PER_KM, 3)
    rate_bytes = _bandwidth(attributes.get("max-link-bandwidth"))
    if rate_bytes is not None:
        found["rate_gbps"] = float(f"{rate_bytes * 8e-9:.6g}")
    srlgs = attributes.get("te-srlgs")
    values = srlgs.get("value") if isinstance(srlgs, Mapping) else None
    if isinstance(values, list) and values:
        found["duct"] = f"srlg-{values[0]}"
    return found


def _bandwidth(container: object) -> float | None:
    """The number of `te-bandwidth/generic`, in hexadecimal or decimal; None: there is none above 0."""
    inner = container.get("te-bandwidth") if isinstance(container, Mapping) else None
    text = inner.get("generic") if isinstance(inner, Mapping) else None
    if not isinstance(text, str):
        return None
    try:
        value = float.fromhex(text) if text.lower().startswith("0x") else float(text)
    except (ValueError, OverflowError):  # a list of slots, as other technologies have it
        return None
    return value if value > 0 else None
