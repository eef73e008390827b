"""``mixfast bench kernels`` in several processes, one after the other.

Where a process's memory lies, and what the compiler made of an opponent, is drawn once a process, and shifts all of its rounds:
more rounds do not average it out, more processes do.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from mixfast.errors import MixfastError
from mixfast_bench.kernel_measurement import KernelMeasurement, from_record, joined


def measure_in_processes(
    args: argparse.Namespace, operators: Sequence[str], console: Console
) -> list[KernelMeasurement]:
    """As ``measure_kernels``, with ``args.rounds`` rounds in each of ``args.processes`` processes.

    Raises:
        MixfastError: a process failed; with the end of what it said.
    """
    measured = []
    with tempfile.TemporaryDirectory() as folder, console.status("") as status:
        for number in range(1, args.processes + 1):
            status.update(f"measuring in process {number} of {args.processes}")
            file = Path(folder) / f"{number}.json"
            done = subprocess.run(
                [sys.executable, "-m", "mixfast", *_arguments(args, operators, file)], capture_output=True, text=True
            )
            if done.returncode != 0:
                said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
                raise MixfastError(f"process {number} of {args.processes} ended with status {done.returncode}: {said}")
            measured.append(from_record(json.loads(file.read_text())))
    return joined(measured)


def _arguments(args: argparse.Namespace, operators: Sequence[str], file: Path) -> list[str]:
    """Those of the same bench in a single process."""
    return [
        *("bench", "kernels", "--op", *operators),
        *("--dtype", args.dtype, "--times", str(args.times), "--rounds", str(args.rounds)),
        *("--device", args.device, "--json", str(file)),
    ]
