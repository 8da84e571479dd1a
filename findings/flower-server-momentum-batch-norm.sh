#!/usr/bin/env bash
# Question: four clients train a small model with batch norm in Flower; the server averages with FedAvg, with FedAvgM
#   (server_momentum=0.9), with FedAdam as it is from the start. All train stably on the same kind of data. What does
#   the global model predict over 30 rounds?
# Software: flwr 1.42.0, torch 2.13.0 on a CPU, Python 3.11 (pip, own venv). The strategies are Flower's own and run
#   from start() to the result; the clients answer in the same process.
# Most would expect: a model that learns with each of the three, a little faster or slower.
# Seen: FedAvg learns. With momentum on the server the global model predicts NaN for every sample in many rounds, with
#   FedAvgM from round 2, with FedAdam from about round 12, while every client's loss is finite throughout and falls.
#   A strategy does not know which arrays are weights: momentum moves batch norm's running_var as well, past what any
#   client sent and below zero. A client does not notice, since in training batch norm does not use it.
#   num_batches_tracked, a count of batches, becomes 23.2.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check \
    flwr==1.42.0 torch==2.13.0 numpy==2.4.6 2>&1 | grep -v '^WARNING: Location' || true
export HOME=$folder FLWR_HOME=$folder FLWR_TELEMETRY_ENABLED=0
"$folder/venv/bin/python" - <<'PYTHON'
import logging
import math
import sys

import torch
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM
from flwr.supercore.task_identity import TaskIdentity
from torch import nn
from torch.nn.functional import cross_entropy

CLIENTS, SAMPLES, ROUNDS = 4, 256, 30
logging.getLogger("flwr").setLevel(logging.ERROR)
torch.set_num_threads(1)
TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # given to a ServerApp's process at its start


def network():
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))


def samples():
    values = torch.rand(SAMPLES, 8)
    return values, (values[:, 0] + values[:, 1] > 1).long()


class Clients(Grid):
    """Four clients that train for one epoch and return the model."""

    run = None

    def __init__(self, data):
        self.data, self.losses = data, []

    def get_node_ids(self):
        return range(1, CLIENTS + 1)

    def send_and_receive(self, messages, *, timeout=None):
        return [self.train(message) for message in messages]

    def train(self, message):
        model = network()
        model.load_state_dict(message.content["arrays"].to_torch_state_dict())
        values, labels = self.data[message.metadata.dst_node_id - 1]
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        for batch in torch.arange(SAMPLES).split(32):
            optimizer.zero_grad()
            loss = cross_entropy(model(values[batch]), labels[batch])
            loss.backward()
            optimizer.step()
        self.losses.append(loss.item())
        metrics = MetricRecord({"num-examples": SAMPLES})
        return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)

    def set_run(self, run): ...
    def create_message(self, *args, **kwargs): ...
    def get_nodes(self): ...
    def push_messages(self, messages): ...
    def pull_messages(self, message_ids): ...


def federate(strategy):
    torch.manual_seed(0)
    clients = Clients([samples() for _ in range(CLIENTS)])
    values, labels = (torch.cat(parts) for parts in zip(*clients.data, strict=True))
    bad, counts, accuracies = [], [], []

    def evaluate(number, arrays):
        model = network().eval()
        model.load_state_dict(arrays.to_torch_state_dict())
        predictions = model(values)
        if predictions.isnan().all():
            bad.append((number, model[1].running_var.min().item()))
        counts.append(arrays["1.num_batches_tracked"].numpy().item())
        accuracies.append((predictions.argmax(1) == labels).float().mean().item())

    strategy.start(clients, ArrayRecord(network().state_dict()), num_rounds=ROUNDS, evaluate_fn=evaluate)
    first, last = (sum(losses) / CLIENTS for losses in (clients.losses[:CLIENTS], clients.losses[-CLIENTS:]))
    print(f"{type(strategy).__name__}: rounds in which all predictions are NaN: {[number for number, _ in bad]}, "
          f"least running_var there {min((least for _, least in bad), default=math.nan):.3f}; "
          f"num_batches_tracked after rounds 1, 2: {counts[1]:g}, {counts[2]:g}; "
          f"clients' loss {first:.3f} to {last:.3f}; best accuracy {max(accuracies):.3f}")
    healthy = all(map(math.isfinite, clients.losses)) and last < first
    return [number for number, _ in bad], all(least < 0 for _, least in bad), healthy, counts


plain, _, plain_healthy, plain_counts = federate(FedAvg(fraction_evaluate=0.0))
momentum, below, healthy, counts = federate(FedAvgM(fraction_evaluate=0.0, server_momentum=0.9))
adam, adam_below, adam_healthy, _ = federate(FedAdam(fraction_evaluate=0.0))
ok = not plain and plain_healthy and plain_counts[1:3] == [8, 16]
ok = ok and momentum[:2] == [2, 3] and len(momentum) > 5 and below and healthy and counts[2] % 1 != 0
ok = ok and len(adam) > 5 and adam_below and adam_healthy
print("as described" if ok else "CHANGED")
sys.exit(0 if ok else 1)
PYTHON
