"""How far light gets: the signal quality at the end of a route, and the formats that can be read there.

GNPy does the physics: amplifier noise and the Gaussian-noise model of fibre non-linearity, on the route's own fibres,
with an amplified span each 80 km or so as GNPy's design rules place them. The equipment is that of GNPy's examples:
standard single-mode fibre of 0.2 dB/km, variable-gain amplifiers, ROADMs with 38 dB add and drop OSNR, all 75 channels
of 32 GBd on a 50 GHz grid lit. That is the worst case for a lightpath, so the answer does not change with the load.

Each fibre is worked out once, from one ROADM to the next. A route's fibres are then put in a row: every ROADM brings
signal and noise together back to the same power, so what was noise so far takes that share from the signal (droop).
Full GNPy is asked for a route only where that is within GUARD_DB of what some format needs. Source: Bononi et al., "The
generalized droop formula for low signal to noise ratio optical links", Journal of Lightwave Technology 38 (2020).

A format works where the GSNR in 0.1 nm reaches what it needs and the system margin besides. Source of the needs: the
Open ROADM MSA's W-port, 31.57 GBd at 50 GHz, as in GNPy's `eqpt_config_openroadm_ver5.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import gnpy
import numpy as np
from gnpy.core.network import add_missing_elements_in_network, design_network
from gnpy.core.utils import automatic_nch
from gnpy.tools.json_io import DEFAULT_EXTRA_CONFIG, _equipment_from_json, network_from_json
from gnpy.topology.request import PathRequest, propagate
from networkx import dijkstra_path
from numpy.typing import NDArray

FIBRE_LOSS_DB_PER_KM = 0.2
CONNECTOR_LOSS_DB = 0.5
LAUNCH_W = 1e-3
SYSTEM_MARGIN_DB = 2.0
"""Ageing, repairs and what the model leaves out."""

GUARD_DB = 0.1
"""More than a route of fibres put in a row can differ from full GNPy: 0.0018 dB were measured for every fibre after the
first, and no format works behind fifty fibres, however short: the noise of their ROADMs is too much.
"""
REFERENCE_HZ = 12.5e9
"""0.1 nm, in which signal to noise is told."""

Channels = NDArray[np.float64]
"""One value per channel."""


@dataclass(frozen=True, slots=True)
class Format:
    """A line format; `required_gsnr_db` is in 0.1 nm."""

    name: str
    rate_gbps: float
    bits_per_symbol: int
    required_gsnr_db: float


FORMATS = (Format("DP-16QAM", 200.0, 4, 20.5), Format("DP-QPSK", 100.0, 2, 12.0))
"""Fastest first."""


@dataclass(frozen=True, slots=True)
class Quality:
    """At the end of a route, of its worst channel and in 0.1 nm: with and without fibre non-linearity."""

    gsnr_db: float
    osnr_db: float

    def margin_db(self, line: Format) -> float:
        """What is left above what the format needs, the system margin taken off; negative: it does not work."""
        return self.gsnr_db - line.required_gsnr_db - SYSTEM_MARGIN_DB


@dataclass(frozen=True, slots=True)
class _Noise:
    """Noise over signal; `ase` is the part that amplifiers add."""

    ase: Channels
    all: Channels


@lru_cache(maxsize=65_536)
def quality(lengths_km: tuple[float, ...]) -> Quality:
    """The quality behind fibres of these lengths, a ROADM at each end of each; the formats that work are GNPy's own.

    Raises: ValueError if there is no fibre, or one has no length.
    """
    light = in_a_row(lengths_km)
    is_near = any(abs(light.margin_db(line)) <= GUARD_DB for line in FORMATS)
    return propagated(lengths_km) if is_near and len(lengths_km) > 1 else light


def in_a_row(lengths_km: tuple[float, ...]) -> Quality:
    """The same from what is known of each fibre, in microseconds; within GUARD_DB of GNPy where any format works.

    Raises: as `quality`.
    """
    _check(lengths_km)
    ase = noise = np.zeros(1)
    for length_km in lengths_km:
        fibre, power = _fibre(length_km), 1 + noise  # of signal and noise together over the signal
        ase, noise = ase + fibre.ase * power, noise + fibre.all * power
    return _at_receiver(_Noise(ase, noise), len(lengths_km))


@lru_cache(maxsize=16_384)
def propagated(lengths_km: tuple[float, ...]) -> Quality:
    """The same as GNPy has it when it goes through the whole route; 10 to 100 ms.

    Raises: as `quality`.
    """
    _check(lengths_km)
    receiver = _propagate(lengths_km)
    return Quality(float(min(receiver.snr_01nm)), float(min(receiver.osnr_ase_01nm)))


def know(lengths_km: Iterable[float]) -> None:
    """Work out the fibres of these lengths now, so that no request waits for GNPy."""
    for length_km in set(lengths_km):
        _fibre(length_km)


def _check(lengths_km: tuple[float, ...]) -> None:
    if not lengths_km or min(lengths_km) <= 0:
        raise ValueError(f"a route has fibres of more than 0 km, not {lengths_km}")


@lru_cache(maxsize=65_536)
def _fibre(length_km: float) -> _Noise:
    """What one fibre adds to a signal at full power, in the signal's own bandwidth."""
    receiver, (width, ends) = _propagate((length_km,)), _ends(1)
    ase, noise = (10 ** (-each / 10) for each in (receiver.osnr_ase_01nm, receiver.snr_01nm))
    return _Noise((ase - ends) * width, (noise - ends) * width)


