"""Finds or builds the library of C++ operators for the CPU, and says why where it cannot.

The sources (``csrc``) are compiled on first import into the cache folder, under a name that holds what went in: sources,
flags, torch and compiler. After that an import hashes a few small files and loads the library.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

# The stable ABI with parallel_for and deleters; a library built for it also runs on every later torch.
OLDEST_TORCH = (2, 11)
FLAGS = (
    "-std=c++17",
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-fopenmp-simd",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
    f"-DTORCH_TARGET_VERSION=0x{OLDEST_TORCH[0]:02x}{OLDEST_TORCH[1]:02x}000000000000",
)
COMPILERS = ("g++", "clang++", "c++")


class NativeUnavailable(RuntimeError):
    """The C++ operators cannot be had here; the message says why."""


def built_library() -> Path:
    """The library for these sources, torch and compiler; built where it is not in the cache.

    Raises:
        NativeUnavailable: no sources, compiler or writable cache folder, another platform, an older torch, or sources
            that do not compile.
    """
    if sys.platform not in ("linux", "darwin"):
        raise NativeUnavailable(f"the C++ operators are built on Linux and macOS only, this is {sys.platform}")
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
        raise NativeUnavailable(f"the C++ operators need torch 2.11 or newer, this is {torch.__version__}")
    folder = cache_folder()
    sources = Sources.read(source_folder())
    compiler = find_compiler()
    if compiler is None:
        earlier = sorted(folder.glob(f"{sources.key}-*/{LIBRARY_NAME}"))
        if earlier:
            return earlier[0]
        raise NativeUnavailable(f"no C++ compiler found (set CXX, or install one of {', '.join(COMPILERS)})")
    target = folder / f"{sources.key}-{compiler_key(compiler)}"
    if not (target / LIBRARY_NAME).exists():
        try:
            target.mkdir(parents=True, exist_ok=True)
            with _locked(target / "lock"):
                _build(sources, compiler, target)
        except OSError as error:
            raise NativeUnavailable(
                f"cannot write to the cache folder {folder} (set MIXFAST_CACHE): {error}"
            ) from error
    return target / LIBRARY_NAME


LIBRARY_NAME = "libmixfast_cpu" + (".dylib" if sys.platform == "darwin" else ".so")


def cache_folder() -> Path:
    """``native`` in $MIXFAST_CACHE, else in ``mixfast`` in the platform's folder for caches."""
    chosen = os.environ.get("MIXFAST_CACHE")
    if chosen:
        return Path(chosen).expanduser() / "native"
    if sys.platform == "darwin":
        return Path("~/Library/Caches/mixfast/native").expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mixfast" / "native"


def source_folder() -> Path:
    """``csrc``: inside an installed package, or at the top of a checkout."""
    package = Path(__file__).resolve().parent
    for folder in (package / "csrc", package.parents[1] / "csrc"):
        if folder.is_dir():
            return folder
    raise NativeUnavailable(f"the C++ sources (csrc) are not beside {package}")


def find_compiler() -> tuple[str, ...] | None:
    """The words of $CXX (``ccache g++``), else the first of g++, clang++ and c++ on the path."""
    chosen = os.environ.get("CXX")
    if chosen and not shutil.which(shlex.split(chosen)[0]):
        raise NativeUnavailable(f"CXX names {chosen!r}, which is not an executable")
    for name in (chosen,) if chosen else COMPILERS:
        first, *others = shlex.split(name)
        found = shutil.which(first)
        if found:
            return found, *others
    return None


def compiler_key(compiler: tuple[str, ...]) -> str:
    """Changes when the compiler is exchanged. Its size and time tell; asking it for its version would cost every import."""
    programs = [os.stat(found) for found in map(shutil.which, compiler) if found]
    return _digest(*compiler, *(f"{status.st_size} {status.st_mtime_ns}" for status in programs))


