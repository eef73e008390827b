"""Several processes stop after the same step, and go on: bit for bit on as many processes, to rounding on others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from processes import finished, torchrun
from small_runs import assert_same_run
from stopped_runs import NEVER, run_once

from mixfast.training.team import ALONE

SCRIPT = Path(__file__).with_name("stopped_runs.py")
LOCAL = ["training.batch_norm=local", "training.ema_decay=0.9"]
FIRM = ["optimizer.lr=0.01", "schedule.max_steps=12"]


def run(count, tmp_path, *plan):
    file = tmp_path / "plan.json"
    file.write_text(json.dumps([[overrides, str(path), *rest] for overrides, path, *rest in plan]))
    finished(torchrun(count, SCRIPT, file))


def parts(overrides, path, last_rank, epoch):
    """Stopped inside the first epoch by the last process, then inside the second by the first."""
    return [
        (overrides, path, 3, last_rank, False),
        (overrides, path, epoch, 0, False),
        (overrides, path, NEVER, 0, True),
    ]


@pytest.mark.parametrize(
    ("count", "norms"), [(2, ["local"]), pytest.param(3, ["synchronised", "local"], marks=pytest.mark.long)]
)
def test_stopped_and_resumed_equals_never_stopped(count, norms, tmp_path) -> None:
    epoch = 2 * 1201 // (32 * count)
    short = [f"training.batch_size={32 * count}", f"schedule.max_steps={epoch + 8}"]
    plan = []
    for name in norms:
        overrides = [*short, *(LOCAL if name == "local" else ())]
        plan += [(overrides, tmp_path / f"{name}-whole", NEVER, 0, True)]
        plan += parts(overrides, tmp_path / name, count - 1, epoch)
    run(count, tmp_path, *plan)
    for name in norms:
        assert_same_run(tmp_path / f"{name}-whole", tmp_path / name)


@pytest.mark.parametrize(("first", "then"), [(1, 2), pytest.param(2, 1), pytest.param(2, 4, marks=pytest.mark.long)])
def test_resumed_on_another_number_of_processes(first, then, tmp_path) -> None:
    whole, path = tmp_path / "whole", tmp_path / "parts"
    assert run_once(ALONE, FIRM, whole, NEVER, 0)
    for count, steps, finishes in ((first, 5, False), (then, NEVER, True)):
        if count == 1:
            assert run_once(ALONE, FIRM, path, steps, 0) == finishes
        else:
            run(count, tmp_path, (FIRM, path, steps, count - 1, finishes))
    expected, got = (torch.load(folder / "last.pt") for folder in (whole, path))
    assert expected["position"]["step"] == got["position"]["step"] == 12
    for key, value in expected["network"].items():
        torch.testing.assert_close(got["network"][key], value, rtol=1e-3, atol=1e-4)
    records = [json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1]) for folder in (whole, path)]
    assert records[0]["loss"] == pytest.approx(records[1]["loss"], rel=1e-4)
