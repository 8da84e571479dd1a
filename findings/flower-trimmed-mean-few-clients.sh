#!/usr/bin/env bash
# Question: all clients return 1 but one, which returns 1000. What does FedTrimmedAvg with its default beta=0.2 make of
#   three, four and five of them, and what of honest clients with 1, 2 and 3 whose samples are 1, 1 and 98?
# Software: flwr 1.42.0, Python 3.11 (pip, own venv). The strategy is Flower's own and runs from start() to the result;
#   the clients answer in the same process.
# Most would expect: 1 each time, since beta is the share cut off at each end, or a warning where it cuts nothing; and
#   where nothing is cut, FedAvg's mean, 2.97.
# Seen: 334, 250.75 and 1. The number cut is rounded down, so that below 1/beta clients, five by default, nothing is
#   cut and no line of the log says so: one wrong client moves the model as in FedAvg. The mean has no weights either:
#   2 instead of 2.97. FedMedian gets 1 from all of them.
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
from flwr.serverapp.strategy import FedAvg, FedMedian, FedTrimmedAvg
from flwr.supercore.task_identity import TaskIdentity

TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1  # given to a ServerApp's process at its start
warnings = []


class Keep(logging.Handler):
    def emit(self, record):
        if record.levelno >= logging.WARNING and "fraction_evaluate" not in record.getMessage():
            warnings.append(record.getMessage())


log = logging.getLogger("flwr")
log.handlers = [Keep()]


class Clients(Grid):
    """One client for each value, each with its number of samples."""

    run = None

    def __init__(self, values, samples):
        self.answers = list(zip(values, samples))

    def get_node_ids(self):
        return list(range(len(self.answers)))

    def send_and_receive(self, messages, *, timeout=None):
        return [self.reply(message) for message in messages]

    def reply(self, message):
        value, samples = self.answers[message.metadata.dst_node_id]
        arrays = ArrayRecord({"layer": Array(np.full(3, value, np.float32))})
        return Message(RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": samples})}),
                       reply_to=message)

    def set_run(self, run): ...
    def create_message(self, *args, **kwargs): ...
    def get_nodes(self): ...
    def push_messages(self, messages): ...
    def pull_messages(self, message_ids): ...


def result(strategy, values, samples):
    """The global model after one round."""
    seen = []
    strategy(fraction_evaluate=0.0).start(
        Clients(values, samples), ArrayRecord({"layer": Array(np.zeros(3, np.float32))}), num_rounds=1,
        evaluate_fn=lambda number, arrays: seen.append(round(float(arrays["layer"].numpy()[0]), 2)))
    return seen[-1]


ok = True
for values, samples, expected in (
    ([1, 1, 1000], [10] * 3, (334, 334, 1)),
    ([1, 1, 1, 1000], [10] * 4, (250.75, 250.75, 1)),
    ([1, 1, 1, 1, 1000], [10] * 5, (200.8, 1, 1)),
    ([1, 2, 3], [1, 1, 98], (2.97, 2, 2)),
):
    seen = tuple(result(strategy, values, samples) for strategy in (FedAvg, FedTrimmedAvg, FedMedian))
    print(f"clients {values}, samples {samples}: FedAvg {seen[0]}, FedTrimmedAvg {seen[1]}, FedMedian {seen[2]}")
    ok = ok and seen == expected
print(f"warnings: {warnings or 'none'}")
print("as described" if ok and not warnings else "CHANGED")
sys.exit(0 if ok and not warnings else 1)
PYTHON
