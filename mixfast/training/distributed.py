"""Taking part in a run of several processes, as ``torchrun`` starts them: joining, and leaving whatever happens."""

from __future__ import annotations

import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist

from mixfast.errors import EXPECTED, print_error
from mixfast.training.board import Board, LostError
from mixfast.training.ranks import SECONDS_FOR_FIRST, Ranks
from mixfast.training.team import Team
from mixfast.training.watch import Watch, gone

# Who is gone is noticed by the watch. This limit is for a process that lives and does not come.
TIMEOUT = timedelta(minutes=30)


@contextmanager
def taking_part(debug: bool = False) -> Iterator[Team]:
    """The team that this process belongs to: alone, unless ``torchrun`` started several.

    Among several, what a person can mend is said once, by one process; a process that is gone ends the others with a
    message; and none leaves before all have finished.

    Args:
        debug: show the traceback of an error that a person can mend.

    Raises:
        MixfastError: the processes do not find one another.
        SystemExit: with status 2, an error that has been reported.
    """
    ranks = Ranks.from_environment()
    if ranks.count == 1:
        yield Team()
        return
    if not ranks.is_first:
        warnings.simplefilter("ignore")  # the first process has the same ones
    _join(ranks)
    team = Team(ranks, Board(ranks))
    watch = Watch(Board(ranks), lambda board, reason: _say(board, reason, team.advice))
    try:
        yield team
        team.wait_for_all()
    except Exception as error:
        _leave(team, error, debug)
        watch.stop()
        raise SystemExit(2) from error
    watch.stop()
    dist.destroy_process_group()


def _join(ranks: Ranks) -> None:
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    try:
        dist.init_process_group(backend, rank=ranks.rank, world_size=ranks.count, timeout=TIMEOUT)
    except (ValueError, RuntimeError) as error:
        raise LostError(f"the {ranks.count} processes of this run do not find one another: {error}") from error


def _leave(team: Team, error: Exception, debug: bool) -> None:
    """Says what is wrong, once among all processes, and lets the others know that it is known."""
    board, ranks = team.board, team.ranks
    if isinstance(error, EXPECTED) and not isinstance(error, LostError):
        # The same mistake is found by all. The first process says it at once, and the others only what it does not.
        message = str(error) or type(error).__name__
        if ranks.is_first or not board.is_said(message, SECONDS_FOR_FIRST):
            if board.claim(message):
                _print(message if ranks.is_first else f"process {ranks.rank}: {message}", error if debug else None)
        board.leave(message)
        return
    reason = board.why_ended()
    if reason is None:
        silent = board.silent()
        reason = gone(silent, ranks.count) if silent else board.why_ended()
    if reason is not None:
        # A collective failed because another process had left: that is why, whatever the collective says.
        board.end(reason)
        _say(board, reason, team.advice)
    else:
        reason = f"process {ranks.rank} stopped: {type(error).__name__}: {error}"
        if board.claim(f"{type(error).__name__}: {error}"):
            _print(reason, error)
    board.leave(reason)


def _say(board: Board, reason: str, advice: str) -> None:
    """A reason to end; nothing where the process that gave it has said so already."""
    if board.claim(reason):
        _print(f"{reason}; {advice}" if advice else reason, None)


def _print(message: str, error: Exception | None) -> None:
    if error is not None:
        traceback.print_exception(error)
    print_error(message)
    sys.stderr.flush()
