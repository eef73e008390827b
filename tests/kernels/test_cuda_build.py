"""The CUDA library: built by nvcc and loaded without a GPU, its machine code, its kernels on the host, and how it is chosen."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import hosted
import mixfast_kernels as mk
import pytest
import torch
from mixfast_kernels import _backends, _build, _native

HERE = Path(__file__).parent
OPERATORS = {
    "mixfast": ("augment", "mask_mix_encode", "mask_mix_encode_backward", "unmix_pool", "unmix_pool_backward"),
    "mixfast_cuda": ("encode_stem", "encode_stem_backward", "encode_patches"),
}
# Kernels that stream, and whether they do so by reading or by writing 128 bits at a time. (Pixels are read as bytes.)
STREAMING = {
    "AugmentBody": "STG",
    "Patches": "STG",
    "Stem": "STG",
    "StemBackward": "LDG",
    "PoolChannelsLast": "LDG",
    "PoolContiguous": "LDG",
    "PoolBackwardChannelsLast": "LDG STG",
    "PoolBackwardContiguous": "LDG STG",
}
OTHERS = {"SumRows", "ZoneGradients", "ResampleBitmap"}
# Two blocks of 256 threads on a multiprocessor of 65,536 registers.
MOST_REGISTERS = 128


def test_the_operators_tests_pass_on_the_host():
    hosted.run_tests(HERE / "test_operators.py")


def built(monkeypatch, architectures):
    monkeypatch.setenv("MIXFAST_CUDA_ARCHITECTURES", architectures)
    return hosted.build("cuda")


def test_the_library_loads_and_registers_without_a_gpu(monkeypatch):
    built(monkeypatch, "90")
    code = f"""
