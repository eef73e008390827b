"""The README's Python examples run as they stand, and its commands name things that exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from mixfast.recipes import recipe_names

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_python_examples_run(number):
    finished = subprocess.run([sys.executable, "-c", EXAMPLES[number]], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_the_operators_example_needs_the_operators_only():
    operators = next(example for example in EXAMPLES if "unmix_pool" in example)
    check = "\nimport sys\nassert not any(name.split('.')[0] == 'mixfast' for name in sys.modules)"
    finished = subprocess.run([sys.executable, "-c", operators + check], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr


def test_named_recipes_and_files_exist():
    recipes = re.findall(r"mixfast train ([a-z0-9-]+)(?: |$)", README, flags=re.MULTILINE)
    assert recipes and set(recipes) <= {*recipe_names(), "--resume"}
    paths = re.findall(r"`((?:mixfast|kernels|tests|bench|csrc)/[\w./-]+\.\w+)`", README)
    missing = [path for path in paths if "NAME" not in path and not (ROOT / path).exists()]
    assert paths and not missing
