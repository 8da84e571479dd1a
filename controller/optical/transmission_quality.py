"""Transmission quality: the GSNR at the end of a route, and the modulation formats it supports.

GNPy computes the physics: amplifier noise and the Gaussian-noise model of fibre non-linearity, on the route's own
fibres, with amplifiers about every 80 km as placed by GNPy's design rules. The equipment is that of GNPy's examples:
standard single-mode fibre of 0.2 dB/km (unless the map states another), variable-gain amplifiers, ROADMs with 38 dB add
and drop OSNR, all 96 channels of the fixed grid lit with 32 GBd (GNPy's own example lights 76). That is the worst case
for a lightpath, so the result does not depend on the load.

A longer fibre may be the better one: GNPy's design rules divide a fibre only from 150 km on, so 149 km is one span and
150 km are two of 75 km; and a span that loses more than the amplifiers' gain allows (135 km, not 130) gets a hybrid
Raman amplifier, which adds less noise. These are GNPy's results, and are not smoothed.

Each fibre is computed once, from one ROADM to the next. A route's fibres are then concatenated: every ROADM equalises
signal plus noise to the same power, so the accumulated noise reduces the signal's share (droop). Full GNPy is run for a
route only if the result is within GUARD_DB of the requirement of a format. Source: Bononi et al., "The generalized
droop formula for low signal to noise ratio optical links", Journal of Lightwave Technology 38 (2020).

A format is feasible if the GSNR in 0.1 nm reaches its requirement plus the system margin. Source of the requirements:
the Open ROADM MSA's W-port, 31.57 GBd at 50 GHz, as in GNPy's `eqpt_config_openroadm_ver5.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import gnpy
import numpy as np
from gnpy.core.network import add_missing_elements_in_network, design_network
from gnpy.core.parameters import SimParams
from gnpy.core.utils import automatic_nch
from gnpy.tools.json_io import DEFAULT_EXTRA_CONFIG, _equipment_from_json, _spectrum_from_json, network_from_json
from gnpy.topology.request import PathRequest, propagate
from networkx import dijkstra_path
from numpy.typing import NDArray

from controller.caches import MIB, bounded_cache
from controller.optical.spectrum_grid import FIXED, L_BAND_HIGHEST_THZ, L_BAND_LOWEST_THZ
from topologies.maps import USUAL_LOSS_DB_PER_KM, Band

CONNECTOR_LOSS_DB = 0.5
LAUNCH_W = 1e-3
SYSTEM_MARGIN_DB = 2.0
"""For ageing, repairs and effects outside the model."""

GUARD_DB = 0.1
"""Upper bound on the difference between concatenated fibres and full GNPy: 0.0018 dB were measured per fibre after the
first, and no format is feasible after fifty fibres, however short, because of ROADM noise."""
C_BAND = {"f_min": FIXED.central_thz(0, 1) * 1e12, "f_max": FIXED.central_thz(FIXED.slots - 1, 1) * 1e12}
L_BAND = {"f_min": (L_BAND_LOWEST_THZ + 0.025) * 1e12, "f_max": (L_BAND_HIGHEST_THZ - 0.025) * 1e12}
"""The lowest and the highest central frequency."""
MULTI_BAND_AMPLIFIERS = frozenset({
    "std_medium_gain_C", "std_medium_gain_L", "std_medium_gain_multiband",
    "std_low_gain_bis", "std_low_gain_L", "std_low_gain_multiband_bis",
})  # fmt: skip
RAMAN_SCATTERING = {
    "raman_params": {
        "flag": True, "method": "perturbative", "order": 2, "result_spatial_resolution": 10e3,
        "solver_spatial_resolution": 10e3,
    },
}  # fmt: skip
REFERENCE_HZ = 12.5e9
"""0.1 nm, the reference bandwidth of OSNR and GSNR."""

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


class SpecialFibre(NamedTuple):
    """A fibre of another loss or type than usual; the type is one of GNPy's library."""

    length_km: float
    loss_db_per_km: float
    type_variety: str


Fibre = float | SpecialFibre
"""A fibre; the usual one by its length in km alone."""


