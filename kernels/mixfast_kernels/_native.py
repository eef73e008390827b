"""The libraries of C++ and CUDA operators: where their sources are, what compiles them, and why one cannot be had here.

Three kinds, built on first use from ``csrc`` (see ``_build``):

- ``cpu``: the C++ operators (``csrc/cpu``).
- ``cuda``: the CUDA operators (``csrc/cuda``), by nvcc. No GPU is needed to build or to load it.
- ``cuda-host``: the very same CUDA sources, by the C++ compiler: kernels run on the host, block after block and thread
  after thread. Slow; it is there to test their arithmetic and bounds where there is no GPU.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import sys
from pathlib import Path

import torch

from mixfast_kernels._build import NativeUnavailable, Recipe, built, earlier_build

# The stable ABI with parallel_for and deleters; a library built for it also runs on every later torch.
OLDEST_TORCH = (2, 11)
COMPILERS = ("g++", "clang++", "c++")
LANGUAGE = ("-std=c++17", f"-DTORCH_TARGET_VERSION=0x{OLDEST_TORCH[0]:02x}{OLDEST_TORCH[1]:02x}000000000000")
CPU_FLAGS = (
    *LANGUAGE,
    "-O3",
    "-fPIC",
    "-fvisibility=hidden",
    "-fopenmp-simd",
    "-ffp-contract=fast",
    "-fno-math-errno",
    "-fno-trapping-math",
)
# Without vectors, which take a compiler long and a test not far.
CUDA_HOST_FLAGS = (*LANGUAGE, "-x", "c++", "-O1", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast")
CUDA_FLAGS = (*LANGUAGE, "-O3", "-DUSE_CUDA", "-Xcompiler", "-fPIC,-fvisibility=hidden")
# A100, H100, B200 and the consumer Blackwells; a later one compiles the newest one's intermediate code when it loads.
CUDA_ARCHITECTURES = ("80", "90", "100", "120")


def built_library(kind: str = "cpu") -> Path:
    """The library of a kind for these sources, torch and compiler; built where it is not in the cache.

    ``MIXFAST_CXXFLAGS`` holds more flags for the C++ compiler, ``MIXFAST_CUDA_ARCHITECTURES`` the architectures that
    nvcc compiles for (``80;90;100;120``).

    Raises:
        NativeUnavailable: no sources, compiler or writable cache folder, another platform, an older torch or one without
            CUDA, or sources that do not compile.
    """
    systems = ("linux",) if kind == "cuda" else ("linux", "darwin")
    if sys.platform not in systems:
        named = "Linux" if kind == "cuda" else "Linux and macOS"
        raise NativeUnavailable(f"the C++ operators are built on {named} only, this is {sys.platform}")
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < OLDEST_TORCH:
        raise NativeUnavailable(
            f"the C++ operators need torch {OLDEST_TORCH[0]}.{OLDEST_TORCH[1]} or newer, this is {torch.__version__}"
        )
    if kind == "cuda" and torch.version.cuda is None:
        raise NativeUnavailable(f"the CUDA operators need a torch with CUDA, this is {torch.__version__}")
    cache, recipe = cache_folder(), recipe_of(kind, source_folder())
    compiler = find_nvcc() if kind == "cuda" else find_compiler()
    if compiler is not None:
        return built(recipe, compiler, cache)
    earlier = earlier_build(recipe, cache)
    if earlier is not None:
        return earlier
    if kind == "cuda":
        raise NativeUnavailable("no nvcc found (set CUDACXX or CUDA_HOME, or put it on the path)")
    raise NativeUnavailable(f"no C++ compiler found (set CXX, or install one of {', '.join(COMPILERS)})")


def recipe_of(kind: str, folder: Path) -> Recipe:
    """How a kind of library is made of the sources in ``folder``."""
    torch_folder = Path(torch.__file__).parent
    include = ("-isystem", str(torch_folder / "include"))
    link = ("-L", str(torch_folder / "lib"), "-ltorch_cpu")
    more = tuple(shlex.split(os.environ.get("MIXFAST_CXXFLAGS", "")))
    on_host = (("-undefined", "dynamic_lookup") if sys.platform == "darwin" else ()) + link + more
    if kind == "cpu":
        title, part, suffix, flags, link = "CPU operators", "cpu", ".cpp", CPU_FLAGS + more, on_host
    elif kind == "cuda-host":
        title, part, suffix, flags, link = "CUDA operators for the host", "cuda", ".cu", CUDA_HOST_FLAGS + more, on_host
    elif kind == "cuda":
        machines = architecture_flags()
        title, part, suffix, flags = "CUDA operators", "cuda", ".cu", CUDA_FLAGS + machines
        link = (*machines, *link, "-ltorch_cuda")
    else:
        raise ValueError(f"kind must be 'cpu', 'cuda' or 'cuda-host', got {kind!r}")
    return Recipe(
        title=title,
        library=f"libmixfast_{kind.replace('-', '_')}" + (".dylib" if sys.platform == "darwin" else ".so"),
        folder=folder,
        parts=("common", part),
        suffix=suffix,
        flags=(*flags, *include),
        link=link,
        depends=(torch.__version__, platform.machine()),
    )


def architecture_flags() -> tuple[str, ...]:
    """nvcc's flags for the machine code of each architecture, and the newest one's intermediate code."""
    named = os.environ.get("MIXFAST_CUDA_ARCHITECTURES", "").replace(",", ";").split(";")
    chosen = sorted({name.strip() for name in named if name.strip()} or CUDA_ARCHITECTURES, key=int)
    codes = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in chosen]
    return (*codes, f"-gencode=arch=compute_{chosen[-1]},code=compute_{chosen[-1]}")


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


def find_nvcc() -> tuple[str, ...] | None:
    """$CUDACXX, else nvcc in $CUDA_HOME, else on the path."""
    chosen = os.environ.get("CUDACXX")
    if chosen and not shutil.which(chosen):
        raise NativeUnavailable(f"CUDACXX names {chosen!r}, which is not an executable")
    home = os.environ.get("CUDA_HOME")
    for name in (chosen,) if chosen else (*((f"{home}/bin/nvcc",) if home else ()), "nvcc"):
        found = shutil.which(name)
        if found:
            return (found,)
    return None
