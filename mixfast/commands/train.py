"""``mixfast train``."""

from __future__ import annotations

import argparse
import re
from datetime import datetime
from pathlib import Path

from rich.console import Console

from mixfast.recipes import load_recipe
from mixfast.training.distributed import taking_part
from mixfast.training.run_directory import RunDirectory
from mixfast.training.session import Session, open_run
from mixfast.training.stopping import StopRequest
from mixfast.training.team import Team

HELP = "train a recipe, or go on with an interrupted run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", nargs="?", help="a recipe's name (see `mixfast recipes`) or a YAML file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings, as schedule.epochs=10")
    parser.add_argument("--data", metavar="DIR", help="the folder the data sets lie in (default: $MIXFAST_DATA)")
    parser.add_argument("--out", metavar="DIR", help="the run directory (default: runs/RECIPE-DATE)")
    parser.add_argument("--resume", metavar="RUN", help="go on with the run in this directory, bit for bit")
    parser.add_argument(
        "--select",
        choices=("validation", "test", "last"),
        help="what picks the epoch: a validation split (default), the test split as in the papers, or nothing",
    )
    parser.add_argument("--skip-corrupt", action="store_true", help="leave out image files that cannot be decoded")


def run(args: argparse.Namespace, console: Console) -> int:
    with StopRequest() as stop, taking_part(args.debug) as team:
        console = team.console(console)
        if args.resume is not None:
            given = [args.recipe, *args.overrides, args.data, args.out, args.select, args.skip_corrupt or None]
            extra = [str(value) for value in given if value]
            if extra:
                raise ValueError(
                    f"--resume goes on with the run's own configuration and takes nothing else, got {extra}"
                )
            config, directory = team.on_first(lambda: open_run(args.resume))
            team.advice = _advice(team, directory)
            finished = Session(config, directory, console, team).resume(stop)
        else:
            if args.recipe is None:
                raise ValueError("name a recipe (`mixfast recipes` lists them), or give --resume RUN")
            data = None if args.data is None else Path(args.data).expanduser().resolve()
            config = load_recipe(args.recipe, _overrides(args), data_dir=data)
            directory = RunDirectory(args.out or team.on_first(lambda: _default_directory(args.recipe)))
            team.on_first(directory.check_free)
            team.advice = _advice(team, directory)
            finished = Session(config, directory, console, team).start(stop)
        if finished:
            console.print(f"run directory: {directory.path}", highlight=False)
            return 0
        console.print(f"stopped; {_advice(team, directory)}", highlight=False)
        return 128 + team.any_signal(stop.signal_number or 0)


def _advice(team: Team, directory: RunDirectory) -> str:
    """How to go on with a run that ended early."""
    torchrun = "" if team.count == 1 else f"torchrun --nproc-per-node {team.ranks.local_count} -m "
    return f"go on with:  {torchrun}mixfast train --resume {directory.path}"


def _overrides(args: argparse.Namespace) -> list[str]:
    """The options that are short for a setting come before the settings given in full."""
    short = []
    if args.select is not None:
        short.append(f"evaluation.select={args.select}")
    if args.skip_corrupt:
        short.append("data.skip_corrupt=true")
    return [*short, *args.overrides]


def _default_directory(recipe: str) -> Path:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(recipe).stem)
    return Path("runs") / f"{name}-{datetime.now():%Y%m%d-%H%M%S}"
