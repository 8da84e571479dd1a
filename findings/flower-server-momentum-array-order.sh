#!/usr/bin/env bash
# Question: a model has two arrays of the same shape, scale = 1 and bias = 0. The server's record has them in
#   alphabetical order, as safetensors stores them; the clients return them in the order of the module's state_dict,
#   with the values that they were sent. What is the global model after each of four rounds, with FedAvg, FedAdam and
#   FedAvgM (server_momentum=0.9)?
# Software: flwr 1.42.0, Python 3.11 (pip, own venv). The strategies are Flower's own and run from start() to the
#   result; the clients answer in the same process.
# Most would expect: scale 1 and bias 0 throughout: no client has changed anything, and a record maps names to arrays.
#   If the order mattered, an error, since replies are checked to have the same names.
# Seen: so with FedAvg and FedAdam, which go by name. FedAvgM pairs the server's arrays with the clients' by position:
#   it takes the difference of bias and scale for an update, and from round 2 on its momentum drives scale up and bias
#   down. With the same order on both sides all stays as it was.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --no-compile --disable-pip-version-check \
    flwr==1.42.0 numpy==2.4.6 2>&1 | grep -v '^WARNING: Location' || true
export HOME=$folder FLWR_HOME=$folder FLWR_TELEMETRY_ENABLED=0
"$folder/venv/bin/python" - <<'PYTHON'
import logging
import sys

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM
from flwr.supercore.task_identity import TaskIdentity

logging.getLogger("flwr").setLevel(logging.ERROR)
TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # given to a ServerApp's process at its start
VALUES = {"scale": 1.0, "bias": 0.0}


class Clients(Grid):
    """Two clients that return what they were sent, in an order of their own."""

    run = None

    def __init__(self, names):
        self.names = names

    def get_node_ids(self):
        return [1, 2]

    def send_and_receive(self, messages, *, timeout=None):
        return [self.reply(message) for message in messages]

    def reply(self, message):
        sent = message.content["arrays"]
        arrays = ArrayRecord({name: sent[name] for name in self.names})
        return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})}), reply_to=message)

    def set_run(self, run): ...
    def create_message(self, *args, **kwargs): ...
    def get_nodes(self): ...
    def push_messages(self, messages): ...
    def pull_messages(self, message_ids): ...


def rounds(strategy, server_order, client_order):
    """(scale, bias) after each round."""
    seen = []

    def evaluate(number, arrays):
        seen.append(tuple(round(float(arrays[name].numpy()[0]), 4) for name in ("scale", "bias")))

    initial = ArrayRecord({name: Array(np.full(3, VALUES[name], np.float32)) for name in server_order})
    strategy.start(Clients(client_order), initial, num_rounds=4, evaluate_fn=evaluate)
    return seen[1:]


module, alphabetical = ("scale", "bias"), ("bias", "scale")
ok = True
for kind, options in ((FedAvg, {}), (FedAdam, {}), (FedAvgM, {"server_momentum": 0.9})):
    for server_order in (module, alphabetical):
        seen = rounds(kind(fraction_evaluate=0.0, **options), server_order, module)
        print(f"{kind.__name__:8} server {', '.join(server_order)}; clients {', '.join(module)}: (scale, bias) {seen}")
        if kind is FedAvgM and server_order is alphabetical:
            ok = ok and seen[0] == (1, 0) and seen[1] == (1.9, -0.9) and seen[3][0] > 2.5
        else:
            ok = ok and seen == [(1, 0)] * 4
print("as described" if ok else "CHANGED")
sys.exit(0 if ok else 1)
PYTHON