@dataclass(frozen=True, slots=True)
class Quality:
    """At the end of a route, of its worst channel and in 0.1 nm: GSNR (with fibre non-linearity) and OSNR (without)."""

    gsnr_db: float
    osnr_db: float

    def margin_db(self, format_: Format) -> float:
        """Return the GSNR minus the format's requirement and the system margin; negative: infeasible."""
        return self.gsnr_db - format_.required_gsnr_db - SYSTEM_MARGIN_DB


@dataclass(frozen=True, slots=True)
class _Noise:
    """Noise-to-signal ratio; `ase`: of the amplifiers alone."""

    ase: Channels
    all: Channels


@bounded_cache(8 * MIB, entry_bytes=512)
def quality_of(fibres: tuple[Fibre, ...], band: Band = "C") -> Quality:
    """Return the quality after fibres of these lengths, a ROADM at each end of each; feasible formats are those of full
    GNPy.

    Raises: ValueError if there is no fibre, or one has no length.
    """
    quality_of = concatenated_quality(fibres, band)
    is_near_limit = any(abs(quality_of.margin_db(format_)) <= GUARD_DB for format_ in FORMATS)
    return propagated_quality(fibres, band) if is_near_limit and len(fibres) > 1 else quality_of


def concatenated_quality(fibres: tuple[Fibre, ...], band: Band = "C") -> Quality:
    """Return the quality from the individual fibres, in microseconds; within GUARD_DB of GNPy where a format is
    feasible.

    Raises: as `quality_of`.
    """
    _check(fibres)
    ase = noise = np.zeros(1)
    for each in fibres:
        fibre, power = _fibre(each, band), 1 + noise  # of signal and noise together over the signal
        ase, noise = ase + fibre.ase * power, noise + fibre.all * power
    return _at_receiver(_Noise(ase, noise), len(fibres))


@bounded_cache(4 * MIB, entry_bytes=1024)
def propagated_quality(fibres: tuple[Fibre, ...], band: Band = "C") -> Quality:
    """Return the quality as GNPy computes it over the whole route; takes 10 to 100 ms.

    Raises: as `quality_of`.
    """
    _check(fibres)
    receiver = _propagate(fibres, band)
    return Quality(float(min(receiver.snr_01nm)), float(min(receiver.osnr_ase_01nm)))


def precompute(fibres: Iterable[Fibre], band: Band = "C") -> None:
    """Compute these fibres now, so that no request waits for GNPy."""
    for fibre in set(fibres):
        _fibre(fibre, band)


def _check(fibres: tuple[Fibre, ...]) -> None:
    if not fibres or min(_facts(fibre).length_km for fibre in fibres) <= 0:
        raise ValueError(f"a route has fibres of more than 0 km, not {fibres}")


def _facts(fibre: Fibre) -> SpecialFibre:
    return fibre if isinstance(fibre, SpecialFibre) else SpecialFibre(fibre, USUAL_LOSS_DB_PER_KM, "SSMF")


@bounded_cache(4 * MIB, entry_bytes=8192)
def _fibre(fibre: Fibre, band: Band) -> _Noise:
    """Return the noise that one fibre adds to a signal at full power, in the signal's own bandwidth."""
    receiver, (width, terminal_noise) = _propagate((fibre,), band), _terminal_noise(1)
    ase, noise = (10 ** (-ratio_db / 10) for ratio_db in (receiver.osnr_ase_01nm, receiver.snr_01nm))
    return _Noise((ase - terminal_noise) * width, (noise - terminal_noise) * width)


def _at_receiver(total: _Noise, fibres: int) -> Quality:
    width, terminal_noise = _terminal_noise(fibres)
    osnr_db, gsnr_db = (
        -10 * np.log10(float(np.max(ratio)) / width + terminal_noise) for ratio in (total.ase, total.all)
    )
    return Quality(float(gsnr_db), float(osnr_db))


def _terminal_noise(fibres: int) -> tuple[float, float]:
    """Return the signal's bandwidth over 0.1 nm and the noise in 0.1 nm of transmitter and ROADMs, added last as in
    GNPy.
    """
    equipment = _equipment("C")
    signal, roadm = equipment["SI"]["default"], equipment["Roadm"]["default"]
    noise = 10 ** (-signal.tx_osnr / 10) + (fibres + 1) * 10 ** (-roadm.add_drop_osnr / 10)
    return signal.baud_rate / REFERENCE_HZ, float(noise)