@dataclass(frozen=True)
class Sources:
    """The C++ sources and a key for their contents, the flags, torch and the processor family."""

    folder: Path
    contents: dict[Path, str]
    key: str

    @classmethod
    def read(cls, folder: Path) -> Sources:
        paths = sorted(
            path for part in ("common", "cpu") for path in (folder / part).glob("*") if path.suffix in (".h", ".cpp")
        )
        contents = {path: path.read_text(encoding="utf-8") for path in paths}
        named = (f"{path.relative_to(folder)}\n{text}" for path, text in contents.items())
        return cls(folder, contents, _digest(*FLAGS, torch.__version__, platform.machine(), *named))

    def units(self) -> list[Path]:
        """The files to compile."""
        return [path for path in self.contents if path.suffix == ".cpp"]

    def unit_key(self, unit: Path) -> str:
        """Changes with the file itself, ``common``, and the headers that begin with the file's own name."""
        read = [path for path in self.contents if path.parent.name == "common" or path.name.startswith(unit.stem)]
        return _digest(*FLAGS, torch.__version__, platform.machine(), *(self.contents[path] for path in read))


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _build(sources: Sources, compiler: tuple[str, ...], target: Path) -> None:
    """Compiles and links ``target / LIBRARY_NAME``, unless another process did so while this one waited for the lock."""
    library, log = target / LIBRARY_NAME, target / "failed.log"
    if library.exists():
        return
    if log.exists():
        raise NativeUnavailable(_failure(log))
    note = "mixfast_kernels: building the CPU operators, once for this torch and compiler; this takes up to a minute"
    print(note, file=sys.stderr, flush=True)
    objects = target.parent / "objects"
    objects.mkdir(exist_ok=True)
    include = ("-I", str(sources.folder), "-I", str(Path(torch.__file__).parent / "include"))

    def compile_unit(unit: Path) -> Path:
        # The compiler's key and the file's: what did not change since an earlier build is taken from it.
        made = objects / f"{unit.stem}-{compiler_key(compiler)}-{sources.unit_key(unit)}.o"
        if not made.exists():
            _run([*compiler, *FLAGS, *include, "-c", str(unit)], made, log)
        return made

    # Two at a time: a compiler takes up to 1 GiB of memory.
    with ThreadPoolExecutor(2) as pool:
        made = [str(path) for path in pool.map(compile_unit, sources.units())]
    lookup = ("-undefined", "dynamic_lookup") if sys.platform == "darwin" else ()
    torch_library = ("-L", str(Path(torch.__file__).parent / "lib"), "-ltorch_cpu")
    _run([*compiler, "-shared", *lookup, *made, *torch_library], library, log)


def _run(command: list[str], output: Path, log: Path) -> None:
    """Runs a compiler; its output appears under its name only when it is whole."""
    handle, temporary = tempfile.mkstemp(dir=output.parent, suffix=".part")
    os.close(handle)
    try:
        command = [*command, "-o", temporary]
        result = subprocess.run(
            command, capture_output=True, text=True, errors="replace", env={**os.environ, "LC_ALL": "C"}
        )
        if result.returncode < 0:
            # Stopped from outside, say for memory: worth another try at the next import, so no log is left.
            raise NativeUnavailable(f"{command[0]} was stopped by signal {-result.returncode}")
        if result.returncode > 0:
            log.write_text(f"{' '.join(command)}\n{result.stdout}{result.stderr}", encoding="utf-8")
            raise NativeUnavailable(_failure(log))
        os.replace(temporary, output)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _failure(log: Path) -> str:
    lines = log.read_text(encoding="utf-8").splitlines()[1:]
    errors = [line for line in lines if "error" in line] or lines
    shortened = "\n".join(line[:200] for line in errors[:3])
    return f"the C++ operators do not compile:\n{shortened}\nThe whole log is in {log}; remove it to try again."


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds a lock between processes: two that start at once build once."""
    import fcntl  # not on Windows, where nothing is built

    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
