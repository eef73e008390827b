"""The operators' tests again over libraries built with sanitizers (``tools/sanitize.py``). Takes minutes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(sys.platform != "linux" or shutil.which("g++") is None, reason="needs g++ and its sanitizers"),
]


def sanitize(*arguments, root=ROOT):
    command = [sys.executable, str(root / "tools" / "sanitize.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=root)


@pytest.mark.parametrize(("sanitizer", "kind"), [("address", "native"), ("address", "cuda-host"), ("thread", "native")])
def test_the_operators_pass_under(sanitizer, kind):
    result = sanitize(sanitizer, kind)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]


# The file, what is right in it and what is put there, what the sanitizer says, and tests that come by there.
PLANTED = {
    # Shared memory for half of what a block takes.
    ("address", "cuda-host"): (
        "csrc/cuda/unmix_pool_bodies.h",
        "return shared_size<S>(POSITIONS) + 2 * shared_size<S>(THREADS * VECTOR<T>);",
        "return shared_size<S>(POSITIONS) + shared_size<S>(THREADS * VECTOR<T>);",
        "AddressSanitizer",
        "several_tiles",
    ),
    # Each range also does the next one's first piece.
    ("thread", "native"): (
        "csrc/common/parallel.h",
        "grain, f)",
        "grain, [&](int64_t first, int64_t end) { f(first, std::min(end + 1, count)); })",
        "ThreadSanitizer",
        "threads",
    ),
}


@pytest.mark.parametrize(("sanitizer", "kind"), PLANTED)
def test_a_planted_error_is_found(sanitizer, kind, tmp_path, monkeypatch):
    file, right, wrong, words, chosen = PLANTED[sanitizer, kind]
    for folder in ("csrc", "kernels", "tests/kernels", "tools"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    source = tmp_path / file
    text = source.read_text()
    assert text.count(right) == 1
    source.write_text(text.replace(right, wrong))
    monkeypatch.setenv("MIXFAST_CACHE", str(tmp_path / "cache"))
    result = sanitize(sanitizer, kind, "--pytest", "-k", chosen, root=tmp_path)
    assert result.returncode != 0 and words in result.stdout + result.stderr
