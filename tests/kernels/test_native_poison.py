"""The C++ operators write every element of what they return: checked with fresh memory that is full of enormous numbers.

glibc fills new memory with a byte when ``MALLOC_PERTURB_`` is set as a process starts. (Reads and writes outside of tensors are
what the sanitizers look for, see tools/sanitize.py.)
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from running import needs_native, run_pytest

pytestmark = [
    needs_native,
    pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc fills new memory"),
]

# Its complement fills the memory: bytes 0x7F are 3.4e38 in float32, NaN in float16.
PERTURB = "128"


def test_fresh_memory_is_poisoned():
    """Or the test below could not fail."""
    code = "import torch; assert (torch.empty(1000) > 1e38).all()"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "MALLOC_PERTURB_": PERTURB}, check=True)


def test_no_element_is_left_unwritten():
    tests = Path(__file__).with_name("test_operators.py")
    chosen = "values or naive or gradients or low_precision or strided or empty"
    printed = run_pytest(tests, {"MALLOC_PERTURB_": PERTURB, "MIXFAST_BACKEND": "native"}, "-k", chosen)
    assert " passed" in printed
