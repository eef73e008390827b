"""``mixfast report``."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from mixfast.report import check_folder, draw, read_inputs, write_report

HELP = "draw runs and records into a page: accuracy and cost, overheads, roofline, curves, calibration, scaling"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "paths",
        nargs="+",
        metavar="PATH",
        help="run directories of mixfast train, and records of mixfast bench and mixfast flops (--json)",
    )
    parser.add_argument(
        "-o",
        "--out",
        default="report",
        metavar="DIR",
        help="the folder of the page and its PNGs (default: %(default)s)",
    )


def run(args: argparse.Namespace, console: Console) -> int:
    inputs = read_inputs(args.paths)
    folder = Path(args.out).expanduser()
    check_folder(folder)
    drawn = draw(inputs)
    written = write_report(inputs, drawn, folder)
    console.print(f"report: {written}, {len(drawn.plots)} plots, each a PNG beside it too", highlight=False)
    for kind in drawn.missing:
        console.print(f"without: {kind.title}, which needs {kind.needs}", highlight=False, style="dim")
    for reason in inputs.uncounted:
        console.print(f"not counted: {reason}", highlight=False, style="dim")
    return 0
