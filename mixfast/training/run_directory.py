"""What a run leaves behind: one folder, described here and nowhere else.

config.yaml       the resolved configuration
metrics.jsonl     a line per evaluated epoch
summary.json      the final figures, written last
last.pt           everything a bit-exact resume needs
best.safetensors  the selected weights
curves.png        loss and accuracy over the epochs
events.out.*      the same for TensorBoard
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mixfast.config import Config
from mixfast.errors import MixfastError
from mixfast.files import replacing, write_text


class RunError(MixfastError):
    """A run directory cannot be created or continued."""


def unwritten(path: Path, error: Exception) -> str:
    """The message for a file of a run that cannot be written, such as on a full disk, and how to go on."""
    free = shutil.disk_usage(path.parent).free if path.parent.exists() else 0
    return (
        f"{path} cannot be written ({free / 2**20:,.1f} MiB are free there; what was written before is untouched): {error}. "
        f"When that is mended: mixfast train --resume {path.parent}"
    )


class RunDirectory:
    """The paths of a run and the small files in it."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"
        self.metrics_file = self.path / "metrics.jsonl"
        self.summary_file = self.path / "summary.json"
        self.last = self.path / "last.pt"
        self.best = self.path / "best.safetensors"
        self.curves = self.path / "curves.png"

    def create(self, config: Config) -> None:
        """Makes the folder and writes ``config.yaml``.

        Raises:
            RunError: a run is there already, or the folder cannot be written.
        """
        self.check_free()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write_text(self.config_file, config.to_yaml())
        except OSError as error:
            raise RunError(f"--out {self.path} cannot be written: {error.strerror or error}") from error

    def check_free(self) -> None:
        """Raises RunError where a run is already."""
        if self.config_file.exists():
            raise RunError(
                f"{self.path} already holds a run: continue it with `mixfast train --resume {self.path}`, or give "
                "another --out"
            )

    def read_config(self) -> Config:
        """The configuration of an existing run.

        Raises:
            RunError: there is no run here.
        """
        if not self.config_file.is_file():
            raise RunError(f"{self.path} holds no run: there is no {self.config_file.name} in it")
        return Config.from_yaml(self.config_file)

    @contextmanager
    def writing(self, file: Path) -> Iterator[None]:
        """While entered, an OSError is a RunError that names ``file``: that of a full disk names none."""
        try:
            yield
        except OSError as error:
            raise RunError(unwritten(file, error)) from error

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Adds one line, and waits until it is on the disk."""
        with self.writing(self.metrics_file), open(self.metrics_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def read_metrics(self) -> list[dict[str, Any]]:
        """All whole lines; a last one that a crash cut short is left out."""
        if not self.metrics_file.exists():
            return []
        records = []
        for line in self.metrics_file.read_text(encoding="utf-8").splitlines():
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError:
                break
        return records

    def keep_metrics_through(self, epoch: int) -> None:
        """Drops the lines of later epochs: a run killed after writing one repeats that epoch."""
        kept = [record for record in self.read_metrics() if record["epoch"] <= epoch]
        with self.writing(self.metrics_file):
            write_text(self.metrics_file, "".join(json.dumps(record) + "\n" for record in kept))

    def write_summary(self, summary: dict[str, Any]) -> None:
        with self.writing(self.summary_file):
            write_text(self.summary_file, json.dumps(summary, indent=2) + "\n")

    def read_summary(self) -> dict[str, Any] | None:
        """The final figures; None while the run is not finished."""
        return json.loads(self.summary_file.read_text(encoding="utf-8")) if self.summary_file.exists() else None

    def save_figure(self, figure: Any) -> None:
        """Writes a matplotlib figure as ``curves.png``."""
        with self.writing(self.curves), replacing(self.curves) as temporary:
            figure.savefig(temporary, format="png", dpi=120)
