"""The files of a report: each whole or not at all, and none that another program wrote is touched."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import mixfast
from mixfast.files import replacing, write_text
from mixfast.report.inputs import Inputs
from mixfast.report.page import page
from mixfast.report.plots import Drawn

PAGE = "index.html"
# What the first bytes of all files of a report hold.
MADE_BY = "mixfast report"
HEAD = 4096


def check_folder(folder: Path) -> None:
    """Makes the folder if it is not there.

    Raises:
        ValueError: it cannot be written, or its page is not a report's.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"--out {folder} cannot be written: {error.strerror or error}") from error
    _require_own(folder / PAGE)


def write_report(inputs: Inputs, drawn: Drawn, folder: Path) -> Path:
    """Writes every plot as a PNG, then the page, and removes plots of an earlier report that are not in this one.

    Returns:
        The page.

    Raises:
        ValueError: a file that the report would replace is not a report's; nothing was written.
        OSError: the folder cannot be written.
    """
    files = [folder / f"{plot.name}.png" for plot in drawn.plots]
    for file in files:
        _require_own(file)
    software = f"{MADE_BY} {mixfast.__version__}"
    for plot, file in zip(drawn.plots, files, strict=True):
        with replacing(file) as temporary:
            temporary.write_bytes(plot.png(software))
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    write_text(folder / PAGE, page(inputs, drawn, software, date))
    for file in folder.glob("*.png"):
        if file not in files and _is_own(file):
            file.unlink()
    return folder / PAGE


def _require_own(file: Path) -> None:
    if file.exists() and not _is_own(file):
        raise ValueError(
            f"--out {file.parent} holds a {file.name} that mixfast report did not write and would replace: give another folder, or "
            "move it away"
        )


def _is_own(file: Path) -> bool:
    """Whether a report wrote it, which its first bytes say."""
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return MADE_BY.encode() in opened.read(HEAD)
