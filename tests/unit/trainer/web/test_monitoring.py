"""Every metric that dashboards and alert rules name exists, with the labels that they use."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from controller.storage.ledger import IN_MEMORY, Ledger
from controller.telemetry.metrics import Metrics
from tests.unit.controller.simulated_switches import running_service
from tests.unit.trainer.web.records import round_row, write_run
from trainer.web.run_metrics import render_metrics
from trainer.web.run_store import RunStore

FOLDER = Path(__file__).parents[4] / "docs/grafana"
NAME = re.compile(r"\bpaceline_\w+")


def expressions() -> dict[str, list[str]]:
    found = {}
    for path in FOLDER.glob("*.json"):
        board = json.loads(path.read_text())
        queries = [variable["query"] for variable in board["templating"]["list"]]
        found[path.name] = [target["expr"] for panel in board["panels"] for target in panel["targets"]] + queries
    rules = yaml.safe_load((FOLDER / "alerts.yaml").read_text())
    found["alerts.yaml"] = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    return found


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    runs = tmp_path_factory.mktemp("runs")
    write_run(runs / "a", [round_row(1)])
    with running_service(Ledger(IN_MEMORY, "pair")) as service:
        texts = [Metrics(service.queries).render().decode(), render_metrics(RunStore(runs).all())]
    families: list[Any] = [family for text in texts for family in text_string_to_metric_families(text)]
    names = {sample.name for family in families for sample in family.samples}
    totals = {f"{family.name}_total" for family in families if family.type == "counter"}
    buckets = {f"{family.name}_bucket" for family in families if family.type == "histogram"}
    return names | totals | buckets


@pytest.mark.parametrize("name", sorted(expressions()))
def test_every_metric_that_is_named_exists(known: set[str], name: str) -> None:
    named = {metric for expression in expressions()[name] for metric in NAME.findall(expression)}
    assert len(named) > 5
    assert named - known == set()


def test_metrics_of_a_run_are_those_of_its_record(tmp_path: Path) -> None:
    write_run(tmp_path / "a", [round_row(1), round_row(2)])
    text = render_metrics(RunStore(tmp_path).all())
    assert 'paceline_run_round{run="a"} 2.0' in text
    assert 'paceline_run_promises_kept_total{run="a"} 4.0' in text
    assert 'paceline_run_status{run="a",status="done"} 1.0' in text
    assert 'paceline_run_bytes_total{run="a"} 4000.0' in text
