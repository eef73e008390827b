"""Stopping politely: the first SIGINT or SIGTERM lets the step finish, the second one ends at once.

Under ``torchrun`` a second one is nobody's impatience: a scheduler and torchrun may both pass the same one on, and torchrun
itself ends what does not stop within half a minute. There it changes nothing.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType

from mixfast.training.ranks import Ranks


class StopRequest:
    """While entered, remembers that the process was asked to stop, in ``signal_number``.

    Only the main thread may set signal handlers; elsewhere nothing is installed and the process stops as usual.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._ends_at_once = Ranks.from_environment().count == 1
        self._previous: dict[int, object] = {}

    def __bool__(self) -> bool:
        return self.signal_number is not None

    def __enter__(self) -> StopRequest:
        try:
            self._previous = {number: signal.signal(number, self._received) for number in self.SIGNALS}
        except ValueError:  # not the main thread
            self._previous = {}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _received(self, number: int, frame: FrameType | None) -> None:
        self.signal_number = number
        if self._ends_at_once:
            self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
