"""Runs the operators' tests over libraries built with a sanitizer: memory errors, undefined behaviour, data races.

    python tools/sanitize.py [address | thread] [native | cuda-host] [--pytest ARGUMENTS]

``address`` is AddressSanitizer with UndefinedBehaviorSanitizer; ``thread`` is ThreadSanitizer. ``native`` are the C++ operators for
the CPU (``csrc/cpu``), ``cuda-host`` the CUDA operators (``csrc/cuda``) with their kernels run on the host. Without arguments:
everything that makes sense (CUDA kernels on the host run on one thread: no races to look for).

Python itself is not instrumented: the sanitizer's runtime is loaded before it, and only the operators' library is compiled for
it. ThreadSanitizer would take every hand-over inside OpenMP, which it cannot see into, for a race; so torch's parallel loop is
replaced by one on plain threads (``tools/plain_threads.cpp``), which it understands.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests" / "kernels"
FLAGS = {
    "address": "-O1 -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined",
    "thread": "-O1 -g -fno-omit-frame-pointer -fsanitize=thread",
}
RUNTIMES = {"address": ("libasan.so", "libubsan.so"), "thread": ("libtsan.so",)}
OPTIONS = {
    # Python keeps much memory until it ends, and takes more than it asks for: only errors count.
    "address": {"ASAN_OPTIONS": "detect_leaks=0:allocator_may_return_null=1", "UBSAN_OPTIONS": "print_stacktrace=1"},
    # Reports whose stack has one of the operators' functions; libraries that are not instrumented cannot be judged.
    "thread": {"TSAN_OPTIONS": "ignore_noninstrumented_modules=1:halt_on_error=1:exitcode=66"},
}
KINDS = {"native": "cpu", "cuda-host": "cuda-host"}
# Tests that start processes of their own, or are about the process's memory.
LEFT_OUT = "not instruction_sets and not logits_is_held"
LEFT_OUT_FILES = {"test_native_build", "test_native_recycled_memory", "test_native_poison"}


def tests_of(sanitizer: str, kind: str) -> list[str]:
    """pytest's arguments for the tests of one kind of library."""
    if kind == "cuda-host":
        checks = [str(path) for path in sorted(TESTS.glob("test_cuda_*.py")) if path.stem != "test_cuda_build"]
        return ["-o", "python_functions=check_*", *checks]
    files = [path for path in sorted(TESTS.glob("test_native_*.py")) if path.stem not in LEFT_OUT_FILES]
    if sanitizer == "address":
        files.append(TESTS / "test_operators.py")
    return [*map(str, files), "-k", LEFT_OUT]


def environment_of(sanitizer: str, kind: str) -> dict[str, str]:
    return {
        **os.environ,
        "MIXFAST_BACKEND": kind,
        "MIXFAST_CXXFLAGS": FLAGS[sanitizer],
        "PYTHONPATH": os.pathsep.join(str(ROOT / folder) for folder in ("", "kernels", "tests/kernels")),
    }


def runtime(name: str) -> str:
    """Where the compiler keeps a sanitizer's library."""
    found = subprocess.run(
        ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not Path(found).is_absolute():
        raise SystemExit(f"sanitize: the compiler has no {name}")
    return found


def run(sanitizer: str, kind: str, more: list[str]) -> int:
    """Builds, then tests; returns pytest's exit status, or the sanitizer's."""
    environment = environment_of(sanitizer, kind)
    # Without the runtime, which would slow the compiler down: nothing instrumented is loaded yet.
    build = f"from mixfast_kernels import _native; print(_native.built_library({KINDS[kind]!r}))"
    subprocess.run([sys.executable, "-c", build], env={**environment, "MIXFAST_BACKEND": "reference"}, check=True)
    with tempfile.TemporaryDirectory() as folder:
        preloaded = [runtime(name) for name in RUNTIMES[sanitizer]]
        if sanitizer == "thread":
            preloaded.append(plain_threads(Path(folder)))
        environment |= {"LD_PRELOAD": os.pathsep.join(preloaded), "OMP_NUM_THREADS": "2"}
        # To files: what goes to the standard error, pytest captures, and the process is gone before that is shown.
        reports = Path(folder) / "report"
        environment |= {name: f"{options}:log_path={reports}" for name, options in OPTIONS[sanitizer].items()}
        tests = tests_of(sanitizer, kind)
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:randomly",
            *tests,
            *more,
        ]
        status = subprocess.run([*fixed_addresses(sanitizer), *command], env=environment, cwd=ROOT).returncode
        for report in sorted(Path(folder).glob("report*")):
            print(report.read_text(errors="replace"))
        return status


def fixed_addresses(sanitizer: str) -> list[str]:
    """ThreadSanitizer lays memory out in a way that does not bear as much randomness as recent kernels put into addresses."""
    command = ["setarch", platform.machine(), "-R"]
    usable = shutil.which("setarch") and subprocess.run([*command, "true"], capture_output=True).returncode == 0
    return command if sanitizer == "thread" and usable else []


def plain_threads(folder: Path) -> str:
    """The replacement for torch's parallel loop, built for ThreadSanitizer."""
    library = folder / "plain_threads.so"
    source = ROOT / "tools" / "plain_threads.cpp"
    subprocess.run(
        ["g++", "-std=c++17", *FLAGS["thread"].split(), "-fPIC", "-shared", str(source), "-o", str(library)], check=True
    )
    return str(library)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sanitizer", nargs="?", choices=FLAGS)
    parser.add_argument("kind", nargs="?", choices=KINDS)
    parser.add_argument("--pytest", nargs=argparse.REMAINDER, default=[], help="what follows goes to pytest")
    arguments = parser.parse_args()
    pairs = [("address", "native"), ("address", "cuda-host"), ("thread", "native")]
    chosen = [
        (sanitizer, kind)
        for sanitizer, kind in pairs
        if arguments.sanitizer in (None, sanitizer) and arguments.kind in (None, kind)
    ]
    for sanitizer, kind in chosen:
        print(f"sanitize: {sanitizer}, {kind}", flush=True)
        status = run(sanitizer, kind, arguments.pytest)
        if status:
            print(f"sanitize: {sanitizer}, {kind}: failed with status {status}")
            return status
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
