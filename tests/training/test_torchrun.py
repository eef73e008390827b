"""``torchrun -m mixfast train``, as a person meets it: one voice, one run directory, and an end to every way of ending."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from processes import finished, torchrun, wait_for, workers
from small_runs import SMALL, assert_same_run

from mixfast import cli
from mixfast.training.run_directory import RunDirectory

TRAIN = ("-m", "mixfast", "train", "quickstart")
SHORT = ("schedule.max_steps=40", "training.checkpoint_minutes=0.001")
ENDLESS = (*SMALL, "schedule.epochs=5000", "training.checkpoint_minutes=0.001")


def said(output: str) -> str:
    """Without the line breaks, and what torchrun itself adds."""
    return " ".join(line.strip() for line in output.splitlines() if "torch/distributed" not in line)


def failed(process, seconds: float = 300) -> str:
    output, _ = process.communicate(timeout=seconds)
    assert process.returncode != 0, output
    return said(output)


def test_quickstart_shows_its_usual_output_once(tmp_path) -> None:
    path = tmp_path / "run"
    output = said(finished(torchrun(2, *TRAIN, "--out", path, "model.name=wrn10-1", *SHORT)))
    for line in ("digits: 1,201 training images", "epoch  1/40", "subnetwork 2", "plain, same steps", "run directory:"):
        assert output.count(line) == 1, output
    for name in ("last.pt", "best.safetensors", "summary.json", "metrics.jsonl", "curves.png", "single/summary.json"):
        assert (path / name).exists()
    assert len(list(path.glob("events.out.*"))) == 1
    assert len(RunDirectory(path).read_metrics()) == 2
    assert cli.main(["eval", str(path)]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("training.batch_size=62",), "training.batch_size is 62, of all 4 processes together"),
        (("training.batchsize=62",), "training.batchsize"),
        (("training.device=cuda:1",), "training.device is cuda:1 and torchrun started 4 processes"),
        (("--no-such-option",), "unknown arguments: --no-such-option"),
        (("data.name=folder:nowhere",), "nowhere"),
    ],
)
@pytest.mark.long
def test_mistakes_are_said_once(arguments, message, tmp_path) -> None:
    output = failed(torchrun(4, *TRAIN, "--out", tmp_path / "run", *SMALL, *arguments))
    assert output.count("error: ") == 1 and message in output, output
    assert output.count("Traceback") == 1  # torchrun's own, of the process that failed
    assert not (tmp_path / "run").exists()


def test_where_a_run_is_no_other_begins(tmp_path) -> None:
    (tmp_path / "config.yaml").write_text("")
    output = failed(torchrun(2, *TRAIN, "--out", tmp_path, *SMALL))
    assert output.count("error: ") == 1 and "already holds a run" in output, output


@pytest.mark.long
def test_a_killed_process_ends_the_others_within_a_minute_and_the_run_goes_on(tmp_path) -> None:
    """To the same bits as if nobody had been killed."""
    settings = (*SMALL, "schedule.epochs=8", "training.checkpoint_minutes=0.001")
    finished(torchrun(2, *TRAIN, "--out", tmp_path / "whole", *settings))
    for rank in (0, 1):
        path = tmp_path / f"rank {rank} killed"
        process = torchrun(2, *TRAIN, "--out", path, *settings)
        wait_for(path / "metrics.jsonl", process)
        os.kill(workers(process)[rank], signal.SIGKILL)
        output = failed(process, seconds=60)
        assert output.count("error: ") == 1, output
        assert f"process {rank} of the 2 (counted from 0) ended without a word" in output
        assert f"mixfast train --resume {path}" in output
        reached = torch.load(path / "last.pt")["position"]["step"]
        assert 0 < reached < 8 * 37
        output = said(finished(torchrun(2, "-m", "mixfast", "train", "--resume", path)))
        assert f"resuming {path} at step {reached}" in output
        assert_same_run(tmp_path / "whole", path)


@pytest.mark.long
def test_a_signal_to_one_process_stops_all_after_one_step(tmp_path) -> None:
    path = tmp_path / "run"
    process = torchrun(2, *TRAIN, "--out", path, *ENDLESS)
    wait_for(path / "metrics.jsonl", process)
    os.kill(workers(process)[1], signal.SIGTERM)
    output = failed(process)
    assert output.count(f"stopped; go on with:  torchrun --nproc-per-node 2 -m mixfast train --resume {path}") == 1, (
        output
    )
    assert "error: " not in output
