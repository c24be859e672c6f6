"""Logs: each epoch once, in both forms, whatever was there before."""

import json
import sys

import pytest
import torch

from linf_plugin.training import Log
from linf_plugin.training.log import peak_memory_mib


def record(epoch: int, **more) -> dict:
    return {
        "epoch": epoch,
        "steps": 4 * (epoch + 1),
        "loss": 1 / (epoch + 1),
        "p": 8.0 if epoch < 2 else "inf",
        "eps": 0.1,
        "lr": 0.01,
        "seconds": 0.5,
        "images_per_second": 100.0,
        "peak_memory_mib": None,
        "time": 1000.0 + epoch,
        **more,
    }


def lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def scalars(folder) -> dict[str, list[tuple[int, float, float]]]:
    """(epoch, value, time) of everything that TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), purge_orphaned_data=False)
    found.Reload()
    return {tag: [(e.step, e.value, e.wall_time) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_an_epoch_is_a_line_and_a_point(tmp_path):
    records = [record(0), record(1, validation={"last": {"certified": 0.25}}, validation_seconds=2.0), record(2)]
    with Log(tmp_path / "a.jsonl", tmp_path / "board") as log:
        log.start([])
        for r in records:
            log.add(r)
            assert lines(tmp_path / "a.jsonl")[-1] == r  # at once, not at the end
    assert lines(tmp_path / "a.jsonl") == records
    found = scalars(tmp_path / "board")
    assert set(found) == {
        "loss",
        "eps",
        "lr",
        "seconds",
        "images_per_second",
        "1/p",
        "validation last/certified",
        "validation_seconds",
    }
    assert found["1/p"] == [(0, 0.125, 1000.0), (1, 0.125, 1001.0), (2, 0.0, 1002.0)]
    assert found["validation last/certified"] == [(1, 0.25, 1001.0)]


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_a_start_leaves_the_epochs_that_are_done(kept, tmp_path):
    """What is there may be a run that went on after its last state, a line half written, or another run."""
    path, board = tmp_path / "a.jsonl", tmp_path / "board"
    with Log(path, board) as log:
        log.start([])
        for epoch in range(2):
            log.add(record(epoch, lr=77.0))
    with open(path, "a") as f:
        f.write('{"epoch": 2, "los')
    (board / "mine.txt").write_text("stays")
    history = [record(epoch) for epoch in range(kept)]
    with Log(path, board) as log:
        log.start(history)
        log.add(record(kept))
    assert lines(path) == [*history, record(kept)]
    assert [point[0] for point in scalars(board)["lr"]] == list(range(kept + 1))
    assert {point[1] for point in scalars(board)["lr"]} == {torch.tensor(0.01).item()}
    assert (board / "mine.txt").exists()


def test_without_tensorboard_a_line_says_so_and_the_rest_is_written(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with Log(tmp_path / "a.jsonl", tmp_path / "board") as log:
        log.start([])
        log.add(record(0))
    note = capsys.readouterr().err
    assert note.count("\n") == 1 and "package tensorboard is not installed" in note
    assert lines(tmp_path / "a.jsonl") == [record(0)] and not (tmp_path / "board").exists()


def test_tensorboard_need_not_be_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with Log(tmp_path / "a.jsonl") as log:
        log.start([record(0)])
    assert lines(tmp_path / "a.jsonl") == [record(0)] and capsys.readouterr().err == ""


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_peak_memory_covers_what_is_held(device):
    held = torch.ones(2**28 // 4, device=device)  # 256 MiB
    assert 256 <= peak_memory_mib(torch.device(device)) < 1e6 and held[0] == 1
