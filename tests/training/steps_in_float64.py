"""A few training steps in float64, on however many processes: what rounding leaves of a difference is below 1e-9.

``torchrun`` starts this file; the tests import it for one process.
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from rich.console import Console
from small_runs import SMALL

from mixfast.recipes import load_recipe
from mixfast.training import trainer as trainer_module
from mixfast.training.distributed import taking_part
from mixfast.training.run_directory import RunDirectory
from mixfast.training.session import build_network, check_shares, load_data
from mixfast.training.stopping import StopRequest
from mixfast.training.team import Team
from mixfast.training.trainer import Trainer


def train_in_float64(overrides: list[str], path: Path, team: Team) -> dict[str, Any]:
    """The weights, buffers and mean loss after ``schedule.max_steps``."""
    config = load_recipe("quickstart", [*SMALL, *overrides])
    check_shares(config, team.count)
    splits = load_data(config, torch.device("cpu"))
    network, method = build_network(config, splits.train)
    run = RunDirectory(path)
    team.on_first(lambda: run.create(config))
    console = Console(file=io.StringIO())
    trainer = Trainer(config, network.double(), method, splits.train, splits.held_out, run, console, team)
    trainer.feed.make_views.dtype = torch.float64
    # Evaluation feeds float32 images, which a float64 network refuses; it isn't what is tested here.
    with mock.patch.object(trainer_module, "predict_logits", lambda network, data, *_: torch.zeros(len(data), 1, 10)):
        assert trainer.train(StopRequest())
    loss = trainer._mean_loss()
    states = team.gather(torch.cat([value.double().flatten() for value in trainer.network.state_dict().values()]))
    assert torch.equal(states, states[:1].expand_as(states)), "the processes are in different states"
    return {**trainer.network.state_dict(), "loss": torch.tensor(loss)}


def main(cases_file: str, folder: str) -> None:
    with taking_part() as team:
        for name, overrides in json.loads(Path(cases_file).read_text()).items():
            state = train_in_float64(overrides, Path(folder) / name, team)
            if team.is_first:
                torch.save(state, Path(folder) / f"{name}.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
