"""Tenants and senders at their limits, played at random: the short form of bench/promise_fuzzer.py."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from emulation.fault_injection import FaultInjector
from fuzzing.session import describe, fuzz
from tests.network.conftest import Network

SEED = 7
SECONDS = float(os.environ.get("PACELINE_FUZZ_S", "60"))


def test_no_sequence_of_requests_breaks_a_promise(metro: Network, tmp_path: Path) -> None:
    faults = FaultInjector(metro.topology, metro.note.ovs_directory)
    outcome = fuzz(metro.topology, metro.note, metro.api, faults, SECONDS, SEED, tmp_path)
    assert sum(verdict.judged for verdict in outcome.verdicts) > 1000
    assert not outcome.problems, describe(outcome)
    # A sender on a machine that is late itself loses datagrams at its meter; bench/promise_fuzzer.py tells.
    broken = [verdict for verdict in outcome.verdicts if replace(verdict, lost=0).is_violated]
    assert not broken, describe(outcome)
