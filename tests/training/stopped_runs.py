"""A run that is never stopped, and the same run stopped by one process and resumed: what ``torchrun`` starts."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

from rich.console import Console
from small_runs import SMALL, StopAfter

from mixfast.recipes import load_recipe
from mixfast.training.distributed import taking_part
from mixfast.training.run_directory import RunDirectory
from mixfast.training.session import Session
from mixfast.training.team import Team

NEVER = 10**9


def run_once(team: Team, overrides: list[str], path: Path, steps: int, stopping_rank: int) -> bool:
    """Begins or resumes a run in which one process is asked to stop after some steps; whether it finished."""
    stop = StopAfter(steps if team.ranks.rank == stopping_rank else NEVER)
    console = team.console(Console(file=io.StringIO()))
    is_new = team.on_first(lambda: not (path / "last.pt").exists())
    session = Session(load_recipe("quickstart", [*SMALL, *overrides]), RunDirectory(path), console, team)
    return session.start(stop) if is_new else session.resume(stop)


def main(plan_file: str) -> None:
    """The plan: a list of overrides, path, steps after which a process is asked to stop, its rank, whether that ends it."""
    with taking_part() as team:
        for overrides, path, steps, stopping_rank, finishes in json.loads(Path(plan_file).read_text()):
            assert run_once(team, overrides, Path(path), steps, stopping_rank) == finishes, (path, steps)


if __name__ == "__main__":
    main(*sys.argv[1:])
