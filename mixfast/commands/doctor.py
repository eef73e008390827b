"""``mixfast doctor``: what works on this machine, and why the rest does not."""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
from collections.abc import Iterator
from importlib import metadata

import torch
from rich.console import Console
from rich.table import Table

from mixfast.commands.operator_checks import Line, check_operators
from mixfast.data import data_set_names, split_names, why_unusable
from mixfast.data.registry import is_of_your_own
from mixfast.data.sources.dali_presence import why_no_dali
from mixfast.training.compiling import missing_compiler

HELP = "say which devices, compilers, packages and data sets are usable here, and check every operator"

PACKAGES = ("torch", "torchvision", "triton", "numpy", "nvidia-dali-cuda130", "mixfast")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", metavar="DIR", help="the folder the data sets lie in (default: $MIXFAST_DATA)")


def run(args: argparse.Namespace, console: Console) -> int:
    table = Table(title=f"mixfast on {platform.system()} {platform.machine()}, Python {platform.python_version()}")
    table.add_column("")
    table.add_column("usable")
    table.add_column("detail", overflow="fold")
    for rows in (_versions(), _devices(), _tools(), _data_sets(args.data)):
        for name, usable, detail in rows:
            table.add_row(name, "yes" if usable else "no", detail)
        table.add_section()
    console.print(table)
    lines = list(check_operators())
    console.print(_operator_table(lines))
    wrong = [f"{line.operator} ({line.backend})" for line in lines if line.operator and not line.passed]
    if wrong:
        console.print(f"wrong here: {', '.join(wrong)}; please report this", style="red", highlight=False)
    return 1 if wrong else 0


def _operator_table(lines: list[Line]) -> Table:
    # As narrow as can be: a line of an operator fits into 80 characters.
    title = "operators, forward and backward: error against float64, first run"
    table = Table(title=title, box=None, pad_edge=False, padding=(0, 1, 0, 0))
    for column in ("backend", "operator", "right"):
        table.add_column(column, no_wrap=True)
    table.add_column("detail", overflow="fold")
    previous = ""
    for line in lines:
        if previous not in ("", line.backend):
            table.add_row()
        table.add_row("" if line.backend == previous else line.backend, line.operator, _answer(line), line.detail)
        previous = line.backend
    return table


def _answer(line: Line) -> str:
    if line.passed:
        return "yes"
    return "NO" if line.operator else "-"


def _versions() -> Iterator[tuple[str, bool, str]]:
    for name in PACKAGES:
        try:
            yield name, True, metadata.version(name)
        except metadata.PackageNotFoundError:
            yield name, False, "not installed"


def _devices() -> Iterator[tuple[str, bool, str]]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    capability = torch.backends.cpu.get_cpu_capability()
    yield "cpu", True, f"{torch.get_num_threads()} threads on {cores} cores, {capability}"
    if not torch.cuda.is_available():
        built = torch.version.cuda
        yield (
            "cuda",
            False,
            f"torch is built for CUDA {built} but finds no usable GPU" if built else "a torch without CUDA",
        )
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        detail = (
            f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, sm_{properties.major}{properties.minor}"
        )
        yield f"cuda:{index}", True, detail


def _tools() -> Iterator[tuple[str, bool, str]]:
    for kind in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        missing = missing_compiler(torch.device(kind))
        yield f"torch.compile on {kind}", missing is None, missing or "training.compile=auto uses it where it pays"
    found = importlib.util.find_spec("amp_C") is not None
    detail = "optimizer.implementation=apex" if found else "no module amp_C: torch's fused optimisers are used"
    yield "NVIDIA apex", found, detail
    missing = why_no_dali("cpu", torch.device("cpu"))
    yield "NVIDIA DALI", missing is None, missing or "data.source=dali, and auto where decoded images do not fit"


def _data_sets(root: str | None) -> Iterator[tuple[str, bool, str]]:
    for name in data_set_names():
        if is_of_your_own(name):
            continue
        reason = why_unusable(name, root)
        yield name, reason is None, reason or "splits " + ", ".join(split_names(name, root))