import json, torch, mixfast_kernels as mk
has = torch._C._dispatch_has_kernel_for_dispatch_key
registered = [has(f"{{space}}::{{name}}", "CUDA") for space, names in {OPERATORS!r}.items() for name in names]
x = torch.ones(2, 3, 4, 4)
pooled = mk.unmix_pool(x, mk.Mixing(torch.ones(2, 1), torch.ones(2, 1), (4, 4)))
print(json.dumps([mk.backends()["cuda"].name, all(registered), bool((pooled == 1).all())]))
"""
    environment = {**os.environ, _backends.VARIABLE: "cuda", "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-3000:]
    assert json.loads(result.stdout) == ["cuda", True, True]


@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm here")
def test_host_code_calls_no_function_of_the_device(monkeypatch):
    """nvcc makes such a call, from a template, one of exit(), and says nothing."""
    library = built(monkeypatch, "90")
    listed = subprocess.run(
        ["nm", "--dynamic", "--undefined-only", library], capture_output=True, text=True, check=True
    )
    wanted = {line.split()[-1].partition("@")[0] for line in listed.stdout.splitlines()}
    assert "aoti_torch_get_current_cuda_stream" in wanted and "exit" not in wanted


def cuobjdump():
    """The disassembler beside nvcc, or the one in the package triton."""
    folders = [Path(found).resolve().parent for found in _native.find_nvcc() or ()]
    triton = importlib.util.find_spec("triton")
    if triton is not None:
        folders.append(Path(triton.submodule_search_locations[0]) / "backends" / "nvidia" / "bin")
    for folder in folders:
        if (folder / "cuobjdump").exists() and (folder / "nvdisasm").exists():
            return str(folder / "cuobjdump")
    pytest.skip("no cuobjdump here")


def listing(library, option):
    return subprocess.run([cuobjdump(), option, str(library)], capture_output=True, text=True, check=True).stdout


def kernel_of(mangled):
    """``AugmentBody`` of the mangled ``run_body<AugmentBody<float>>``; longer names first."""
    names = sorted((*STREAMING, *OTHERS), key=len, reverse=True)
    return next((name for name in names if re.search(rf"\d{name}I", mangled)), mangled)


def check_machine_code(library, architectures):
    """Every kernel is there for every architecture, without spills, in few enough registers, with wide accesses."""
    found, architecture = defaultdict(list), ""
    for line in listing(library, "-res-usage").splitlines():
        if arch := re.search(r"arch = sm_(\d+)", line):
            architecture = arch.group(1)
        elif name := re.search(r"Function (\S+):", line):
            kernel = kernel_of(name.group(1))
        elif usage := re.search(r"REG:(\d+) STACK:(\d+) .*LOCAL:(\d+)", line):
            registers, stack, local = map(int, usage.groups())
            found[architecture].append(kernel)
            assert registers <= MOST_REGISTERS, (architecture, kernel, registers)
            assert stack == 0 and local == 0, (architecture, kernel, "spills")
    assert set(found) == set(architectures)
    assert all(set(kernels) == {*STREAMING, *OTHERS} for kernels in found.values())
    accesses = defaultdict(set)
    for line in listing(library, "-sass").splitlines():
        if name := re.search(r"Function : (\S+)", line):
            function = name.group(1)
        elif access := re.search(r"\b(LDG|STG)\.E\S*128", line):
            accesses[function].add(access.group(1))
    for function in accesses | dict.fromkeys(found_functions(library)):
        wanted = STREAMING.get(kernel_of(function), "").split()
        assert set(wanted) <= accesses[function], (function, wanted)


def found_functions(library):
    return set(re.findall(r"Function (\S+):", listing(library, "-res-usage")))


def test_the_machine_code_neither_spills_nor_splits_its_streams(monkeypatch):
    check_machine_code(built(monkeypatch, "90"), ["90"])


@pytest.mark.long
def test_the_machine_code_of_every_architecture(monkeypatch):
    monkeypatch.delenv("MIXFAST_CUDA_ARCHITECTURES", raising=False)
    check_machine_code(hosted.build("cuda"), _native.CUDA_ARCHITECTURES)


def test_architectures_are_chosen_by_a_variable(monkeypatch):
    monkeypatch.setenv("MIXFAST_CUDA_ARCHITECTURES", " 90; 80")
    assert _native.architecture_flags() == (
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    )
    monkeypatch.delenv("MIXFAST_CUDA_ARCHITECTURES")
    assert _native.architecture_flags()[-1] == "-gencode=arch=compute_120,code=compute_120"


def test_what_is_missing_for_cuda_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("MIXFAST_CACHE", str(tmp_path))
    monkeypatch.setenv("CUDACXX", "no-such-nvcc")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    with pytest.raises(mk.NativeUnavailable, match="CUDACXX names 'no-such-nvcc'"):
        _native.built_library("cuda")
    monkeypatch.delenv("CUDACXX")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(mk.NativeUnavailable, match="no nvcc found"):
        _native.built_library("cuda")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(mk.NativeUnavailable, match="a torch with CUDA"):
        _native.built_library("cuda")
    with pytest.raises(ValueError, match="kind must be"):
        _native.recipe_of("gpu", tmp_path)


def test_cuda_home_is_looked_into_before_the_path(monkeypatch, tmp_path):
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\n")
    nvcc.chmod(0o755)
    monkeypatch.delenv("CUDACXX", raising=False)
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert _native.find_nvcc() == (str(nvcc),)


@pytest.fixture
def nothing_loaded(monkeypatch):
    """``load`` chooses, but registers nothing; the kinds it asked for."""
    asked = []

    def loaded(kind):
        asked.append(kind)
        return Path(kind)

    monkeypatch.setattr(_backends, "_backends", {})
    monkeypatch.setattr(_backends, "_loaded", loaded)
    monkeypatch.setattr(_backends._cuda, "register", lambda key: asked.append(key))
    monkeypatch.setattr(_backends._triton, "register", lambda key: asked.append(f"triton {key}"))
    monkeypatch.delenv(_backends.VARIABLE, raising=False)
    return asked


def without_triton(monkeypatch, devices):
    monkeypatch.setattr(_backends.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: devices)


def test_without_triton_a_gpu_gets_the_cuda_library(nothing_loaded, monkeypatch):
    without_triton(monkeypatch, 1)
    _backends.load()
    assert mk.backends()["cuda"] == _backends.Backend("cuda", library=Path("cuda"))
    assert nothing_loaded == ["cuda", "CUDA", "cpu"]


def test_nothing_is_built_for_a_gpu_that_is_not_there(nothing_loaded, monkeypatch):
    without_triton(monkeypatch, 0)
    _backends.load()
    backend = mk.backends()["cuda"]
    assert backend.name == "reference" and "no CUDA device" in backend.reason and nothing_loaded == ["cpu"]


def test_a_gpu_without_triton_and_nvcc_gets_the_reference_with_a_reason(nothing_loaded, monkeypatch):
    without_triton(monkeypatch, 1)

    def unavailable(kind):
        if kind == "cuda":
            raise mk.NativeUnavailable("no nvcc found")
        return Path(kind)

    monkeypatch.setattr(_backends, "_loaded", unavailable)
    with pytest.warns(UserWarning, match="GPU: no nvcc found"):
        _backends.load()
    assert mk.backends()["cuda"] == _backends.Backend("reference", "no nvcc found")
    monkeypatch.setenv(_backends.VARIABLE, "cuda")
    with pytest.raises(mk.NativeUnavailable, match="no nvcc found"):
        _backends.load()


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        ("cuda", {"cuda": "cuda", "cpu": "native"}),
        ("cuda-host", {"cuda": "triton", "cpu": "cuda-host"}),
        ("", {"cuda": "triton", "cpu": "native"}),
    ],
)
def test_the_variable_chooses(nothing_loaded, monkeypatch, chosen, expected):
    monkeypatch.setattr(_backends.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setenv(_backends.VARIABLE, chosen)
    _backends.load()
    assert {device: backend.name for device, backend in mk.backends().items()} == expected


def test_a_header_belongs_to_the_files_whose_name_it_begins_with(tmp_path):
    """Others are everyone's: a change compiles what it touches, and nothing that it does not."""
    for name in (
        "common/all.h",
        "cuda/pool.cu",
        "cuda/pool_body.h",
        "cuda/pool_backward.cu",
        "cuda/launch.h",
        "cuda/other.cu",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("//\n")

    def keys():
        recipe = _build.Recipe("title", "name.so", tmp_path, ("common", "cuda"), ".cu", (), (), ())
        return {unit.stem: recipe.unit_key(unit) for unit in recipe.units()}

    for changed, affected in {
        "common/all.h": {"pool", "pool_backward", "other"},
        "cuda/launch.h": {"pool", "pool_backward", "other"},
        "cuda/pool_body.h": {"pool"},
        "cuda/pool_backward.cu": {"pool_backward"},
    }.items():
        before = keys()
        (tmp_path / changed).write_text("// changed\n")
        assert {stem for stem, key in keys().items() if key != before[stem]} == affected, changed


@pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ here")
def test_flags_of_the_user_reach_the_compiler(monkeypatch):
    plain = _native.recipe_of("cpu", _native.source_folder())
    monkeypatch.setenv("MIXFAST_CXXFLAGS", "-g -DSOME='a b'")
    marked = _native.recipe_of("cpu", _native.source_folder())
    assert {"-g", "-DSOME=a b"} <= set(marked.flags) and {"-g", "-DSOME=a b"} <= set(marked.link)
    assert plain.key != marked.key
