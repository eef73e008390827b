"""Settings of a run small enough for tests, and whether two runs ended alike."""

from __future__ import annotations

import json

import torch

from mixfast.training.run_directory import RunDirectory

SMALL = (
    "model.name=wrn10-1",
    "baseline=false",
    "schedule.epochs=3",
    "schedule.decay_epochs=[2]",
    "training.compile=off",
)


def timeless(run):
    """A run's metrics without what depends on the clock."""
    clock = ("seconds", "images_per_second")
    return [{k: v for k, v in record.items() if k not in clock} for record in run.read_metrics()]


class StopAfter:
    """A stop request that comes true after so many looks at it; the loop looks once a step."""

    signal_number = 15

    def __init__(self, looks):
        self.looks = looks

    def __bool__(self):
        self.looks -= 1
        return self.looks < 0


def final_state(path):
    """Everything that two equal runs must have alike: the last checkpoint's tensors and the metrics."""
    run = RunDirectory(path)
    state = torch.load(run.last, weights_only=True)
    summary = {k: v for k, v in json.loads(run.summary_file.read_text()).items() if "second" not in k}
    tensors = {
        f"{part}.{name}": value for part in ("network", "average") for name, value in (state[part] or {}).items()
    }
    for number, slots in state["optimiser"]["state"].items():
        tensors |= {f"optimiser.{number}.{name}": value for name, value in slots.items()}
    return tensors, timeless(run), summary, run.best.read_bytes()


def assert_same_run(first, second):
    tensors, metrics, summary, best = final_state(first)
    other_tensors, other_metrics, other_summary, other_best = final_state(second)
    assert tensors.keys() == other_tensors.keys()
    differing = [
        name
        for name, value in tensors.items()
        if not torch.equal(torch.as_tensor(value), torch.as_tensor(other_tensors[name]))
    ]
    assert not differing
    assert metrics == other_metrics and summary == other_summary
    assert best == other_best
