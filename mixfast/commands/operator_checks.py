"""Runs the operators' self-check once for every backend that this machine has, each in a process of its own."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass

import torch

# Longer than any should take, building the C++ operators included.
TIMEOUT_SECONDS = 600


@dataclass(frozen=True)
class Backend:
    """What to set to get one: ``variable`` is MIXFAST_BACKEND; ``missing`` says why this machine has none, or is empty."""

    title: str
    variable: str
    device: str = "cpu"
    interpreted: bool = False
    missing: str = ""


@dataclass(frozen=True)
class Line:
    """One operator on one backend, or, where nothing could run, the backend alone."""

    backend: str
    operator: str
    passed: bool
    detail: str


def backends_here() -> list[Backend]:
    """All backends, in the order they are reported."""
    no_gpu = "" if torch.cuda.is_available() else "no usable GPU"
    no_triton = "" if importlib.util.find_spec("triton") else "the package triton is not installed"
    return [
        Backend("reference", "reference"),
        Backend("C++ on the CPU", "native"),
        Backend("Triton, interpreted", "triton", interpreted=True, missing=no_triton),
        Backend("Triton on the GPU", "triton", "cuda", missing=no_triton or no_gpu),
        Backend("CUDA library", "cuda", "cuda", missing=no_gpu),
    ]


def check_operators() -> Iterator[Line]:
    """A line for every operator on every backend; the processes run side by side."""
    processes = [(backend, None if backend.missing else _start(backend)) for backend in backends_here()]
    for backend, process in processes:
        if process is None:
            yield Line(backend.title, "", False, backend.missing)
        else:
            yield from _lines(backend, process)


def _start(backend: Backend) -> subprocess.Popen[str]:
    environment = {**os.environ, "MIXFAST_BACKEND": backend.variable}
    environment.pop("TRITON_INTERPRET", None)
    if backend.interpreted:
        environment["TRITON_INTERPRET"] = "1"
    command = [sys.executable, "-m", "mixfast_kernels.selfcheck", "--device", backend.device]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    )


def _lines(backend: Backend, process: subprocess.Popen[str]) -> Iterator[Line]:
    try:
        printed, errors = process.communicate(timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        yield Line(backend.title, "", False, f"no answer in {TIMEOUT_SECONDS} s")
        return
    checks = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    for check in checks:
        detail = check["problem"] or f"{check['error']:.2f} of allowed, {1000 * check['seconds']:.1f} ms"
        yield Line(backend.title, check["operator"], check["passed"], detail)
    if process.returncode != 0 and all(check["passed"] for check in checks):
        last = errors.strip().splitlines()[-1:] or [f"exit status {process.returncode}"]
        yield Line(backend.title, "", False, last[0])
