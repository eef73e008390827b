"""Which backend the tests run on, and tests in a process of its own with another one.

A backend is chosen when ``mixfast_kernels`` is imported, an instruction set and Triton's interpreter likewise. Functions
called ``check_*`` are tests for such a process only: ``CHECKS`` makes pytest collect them instead of the others.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mixfast_kernels as mk
import pytest

ROOT = Path(__file__).parents[2]
CHECKS = ("-o", "python_functions=check_*")
INTERPRETED = {"MIXFAST_BACKEND": "triton", "TRITON_INTERPRET": "1"}

needs_native = pytest.mark.skipif(mk.backends()["cpu"].name != "native", reason="no native operators here")


def run_pytest(file, variables, *options):
    """What pytest printed for a test file in a process with these environment variables; fails with it if a test fails."""
    # More threads would only get in each other's way.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), **variables}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *options, str(file)]
    result = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    return result.stdout
