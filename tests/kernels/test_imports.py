"""``mixfast_kernels`` needs torch only: no trainer, no Triton, no compiler."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = '''
import sys, warnings

ABSENT = {absent}

class Without:
    """A finder that does not see some packages."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in ABSENT else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
import torch
warnings.simplefilter("ignore")
import mixfast_kernels as mk

mixing = mk.Mixing(torch.ones(2, 2), torch.zeros(2, 2), (4, 4), box=torch.tensor([[0, 0, 2, 4]] * 2, dtype=torch.int32))
features = torch.randn(2, 5, 4, 4, requires_grad=True)
mk.unmix_pool(features, mixing).sum().backward()
torch.testing.assert_close(features.grad[:, :, :2], torch.full((2, 5, 2, 4), 2 / 16))
print(mk.backends()["cpu"], mk.backends()["cuda"])
'''

TRAINER = [
    "mixfast",
    "mixfast_bench",
    "rich",
    "pydantic",
    "yaml",
    "torchvision",
    "matplotlib",
    "safetensors",
    "sklearn",
    "PIL",
]


def run_without(absent, **variables):
    environment = {**os.environ, **variables}
    environment.pop("MIXFAST_BACKEND", None)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(absent=set(absent))], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_imports_without_the_trainer():
    assert "Backend" in run_without(TRAINER)


def test_it_imports_without_triton():
    assert "the package triton is not installed" in run_without(["triton"])


def test_it_imports_without_a_compiler(tmp_path):
    said = run_without([], PATH=str(tmp_path), CXX="", MIXFAST_CACHE=str(tmp_path))
    assert "no C++ compiler found" in said