def _at_receiver(line: _Noise, fibres: int) -> Quality:
    width, ends = _ends(fibres)
    osnr_db, gsnr_db = (-10 * np.log10(float(np.max(each)) / width + ends) for each in (line.ase, line.all))
    return Quality(float(gsnr_db), float(osnr_db))


def _ends(fibres: int) -> tuple[float, float]:
    """A signal's bandwidth over 0.1 nm, and the noise in 0.1 nm of transmitter and ROADMs, which GNPy adds last."""
    equipment = _equipment()
    light, roadm = equipment["SI"]["default"], equipment["Roadm"]["default"]
    ends = 10 ** (-light.tx_osnr / 10) + (fibres + 1) * 10 ** (-roadm.add_drop_osnr / 10)
    return light.baud_rate / REFERENCE_HZ, float(ends)


def _propagate(lengths_km: tuple[float, ...]) -> Any:
    """GNPy's receiver at the end of the route."""
    equipment = _equipment()
    line = network_from_json(_line(lengths_km), equipment)
    add_missing_elements_in_network(line, equipment)
    request = _request(equipment)
    design_network(request, line, equipment, verbose=False)
    by_name = {element.uid: element for element in line.nodes()}
    way = dijkstra_path(line, by_name["first"], by_name["last"])
    propagate(way, request, equipment)
    return way[-1]


@cache
def _equipment() -> Any:
    """GNPy's example library; the ROADM in it that has no name gets the one GNPy would warn about, which its own loader
    does not take.
    """
    library = json.loads((Path(gnpy.__file__).parent / "example-data" / "eqpt_config.json").read_text())
    for roadm in library["Roadm"]:
        roadm.setdefault("type_variety", "default")
    return _equipment_from_json(library, DEFAULT_EXTRA_CONFIG)


def _line(lengths_km: tuple[float, ...]) -> dict[str, Any]:
    elements: list[dict[str, Any]] = [{"uid": end, "type": "Transceiver"} for end in ("first", "last")]
    elements += [{"uid": f"roadm {number}", "type": "Roadm"} for number in range(len(lengths_km) + 1)]
    way = ["first", "roadm 0"]
    for number, length_km in enumerate(lengths_km):
        fibre = {"length": length_km, "length_units": "km", "loss_coef": FIBRE_LOSS_DB_PER_KM}
        ends = {"con_in": CONNECTOR_LOSS_DB, "con_out": CONNECTOR_LOSS_DB}
        elements.append({"uid": f"fibre {number}", "type": "Fiber", "type_variety": "SSMF", "params": fibre | ends})
        way += [f"fibre {number}", f"roadm {number + 1}"]
    connections = [{"from_node": a, "to_node": b} for a, b in pairwise([*way, "last"])]
    return {"elements": elements, "connections": connections}


def _request(equipment: Any) -> Any:
    light = equipment["SI"]["default"]
    grid = {
        "f_min": light.f_min, "f_max": light.f_max, "spacing": light.spacing, "min_spacing": light.spacing,
        "nb_channel": automatic_nch(light.f_min, light.f_max, light.spacing),
        "baud_rate": light.baud_rate, "roll_off": light.roll_off, "tx_osnr": light.tx_osnr,
        "power": LAUNCH_W, "tx_power": LAUNCH_W, "equalization_offset_db": 0, "bit_rate": 100e9,
    }  # fmt: skip
    ends = {"request_id": 0, "source": "first", "destination": "last", "bidir": False}
    line: dict[str, Any] = {"trx_type": "", "trx_mode": "", "format": "", "OSNR": None, "cost": 1, "path_bandwidth": 0}
    line |= {"penalties": {}, "nodes_list": [], "loose_list": []}
    unused = dict.fromkeys((
        "detailed_rx", "effective_freq_slot", "blocking_reason", "tx_channel_power_min_dbm", "tx_channel_power_max_dbm",
        "rx_channel_power_min_dbm", "rx_channel_power_max_dbm",
    ))  # fmt: skip
    return PathRequest(**grid, **ends, **line, **unused)
