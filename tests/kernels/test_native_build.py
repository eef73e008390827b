"""Building and choosing the C++ operators: caches, locks, broken sources, missing compilers, instruction sets."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import mixfast_kernels as mk
import pytest
from mixfast_kernels import _backends, _native
from running import needs_native

COMPILER = shutil.which(os.environ.get("CXX", "g++"))

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler here")


@pytest.fixture
def small(tmp_path, monkeypatch):
    """Two tiny sources in place of the operators, an empty cache, and a compiler that counts its calls."""
    csrc = tmp_path / "csrc"
    for part in ("common", "cpu"):
        (csrc / part).mkdir(parents=True)
    (csrc / "common" / "number.h").write_text("#define NUMBER 7\n")
    for name in ("first", "second"):
        (csrc / "cpu" / f"{name}.cpp").write_text(f'#include "common/number.h"\nint {name}() {{ return NUMBER; }}\n')
    script = tmp_path / "compiler"
    script.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/calls\nexec {COMPILER} "$@"\n')
    script.chmod(0o755)
    monkeypatch.setattr(_native, "source_folder", lambda: csrc)
    monkeypatch.setattr(_backends, "_backends", {})
    monkeypatch.setenv("MIXFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", str(script))
    monkeypatch.delenv(_backends.VARIABLE, raising=False)
    return tmp_path


def calls(folder):
    log = folder / "calls"
    return log.read_text().count("\n") if log.exists() else 0


@needs_compiler
def test_a_second_build_does_nothing_and_a_change_compiles_what_changed(small):
    library = _native.built_library()
    assert library.is_file() and calls(small) == 3  # two units and the link
    assert _native.built_library() == library and calls(small) == 3
    (small / "csrc" / "cpu" / "second.cpp").write_text("int second() { return 8; }\n")
    changed = _native.built_library()
    assert changed != library and calls(small) == 5
    (small / "csrc" / "common" / "number.h").write_text("#define NUMBER 9\n")
    assert _native.built_library() != changed and calls(small) == 8


@needs_compiler
def test_load_says_what_it_loaded(small):
    _backends.load()
    assert mk.backends()["cpu"] == _backends.Backend("native", library=_native.built_library())


@needs_compiler
def test_two_processes_at_once_build_once(small):
    code = (
        "import pathlib; from mixfast_kernels import _backends, _native;"
        f"_native.source_folder = lambda: pathlib.Path({str(small / 'csrc')!r}); print(_native.built_library())"
    )
    environment = {**os.environ, _backends.VARIABLE: "reference"}
    both = [
        subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    libraries = {process.communicate()[0].strip() for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert len(libraries) == 1 and Path(libraries.pop()).is_file() and calls(small) == 3


@needs_compiler
def test_sources_that_do_not_compile_warn_once_and_are_not_tried_again(small, monkeypatch):
    (small / "csrc" / "cpu" / "first.cpp").write_text("int first() { return nonsense; }\n")
    with pytest.warns(UserWarning, match="nonsense.*") as caught:
        _backends.load()
    assert len(caught) == 1
    backend = mk.backends()["cpu"]
    assert backend.name == "reference" and "first.cpp" in backend.reason
    log = Path(re.search(r"log is in (\S+);", backend.reason).group(1))
    assert "nonsense" in log.read_text() and str(small / "compiler") in log.read_text()
    before = calls(small)
    with pytest.warns(UserWarning, match="nonsense"):
        _backends.load()
    assert calls(small) == before
    assert not list((small / "cache").rglob("*.part"))

    monkeypatch.setenv(_backends.VARIABLE, "native")
    with pytest.raises(_native.NativeUnavailable, match="nonsense"):
        _backends.load()
    (small / "csrc" / "cpu" / "first.cpp").write_text("int first() { return 1; }\n")
    _backends.load()
    assert mk.backends()["cpu"].name == "native"


@needs_compiler
def test_a_compiler_that_is_killed_is_tried_again(small):
    (small / "compiler").write_text("#!/bin/sh\nkill -9 $$\n")
    with pytest.raises(_native.NativeUnavailable, match="signal 9"):
        _native.built_library()
    assert not list((small / "cache").rglob("failed.log"))


@needs_compiler
def test_a_compiler_may_be_several_words(small, monkeypatch):
    monkeypatch.setenv("CXX", f"env SOME=thing {small / 'compiler'}")
    assert _native.built_library().is_file() and calls(small) == 3


@needs_compiler
def test_without_a_compiler_an_earlier_build_serves(small, monkeypatch):
    library = _native.built_library()
    monkeypatch.delenv("CXX")
    monkeypatch.setenv("PATH", str(small / "empty"))
    assert _native.built_library() == library
    monkeypatch.setenv("MIXFAST_CACHE", str(small / "another"))
    with pytest.raises(_native.NativeUnavailable, match="no C\\+\\+ compiler found"):
        _native.built_library()
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler"):
        _backends.load()


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("CXX", "no-such-compiler", "CXX names 'no-such-compiler'"),
        ("MIXFAST_CACHE", "/dev/null/below", "MIXFAST_CACHE"),
    ],
)
def test_what_the_user_set_wrongly_is_named(small, monkeypatch, variable, value, words):
    monkeypatch.setenv(variable, value)
    with pytest.raises(_native.NativeUnavailable, match=words):
        _native.built_library()


def test_an_older_torch_and_another_system_are_named(small, monkeypatch):
    monkeypatch.setattr(_native.torch, "__version__", "2.9.1+cpu")
    with pytest.raises(_native.NativeUnavailable, match="torch 2.11 or newer, this is 2.9.1"):
        _native.built_library()
    monkeypatch.setattr(_native.sys, "platform", "win32")
    with pytest.raises(_native.NativeUnavailable, match="Linux and macOS only, this is win32"):
        _native.built_library()


def test_a_library_that_cannot_be_loaded_is_named(small, monkeypatch):
    broken = small / "broken.so"
    broken.write_text("not a library")
    monkeypatch.setattr(_native, "built_library", lambda kind: broken)
    with pytest.warns(UserWarning, match="cannot load .*broken.so"):
        _backends.load()
    assert mk.backends()["cpu"].name == "reference"


def test_the_variable_chooses_the_reference_and_refuses_other_words(small, monkeypatch):
    monkeypatch.setenv(_backends.VARIABLE, "reference")
    _backends.load()
    assert mk.backends()["cpu"] == _backends.Backend("reference", "MIXFAST_BACKEND=reference") and calls(small) == 0
    monkeypatch.setenv(_backends.VARIABLE, "natve")
    with pytest.raises(ValueError, match="MIXFAST_BACKEND must be one of .*, or unset; got 'natve'"):
        _backends.load()


def test_the_cache_is_where_the_platform_keeps_caches(monkeypatch):
    monkeypatch.delenv("MIXFAST_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    monkeypatch.setattr(_native.sys, "platform", "linux")
    assert _native.cache_folder() == Path("/somewhere/mixfast/native")
    monkeypatch.setenv("MIXFAST_CACHE", "/elsewhere")
    assert _native.cache_folder() == Path("/elsewhere/native")


@needs_native
def test_only_code_for_an_instruction_set_uses_it():
    """A function that the linker may take for everyone, compiled for AVX-512, would end other processors' programs."""
    objdump = shutil.which("objdump")
    if objdump is None:
        pytest.skip("no objdump here")
    command = [objdump, "--disassemble", "--demangle", "--no-show-raw-insn", str(mk.backends()["cpu"].library)]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    function, wrong, seen = "", set(), set()
    for line in listing.splitlines():
        if line.endswith(">:"):
            function = line
        elif re.search(r"\s(v[a-z0-9]+)\s.*%[xyz]mm", line):
            kind = re.search(r"mixfast::(avx2|avx512)::", function)
            seen.add(kind.group(1)) if kind else wrong.add(function)
            if kind and kind.group(1) == "avx2" and "%zmm" in line:
                wrong.add(function)
    assert not wrong
    assert seen == {"avx2", "avx512"} or _native.platform.machine() != "x86_64"


@needs_native
@pytest.mark.parametrize("capability", ["default", "avx2"])
def test_the_operators_tests_pass_on_lesser_instruction_sets(capability):
    """ATEN_CPU_CAPABILITY is torch's own variable, read once a process: hence a process for each."""
    files = [path for path in sorted(Path(__file__).parent.glob("test_native_*.py")) if path != Path(__file__)]
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability, _backends.VARIABLE: "native"}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *map(str, files)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-4000:]
