"""Restart of a controller with many live reservations, and what reading its state costs then.

Six switches of real Open vSwitch in a row and 10,000 live reservations through all of them (2,000 with --quick).

1. kill -9, start: the time until REST answers, and until every switch has been read back and is in step.
2. Then the time of /metrics, of a comparison of all switches (/v1/consistency) and of each page of /v1/reservations,
   and of new reservations alone and while another client reads all pages.

    .venv/bin/python bench/restart.py [--quick] [--out FILE.json]
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click
import httpx
from rich.table import Table

from harness import report
from control_plane.http_client import KeepAliveClient
from control_plane.load_generator import completed_per_s
from control_plane.switch_row import controller_of, flow_body, row_of_switches, switches_in_sync
from machine.polling import wait_until
from machine.quantile import quantile

RATE_BPS = 40_000
QUEUE_BYTES = 500_000_000
CLIENTS = 8
BESIDE = 40
"""New reservations made to measure their time."""


def body_of(number: int) -> dict[str, Any]:
    """Request body of one small reservation through the whole row."""
    return {"flows": [flow_body(number, RATE_BPS)], "lease_s": 86_400}


def elapsed_ms(work: Callable[[], object]) -> float:
    """The milliseconds that a call takes."""
    began_s = time.perf_counter()
    work()
    return (time.perf_counter() - began_s) * 1e3


def page_times_ms(api: httpx.Client) -> list[float]:
    """Read all pages of the list of reservations; the milliseconds of each."""
    took_ms, path = [], "/v1/reservations?state=active"
    while path:
        began_s = time.perf_counter()
        content = api.get(path).raise_for_status().json()
        took_ms.append((time.perf_counter() - began_s) * 1e3)
        path = content.get("next", "")
    return took_ms


def setup_times_ms(port: int, numbers: range) -> list[float]:
    """Make reservations in sequence; the milliseconds of each."""
    client = KeepAliveClient(port)
    took_ms = [elapsed_ms(partial(client.post, "/v1/reservations", body_of(number))) for number in numbers]
    client.close()
    return took_ms


def setup_times_beside_lists_ms(api: httpx.Client, port: int, numbers: range) -> list[float]:
    """The same while another client reads all pages again and again."""
    stopping = threading.Event()

    def read() -> None:
        with httpx.Client(base_url=api.base_url, timeout=60) as reader:
            while not stopping.is_set():
                page_times_ms(reader)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        return setup_times_ms(port, numbers)
    finally:
        stopping.set()
        thread.join()


@click.command()
@click.option("--quick", is_flag=True, help="2,000 reservations instead of 10,000.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write the figures there as JSON.")
def main(quick: bool, out: Path | None) -> None:
    """Measure a restart with many reservations."""
    count = 2000 if quick else 10_000
    with row_of_switches(QUEUE_BYTES) as (switches, map_file), controller_of(switches, map_file) as (controller, api):
        port = api.base_url.port or 0
        work = [[("/v1/reservations", body_of(number))] for number in range(count)]
        per_s = completed_per_s(work, [KeepAliveClient(port) for _ in range(CLIENTS)])
        wait_until(lambda: "ledger_unrecorded" not in api.get("/v1/healthz").json(), 120)
        controller.kill()
        began_s = time.perf_counter()
        controller.start()
        wait_until(lambda: _answers(api), 120)
        answers_s, answers_cpu_s = time.perf_counter() - began_s, _cpu_s(controller.process.pid)
        wait_until(lambda: switches_in_sync(api), 120)
        in_step_s, in_step_cpu_s = time.perf_counter() - began_s, _cpu_s(controller.process.pid)
        log = controller.log.read_text()
        metrics_ms = [elapsed_ms(lambda: api.get("/metrics").raise_for_status()) for _ in range(5)]
        consistency_ms = [elapsed_ms(lambda: api.get("/v1/consistency").raise_for_status()) for _ in range(5)]
        if not api.get("/v1/consistency").json()["consistent"]:
            raise click.ClickException("the switches are in step, but not consistent")
        pages_ms = page_times_ms(api)
        alone_ms = setup_times_ms(port, range(count, count + BESIDE))
        beside_ms = setup_times_beside_lists_ms(api, port, range(count + BESIDE, count + 2 * BESIDE))
    claims = {
        "reservations": report.Claim(count, ""),
        "reservations_per_second": report.Claim(per_s, "1/s"),
        "seconds_to_answer": report.at_most(answers_s, "s", 5),
        "seconds_to_in_step": report.at_most(in_step_s, "s", 10),
        "cpu_seconds_to_answer": report.Claim(answers_cpu_s, "s"),
        "cpu_seconds_to_in_step": report.Claim(in_step_cpu_s, "s"),
        "switch_timeouts": report.at_most(log.count("No confirmation within"), "", 0),
        "metrics_ms": report.at_most(quantile(metrics_ms, 0.5), "ms", 50),
        "consistency_ms": report.at_most(quantile(consistency_ms, 0.5), "ms", 1000),
        "page_ms": report.Claim(quantile(pages_ms, 0.5), "ms"),
        "reservation_p50_ms": report.Claim(quantile(alone_ms, 0.5), "ms"),
        "reservation_beside_lists_p50_ms": report.Claim(quantile(beside_ms, 0.5), "ms"),
        "reservation_beside_lists_max_ms": report.Claim(max(beside_ms), "ms"),
    }
    table = Table("reservations", "answers s", "in step s", "metrics ms", "consistency ms", "page ms")
    figures = answers_s, in_step_s, claims["metrics_ms"].value, claims["consistency_ms"].value, claims["page_ms"].value
    table.add_row(str(count), *(f"{figure:.1f}" for figure in figures))
    samples: dict[str, object] = {
        "metrics_ms": metrics_ms, "consistency_ms": consistency_ms, "page_ms": pages_ms, "reservation_ms": alone_ms,
        "reservation_beside_lists_ms": beside_ms,
    }  # fmt: skip
    report.publish("restart", claims, samples, [table], out)


def _cpu_s(pid: int) -> float:
    """The processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _answers(api: httpx.Client) -> bool:
    try:
        return api.get("/v1/healthz").is_success
    except httpx.TransportError:
        return False


if __name__ == "__main__":
    main()
