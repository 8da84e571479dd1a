"""Metrics as a run of the experiment `paceline` on an MLflow tracking server, or in a store of MLflow's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

EXPERIMENT = "paceline"
TAG = "paceline.run"
LONGEST_VALUE = 500
PARAMETERS_A_REQUEST = 100
"""Source: MLflow REST API, "Log Batch": at most 100 parameters and 1000 metrics."""

DEFAULTS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Of the environment: MLflow's own try for minutes, and its telemetry asks a server of its maker."""


class MlflowSink:
    """Writes one run; a run of Paceline that is resumed goes on in the run that it has."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._client: Any = None
        self._run_id = ""

    def open(self, run: str, config: Mapping[str, Any]) -> None:
        """Create the run with the settings as parameters, or find it."""
        for name, value in DEFAULTS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient
        from mlflow.entities import Param

        self._client = MlflowClient(self._uri)
        experiment = self._client.get_experiment_by_name(EXPERIMENT)
        experiment_id = self._client.create_experiment(EXPERIMENT) if experiment is None else experiment.experiment_id
        found = self._client.search_runs([experiment_id], f"tags.`{TAG}` = '{run}'", max_results=1)
        if found:
            self._run_id = found[0].info.run_id
            self._client.update_run(self._run_id, status="RUNNING")
            return
        created = self._client.create_run(experiment_id, tags={TAG: run}, run_name=run)
        self._run_id = created.info.run_id
        parameters = [Param(name, str(value)[:LONGEST_VALUE]) for name, value in config.items()]
        for first in range(0, len(parameters), PARAMETERS_A_REQUEST):
            self._client.log_batch(self._run_id, params=parameters[first : first + PARAMETERS_A_REQUEST])

    def write(self, step: int, time_s: float, metrics: Mapping[str, float]) -> None:
        """Add metrics."""
        from mlflow.entities import Metric

        at_ms = round(time_s * 1000)
        self._client.log_batch(
            self._run_id, metrics=[Metric(name, number, at_ms, step) for name, number in metrics.items()]
        )

    def close(self, status: str) -> None:
        """End the run."""
        self._client.set_terminated(self._run_id, "FINISHED" if status == "done" else "FAILED")
