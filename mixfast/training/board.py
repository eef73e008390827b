"""What the processes of a run tell one another beside torch's collectives: that they live, and why they leave.

It lies in the store that ``torchrun`` hosts, so it can be read when a process is gone and a collective would not return.
"""

from __future__ import annotations

import hashlib
import os
import time
from datetime import timedelta

import torch.distributed as dist

from mixfast.errors import MixfastError
from mixfast.training.ranks import Ranks

BEAT_SECONDS = 1.0
PATIENCE_SECONDS = 4 * BEAT_SECONDS


class LostError(MixfastError):
    """Another process is gone, and this one cannot go on without it."""


class Board:
    """One process's view of the board. Of two threads, each needs a board of its own: a store answers one at a time.

    Raises:
        LostError: from the constructor, nothing answers at MASTER_ADDR and MASTER_PORT.
    """

    def __init__(self, ranks: Ranks) -> None:
        self.ranks = ranks
        address, port = os.environ.get("MASTER_ADDR", ""), os.environ.get("MASTER_PORT", "")
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        try:
            store = dist.TCPStore(
                address, int(port), is_master=False, timeout=timedelta(seconds=30), wait_for_workers=False
            )
        except (ValueError, RuntimeError) as error:
            raise LostError(f"nothing answers at MASTER_ADDR={address!r}, MASTER_PORT={port!r}: {error}") from error
        self._store = dist.PrefixStore(f"mixfast/{attempt}", store)

    def beat(self) -> None:
        """Says that this process lives."""
        self._store.add(f"beat/{self.ranks.rank}", 1)

    def beats(self, rank: int) -> int:
        """How often a process has said so."""
        return self._store.add(f"beat/{rank}", 0)

    def leave(self, reason: str) -> None:
        """Says, before this process ends early, that it knows why; ``reason`` is for the others to see."""
        self._store.set(f"left/{self.ranks.rank}", reason)
        self._store.set("ended", reason)

    def has_left(self, rank: int) -> bool:
        return self._store.check([f"left/{rank}"])

    def end(self, reason: str) -> None:
        """Says that the run cannot go on."""
        self._store.set("ended", reason)

    def why_ended(self) -> str | None:
        """Why the run cannot go on; None while it can."""
        return self._store.get("ended").decode() if self._store.check(["ended"]) else None

    def claim(self, message: str) -> bool:
        """Whether this process is the first to say ``message``: what all find wrong is said once."""
        return self._store.add(f"said/{_digest(message)}", 1) == 1

    def is_said(self, message: str, seconds: float) -> bool:
        """Whether another process says ``message`` within some seconds."""
        deadline = time.monotonic() + seconds
        while not self._store.add(f"said/{_digest(message)}", 0):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.1)
        return True

    def post(self, key: str) -> None:
        self._store.set(f"posted/{key}", "")

    def wait_for(self, key: str) -> None:
        """Waits, however long, until some process has posted ``key``.

        Raises:
            LostError: the run has ended.
        """
        while not self._store.check([f"posted/{key}"]):
            reason = self.why_ended()
            if reason is not None:
                raise LostError(reason)
            time.sleep(0.1)

    def silent(self) -> list[int]:
        """The processes that left without a word: within some seconds they do not say that they live."""
        others = [rank for rank in range(self.ranks.count) if rank != self.ranks.rank and not self.has_left(rank)]
        before = {rank: self.beats(rank) for rank in others}
        time.sleep(PATIENCE_SECONDS)
        return [rank for rank in others if self.beats(rank) == before[rank] and not self.has_left(rank)]


def _digest(message: str) -> str:
    return hashlib.sha256(message.encode()).hexdigest()[:32]
