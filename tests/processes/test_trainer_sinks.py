"""`paceline train --tensorboard --mlflow`: what a real MLflow server and TensorBoard's own reader have afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
import yaml

from machine.polling import wait_until
from tests.processes.training import free_ports
from trainer import load_run

# mlflow-skinny has no server, and the Flask that it needs; every pytest worker would wait for an import of the two.
pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("mlflow", "flask", "tensorboard")),
    reason="THE EXTRA tests IS MISSING: scripts/set-up tests",
)

BIN = Path(sys.executable).parent


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory, port = tmp_path_factory.mktemp("mlflow"), free_ports(1)
    command = [str(BIN / "mlflow"), "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
               "--backend-store-uri", f"sqlite:///{directory}/mlflow.db",
               "--artifacts-destination", str(directory / "artifacts")]  # fmt: skip
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (directory / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=directory, env=environment, stdout=log, stderr=log,
                                   start_new_session=True)
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert process.poll() is None, (directory / "log").read_text()
        try:
            return client.get("/health").status_code == 200
        except httpx.HTTPError:
            return False

    try:
        with httpx.Client(base_url=url, timeout=1) as client:  # httpx.get would read the certificates at every call
            wait_until(answers)
        yield url
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def test_both_sinks_have_the_rounds_of_the_run(server: str, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    command = [str(BIN / "paceline"), "train", "--local", "--edges", "2", "--port", str(free_ports(3)), "--rounds", "5",
               "--steps", "2", "--tensorboard", "board", "--mlflow", server, "--quiet"]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (directory,) = (tmp_path / "runs").iterdir()
    rounds = load_run(directory).rounds
    losses = [(row["round"], pytest.approx(row["loss"], rel=1e-5)) for row in rounds]

    board = EventAccumulator(str(tmp_path / "board" / directory.name))
    board.Reload()
    scalars = board.Tags()["scalars"]
    assert {"loss", "accuracy", "duration_ms", "cut/edge1", "training_ms/edge2"} <= set(scalars)
    assert [(event.step, event.value) for event in board.Scalars("loss")] == losses
    assert "settings" in board.Tags()["tensors"]

    def ask(path: str, **body: object) -> dict[str, object]:
        answer = httpx.post(f"{server}/api/2.0/mlflow/{path}", json=body, timeout=30)
        answer.raise_for_status()
        told: dict[str, object] = answer.json()
        return told

    def get(path: str, **query: str) -> dict[str, object]:
        answer = httpx.get(f"{server}/api/2.0/mlflow/{path}", params=query, timeout=30)
        answer.raise_for_status()
        told: dict[str, object] = answer.json()
        return told

    experiment = get("experiments/get-by-name", experiment_name="paceline")["experiment"]
    assert isinstance(experiment, dict)
    found = ask("runs/search", experiment_ids=[experiment["experiment_id"]])["runs"]
    assert isinstance(found, list)
    (run,) = found
    assert (run["info"]["run_name"], run["info"]["status"]) == (directory.name, "FINISHED")
    config = yaml.safe_load((directory / "config.yaml").read_text())
    assert {each["key"]: each["value"] for each in run["data"]["params"]}["rounds"] == str(config["rounds"]) == "5"
    history = get("metrics/get-history", run_id=run["info"]["run_id"], metric_key="loss")["metrics"]
    assert isinstance(history, list)
    assert [(each["step"], each["value"]) for each in history] == losses
