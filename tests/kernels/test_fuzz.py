"""Wrong arguments are refused with a message, never with a crash: thousands of random calls (``fuzz.py``) in a process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import mixfast_kernels as mk
import pytest

BACKENDS = ["reference"] + ["native"] * (mk.backends()["cpu"].name == "native")


@pytest.mark.parametrize("backend", BACKENDS)
def test_random_calls_work_or_are_refused_with_a_message(backend):
    count = 1500
    command = [sys.executable, str(Path(__file__).with_name("fuzz.py")), "0", str(count)]
    environment = {**os.environ, "MIXFAST_BACKEND": backend}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for operator, outcomes in json.loads(done.stdout).items():
        assert sum(outcomes.values()) == count, operator
        # Both must be common, or the calls are not random in the right way.
        assert min(outcomes["worked"], outcomes["TypeError"], outcomes["ValueError"]) > count / 20, (operator, outcomes)
