"""Edges that collect: they join when a folder holds enough images, and train on what arrives later."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.processes.training import training_processes
from tests.unit.trainer.data.test_folder import draw

EDGES, ENOUGH, ALL, ROUNDS = 2, 40, 70, 40

pytestmark = pytest.mark.timeout(400)


def take_photographs(folder: Path, first: int, last: int) -> None:
    for number in range(first, last):
        draw(folder / ("dark", "light")[number % 2] / f"{number}.png", 100 * (number % 2) + number, (16, 16))


def test_edges_join_with_enough_images_and_train_on_those_that_arrive_later(tmp_path: Path) -> None:
    folder = tmp_path / "photographs"
    take_photographs(folder, 0, 6)
    (folder / "dark" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n torn")
    cloud = ("--rounds", str(ROUNDS), "--steps", "1", "--average-every", "2", "--batch", "8", "--micro", "2",
             "--data", str(folder), "--ask-timeout", "30")
    with training_processes(tmp_path, EDGES, cloud, ("--data", str(folder), "--collect", "10")) as training:
        training.start_cloud()
        training.start_edges()
        waiting = training.wait_for("collecting")
        assert waiting["samples"] < waiting["wanted"] == 10
        assert waiting["sentence"] == f"{waiting['samples']} of 10 samples collected."
        take_photographs(folder, 6, ENOUGH)
        training.wait_for("gathered")
        training.wait_for("plan")
        take_photographs(folder, ENOUGH, ALL)
        assert training.finish() == 0, training.logs()
        summary, events = training.summary(), training.events()
        log = training.logs()
    assert f"of 10 samples collected. Watching {folder}." in log
    assert log.count("torn.png is left out: it is no readable image") == 1
    assert summary["status"] == "done"
    held = summary["data"]["edges"]
    assert ENOUGH - 10 < sum(edge["samples"] + edge["held_out"] for edge in held.values()) <= ALL
    grown = [event for event in events if event["event"] == "collected"]
    assert all(event["round"] in range(3, ROUNDS, 2) for event in grown)
    counts = {row["round"]: {edge["edge"]: edge["local_samples"] for edge in row["edges"]} for row in summary["rounds"]}
    assert counts[1] == counts[2]
    assert all(min(count.values()) >= 10 for count in counts.values())
    for event in grown:
        assert counts[event["round"]][event["edge"]] == event["samples"]
        assert counts[event["round"] - 1][event["edge"]] == event["samples"] - event["new_samples"]
    assert counts[ROUNDS] == {name: edge["samples"] for name, edge in held.items()}
    assert grown, "the images of the second half have joined"
