"""What a person watching a run sees: a bar with samples per second and the time left, and a line per epoch."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


class TrainingProgress:
    """A bar over all the steps of a run; on something that is not a terminal only the epochs' lines are printed."""

    def __init__(self, console: Console, title: str, total_steps: int, done: int) -> None:
        self.console = console
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task(title, total=total_steps, completed=done, figures="")

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def advance(self) -> None:
        self._bar.update(self._task, advance=1)

    def show(self, rate: float, loss: float) -> None:
        """Figures known at a logging interval: samples a second and the mean loss."""
        self._bar.update(self._task, figures=f"{rate:,.0f} samples/s  loss {loss:.3f}")

    def line(self, text: str) -> None:
        self.console.print(text, highlight=False)
