"""Compiles and links a library of C++ or CUDA sources into a cache folder, once for what goes into it.

The library's name in the cache holds its sources, flags and compiler: an import hashes a few small files and loads what
it finds. Objects are kept as well, so that a change compiles only what it touches.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path


class NativeUnavailable(RuntimeError):
    """The C++ or CUDA operators cannot be had here; the message says why."""


@dataclass(frozen=True)
class Recipe:
    """How a library is made, but for the compiler.

    Attributes:
        title: what the library holds, for messages: ``"CPU operators"``.
        library: its file name.
        folder: ``csrc``.
        parts: the folders in it to read; the last one holds the files to compile, the others headers only.
        suffix: of the files to compile.
        flags, link: for the compiler where it compiles, and where it links.
        depends: more that the objects depend on, such as torch's version.
    """

    title: str
    library: str
    folder: Path
    parts: tuple[str, ...]
    suffix: str
    flags: tuple[str, ...]
    link: tuple[str, ...]
    depends: tuple[str, ...]
    contents: dict[Path, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        found = (path for part in self.parts for path in (self.folder / part).glob("*"))
        for path in sorted(path for path in found if path.suffix in (".h", self.suffix)):
            self.contents[path] = path.read_text(encoding="utf-8")

    @property
    def key(self) -> str:
        """Changes with whatever goes into the library."""
        named = (f"{path.relative_to(self.folder)}\n{text}" for path, text in self.contents.items())
        return digest(*self.flags, *self.link, *self.depends, *named)

    def units(self) -> list[Path]:
        """The files to compile."""
        return [path for path in self.contents if path.suffix == self.suffix and path.parent.name == self.parts[-1]]

    def unit_key(self, unit: Path) -> str:
        """Changes with the file itself and its headers: a header beside it that begins with files' names is only theirs."""
        stems = [path.stem for path in self.units()]

        def is_read(path: Path) -> bool:
            owners = [stem for stem in stems if path.stem.startswith(stem)]
            shared = path.parent != unit.parent or (path.suffix == ".h" and not owners)
            return shared or path == unit or (path.suffix == ".h" and unit.stem in owners)

        return digest(*self.flags, *self.depends, *(text for path, text in self.contents.items() if is_read(path)))


def digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def compiler_key(compiler: tuple[str, ...]) -> str:
    """Changes when the compiler is exchanged. Its size and time tell; asking it for its version would cost every import."""
    programs = [os.stat(found) for found in map(shutil.which, compiler) if found]
    return digest(*compiler, *(f"{status.st_size} {status.st_mtime_ns}" for status in programs))


def earlier_build(recipe: Recipe, cache: Path) -> Path | None:
    """A library in the cache that some compiler made of these very sources."""
    return next(iter(sorted(cache.glob(f"{recipe.key}-*/{recipe.library}"))), None)


def built(recipe: Recipe, compiler: tuple[str, ...], cache: Path) -> Path:
    """The library, made where it is not in the cache.

    Raises:
        NativeUnavailable: the cache cannot be written to, or the sources do not compile.
    """
    target = cache / f"{recipe.key}-{compiler_key(compiler)}"
    if not (target / recipe.library).exists():
        try:
            target.mkdir(parents=True, exist_ok=True)
            with _locked(target / "lock"):
                _build(recipe, compiler, target)
        except OSError as error:
            raise NativeUnavailable(f"cannot write to the cache folder {cache} (set MIXFAST_CACHE): {error}") from error
    return target / recipe.library


def _build(recipe: Recipe, compiler: tuple[str, ...], target: Path) -> None:
    """Compiles and links, unless another process did so while this one waited for the lock."""
    library, log = target / recipe.library, target / "failed.log"
    if library.exists():
        return
    if log.exists():
        raise NativeUnavailable(_failure(log))
    note = f"mixfast_kernels: building the {recipe.title}, once for this torch and compiler; this takes up to a minute"
    print(note, file=sys.stderr, flush=True)
    objects = target.parent / "objects"
    objects.mkdir(exist_ok=True)

    def compile_unit(unit: Path) -> Path:
        # The compiler's key and the file's: what did not change since an earlier build is taken from it.
        made = objects / f"{unit.stem}-{compiler_key(compiler)}-{recipe.unit_key(unit)}.o"
        if not made.exists():
            _run([*compiler, *recipe.flags, "-I", str(recipe.folder), "-c", str(unit)], made, log)
        return made

    # Two at a time: a compiler takes up to 1 GiB of memory.
    with ThreadPoolExecutor(2) as pool:
        made = [str(path) for path in pool.map(compile_unit, recipe.units())]
    _run([*compiler, "-shared", *made, *recipe.link], library, log)


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
