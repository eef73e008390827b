"""A thread in each process that notices when another process is gone, whatever the main thread waits for.

gloo tells at once when a process died on a machine that lives; NCCL, and a machine that lost its power, do not.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from mixfast.training.board import BEAT_SECONDS, Board

# Counted in looks, not on the clock, so that nobody is missed where all processes were suspended for a while.
LOOKS_UNTIL_LOST = 25
LOOKS_UNTIL_EXIT = 10


class Watch:
    """Says that this process lives, and looks whether the next one does; processes watch one another in a ring.

    Args:
        board: for this thread alone.
        report: says, once for all processes, why the run ended; called where the main thread does not come to it.
    """

    def __init__(self, board: Board, report: Callable[[Board, str], None]) -> None:
        self._board, self._report = board, report
        self._next = (board.ranks.rank + 1) % board.ranks.count
        self._done = threading.Event()
        board.beat()
        self._thread = threading.Thread(target=self._run, name="mixfast watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._done.set()
        self._thread.join()

    def _run(self) -> None:
        try:
            reason = self._until_ended()
        except RuntimeError as error:  # the store is gone, and with it the torchrun that hosts it
            reason = f"the processes' meeting point does not answer any more ({str(error).splitlines()[0]})"
        if reason is None or self._done.wait(LOOKS_UNTIL_EXIT * BEAT_SECONDS):
            return
        # The main thread has not noticed: it waits for a process that will never answer, and nothing can wake it.
        self._report(self._board, reason)
        os._exit(2)

    def _until_ended(self) -> str | None:
        """Why the run ended; None when this process is done with it."""
        seen, silent = -1, 0
        while not self._done.wait(BEAT_SECONDS):
            self._board.beat()
            reason = self._board.why_ended()
            if reason is not None:
                return reason
            beats = self._board.beats(self._next)
            silent = silent + 1 if beats == seen else 0
            seen = beats
            if silent == LOOKS_UNTIL_LOST:
                reason = gone([self._next], self._board.ranks.count)
                self._board.end(reason)
                return reason
        return None


def gone(ranks: list[int], count: int) -> str:
    """The reason to give for processes that left without a word."""
    names = " and ".join(str(rank) for rank in ranks)
    return (
        f"process {names} of the {count} (counted from 0) ended without a word: it was killed, or its machine failed. The "
        "others cannot go on without it and stop"
    )