def _propagate(fibres: tuple[Fibre, ...], band: Band = "C") -> Any:
    """Run GNPy over the route; return its receiver.

    With both bands, power that stimulated Raman scattering moves from the C band into the L band is computed as well.
    """
    equipment = _equipment(band)
    SimParams.set_params({} if band == "C" else RAMAN_SCATTERING)
    line = network_from_json(_gnpy_topology(fibres, band), equipment)
    add_missing_elements_in_network(line, equipment)
    request = _gnpy_request(equipment)
    if band != "C":
        signal = equipment["SI"]["default"]
        shape = {"baud_rate": signal.baud_rate, "slot_width": signal.spacing, "roll_off": signal.roll_off}
        partitions = [{**limits, **shape, "tx_osnr": signal.tx_osnr} for limits in (L_BAND, C_BAND)]
        request.initial_spectrum = _spectrum_from_json(partitions)
    design_network(request, line, equipment, verbose=False)
    by_name = {element.uid: element for element in line.nodes()}
    path = dijkstra_path(line, by_name["first"], by_name["last"])
    propagate(path, request, equipment)
    return path[-1]


@cache
def _equipment(band: Band) -> Any:
    """Return GNPy's example equipment library, with the channels of the fixed grid.

    The ROADM without a name gets the one GNPy would warn about, which its own loader does not accept. Of the multi-band
    amplifiers two kinds are left, of low and of medium gain: where more fit, GNPy may choose one for the C band and
    another for the L band, and then finds no amplifier that has both.
    """
    name = "eqpt_config.json" if band == "C" else "eqpt_config_multiband.json"
    library = json.loads((Path(gnpy.__file__).parent / "example-data" / name).read_text())
    for roadm in library["Roadm"]:
        roadm.setdefault("type_variety", "default")
    library["SI"][0] |= C_BAND
    if band != "C":
        library["Edfa"] = [
            amplifier | {"allowed_for_design": True}
            for amplifier in library["Edfa"]
            if amplifier["type_variety"] in MULTI_BAND_AMPLIFIERS
        ]
    return _equipment_from_json(library, DEFAULT_EXTRA_CONFIG)


def _gnpy_topology(fibres: tuple[Fibre, ...], band: Band) -> dict[str, Any]:
    elements: list[dict[str, Any]] = [{"uid": end, "type": "Transceiver"} for end in ("first", "last")]
    bands = [limits | {"spacing": FIXED.slot_ghz * 1e9} for limits in (C_BAND, L_BAND)]
    roadm: dict[str, Any] = {"type": "Roadm"} | ({} if band == "C" else {"params": {"design_bands": bands}})
    elements += [roadm | {"uid": f"roadm {number}"} for number in range(len(fibres) + 1)]
    uids = ["first", "roadm 0"]
    for number, facts in enumerate(map(_facts, fibres)):
        fibre = {"length": facts.length_km, "length_units": "km", "loss_coef": facts.loss_db_per_km}
        connectors = {"con_in": CONNECTOR_LOSS_DB, "con_out": CONNECTOR_LOSS_DB}
        element = {"uid": f"fibre {number}", "type": "Fiber", "type_variety": facts.type_variety}
        elements.append(element | {"params": fibre | connectors})
        uids += [f"fibre {number}", f"roadm {number + 1}"]
    connections = [{"from_node": a, "to_node": b} for a, b in pairwise([*uids, "last"])]
    return {"elements": elements, "connections": connections}


def _gnpy_request(equipment: Any) -> Any:
    signal = equipment["SI"]["default"]
    grid = {
        "f_min": signal.f_min, "f_max": signal.f_max, "spacing": signal.spacing, "min_spacing": signal.spacing,
        "nb_channel": automatic_nch(signal.f_min, signal.f_max, signal.spacing),
        "baud_rate": signal.baud_rate, "roll_off": signal.roll_off, "tx_osnr": signal.tx_osnr,
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
