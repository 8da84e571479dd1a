"""Federated averaging of the whole model with Flower: model, data, mini-batches and optimizer of `LocalEdge`.

Flower starts a process for each task. The task enters the CPU limit of its edge once its modules and data are loaded.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from harness.local_federation import AVERAGE_EVERY, LocalEdge, accuracy
from trainer.data.standardization import Standardization, standardize
from trainer.models.optimizer import OptimizerConfig

client = ClientApp()
server = ServerApp()

NODES_POLL_S = 0.1


def _edge(context: Context) -> tuple[LocalEdge, Standardization]:
    torch.set_num_threads(1)
    node, run = context.node_config, context.run_config
    edge = LocalEdge(int(node["number"]), int(run["edges"]), int(run["seed"]))
    how = Standardization(**json.loads(str(run["standardization"])))
    edge.inputs = standardize(edge.data.train.inputs, how)
    edge.train(1)  # loads what torch imports on first use; the weights are replaced
    edge.optimizer = OptimizerConfig(weight_decay=float(run["weight-decay"])).build(edge.model.parameters())
    for directory in str(node["cgroups"]).split(":"):
        Path(directory, "cgroup.procs").write_text(str(os.getpid()))
    return edge, how


def _process_age_s() -> float:
    start_ticks = int(Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - start_ticks / os.sysconf("SC_CLK_TCK")


@client.train()
def train(message: Message, context: Context) -> Message:
    """Train as many mini-batches as an edge does between two averagings."""
    edge, _ = _edge(context)
    start_s = _process_age_s()
    edge.model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    edge.model.train()
    first = (int(message.content["config"]["server-round"]) - 1) * AVERAGE_EVERY + 1
    for number in range(first, first + AVERAGE_EVERY):
        edge.train(number)
    metrics = MetricRecord({"num-examples": len(edge.labels), "start-s": start_s})
    return Message(RecordDict({"arrays": ArrayRecord(edge.model.state_dict()), "metrics": metrics}), reply_to=message)


@client.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Count the held-out samples that the averaged model classifies correctly."""
    edge, how = _edge(context)
    start_s = _process_age_s()
    edge.model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    metrics = MetricRecord({"num-examples": len(edge.data.held_out), "start-s": start_s,
                            "accuracy": accuracy(edge.model, [edge], how)})
    return Message(RecordDict({"metrics": metrics}), reply_to=message)


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Average until the run is stopped from outside; a line of JSON in the log tells each event."""
    run = context.run_config
    edges = int(run["edges"])

    def record(event: str, **fields: object) -> None:
        with Path(str(run["log"])).open("a") as log:
            log.write(json.dumps({"time": time.time(), "event": event, **fields}) + "\n")

    def trained(replies: list[RecordDict], _key: str) -> MetricRecord:
        record("averaged", start_s=max(float(reply["metrics"]["start-s"]) for reply in replies), edges=len(replies))
        return MetricRecord({"edges": len(replies)})

    def evaluated(replies: list[RecordDict], _key: str) -> MetricRecord:
        metrics = [reply["metrics"] for reply in replies]
        total = sum(int(one["num-examples"]) for one in metrics)
        share = sum(float(one["accuracy"]) * int(one["num-examples"]) for one in metrics) / total
        record("evaluated", start_s=max(float(one["start-s"]) for one in metrics), accuracy=share)
        return MetricRecord({"accuracy": share})

    while len(list(grid.get_node_ids())) < edges:
        time.sleep(NODES_POLL_S)
    record("first_round")
    strategy = FedAvg(min_train_nodes=edges, min_evaluate_nodes=edges, min_available_nodes=edges,
                      train_metrics_aggr_fn=trained, evaluate_metrics_aggr_fn=evaluated)
    model = LocalEdge(0, edges, int(run["seed"])).model
    strategy.start(grid, ArrayRecord(model.state_dict()), num_rounds=int(run["averagings"]))
