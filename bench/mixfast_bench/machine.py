"""The machine: what it is, and how fast it multiplies matrices and copies memory, measured in the same run."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import mixfast
from mixfast.allocator import hand_back_freed_memory
from mixfast_bench.measure import Mark

# Large enough to reach the machine's best rate, small enough for a turn of about a tenth of a second.
PRODUCT_SIDE = {"cpu": 2048, "cuda": 8192}
# Far beyond the caches that this process can count on.
COPY_BYTES = 2**28

OPERATORS = "mixfast::"
PACKAGES = ("torchvision", "numpy", "triton")
CARD_FIELDS = ("name", "driver_version", "clocks.sm", "clocks.mem", "clocks.max.sm", "clocks.max.mem", "power.limit")
ENVIRONMENT = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_PROC_BIND", "KMP_AFFINITY", "MIXFAST_BACKEND", "LD_PRELOAD")


class MatrixProduct:
    """A large matrix product: the arithmetic a step could reach at best. ``flops`` a run."""

    name = "matrix product"

    def __init__(self, device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        side = PRODUCT_SIDE[device.type]
        self.flops = 2 * side**3
        self._left, self._right = torch.rand(2, side, side, device=device).to(dtype)
        self._out = torch.empty(side, side, device=device, dtype=dtype)

    def run(self, mark: Mark) -> None:
        with precision_of_convolutions():
            torch.mm(self._left, self._right, out=self._out)
        mark("product")


class Copy:
    """A copy of memory: the traffic that anything could reach at best. ``bytes`` a run, read and written, ``size`` each."""

    name = "copy"

    def __init__(self, device: torch.device, size: int | None = None) -> None:
        size = COPY_BYTES if size is None else size
        self.bytes = 2 * size
        self._source = torch.ones(size, dtype=torch.uint8, device=device)
        self._target = torch.zeros_like(self._source)

    def run(self, mark: Mark) -> None:
        self._target.copy_(self._source)
        mark("copy")


@contextmanager
def precision_of_convolutions() -> Iterator[None]:
    """Lets CUDA matrix products use TF32 exactly if convolutions may, so that a step is compared with its own units."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def peak_memory(work: Callable[[], Any], device: torch.device) -> int | None:
    """Bytes that ``work`` needs at its peak beyond what is held before it.

    CUDA: allocated tensors. Else the process's resident memory, after free memory was handed back to the system; None
    where the system does not tell (anything but Linux).
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - held
    hand_back_freed_memory()
    try:
        # Linux: 5 sets the high-water mark back to the present resident size.
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        work()
        return None
    held = _resident_bytes("VmRSS")
    work()
    return max(0, _resident_bytes("VmHWM") - held)


def _resident_bytes(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")


def device_name(device: torch.device) -> str:
    """The processor's or graphics card's model."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_model()


def cpu_model() -> str:
    """As the system names it."""
    information = Path("/proc/cpuinfo")
    for line in information.read_text().splitlines() if information.exists() else ():
        if line.lower().startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def card(device: torch.device) -> dict[str, str] | None:
    """What the driver says of the graphics card, clocks and limits included; None without one, or without ``nvidia-smi``."""
    if device.type != "cuda" or shutil.which("nvidia-smi") is None:
        return None
    which = str(torch.cuda.get_device_properties(device).uuid)
    command = ["nvidia-smi", f"--id=GPU-{which}", f"--query-gpu={','.join(CARD_FIELDS)}", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True)
    values = [value.strip() for value in answer.stdout.split(",")]
    return dict(zip(CARD_FIELDS, values, strict=True)) if len(values) == len(CARD_FIELDS) else None


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load_average() -> float | None:
    """Processes that wanted to run during the last minute; None where the system does not tell."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def operators(device: torch.device) -> dict[str, str]:
    """Which implementation torch's dispatcher runs for each operator of mixfast on this device: native or reference.

    A kernel for one device is native; the reference stands behind it for all.
    """
    key = device.type.upper()
    names = sorted(name for name in torch._C._dispatch_get_all_op_names() if name.startswith(OPERATORS))
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    return {name.removeprefix(OPERATORS): "native" if has_kernel(name, key) else "reference" for name in names}


def describe(device: torch.device) -> dict[str, Any]:
    """Everything about machine and software that timings depend on, for the record."""
    versions = {"python": platform.python_version(), "mixfast": mixfast.__version__, "torch": str(torch.__version__)}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "device": str(device),
        "device_name": device_name(device),
        "card": card(device),
        "cpu": cpu_model(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "load_average": load_average(),
        "platform": platform.platform(),
        "versions": versions,
        "operators": operators(device),
        "torch": {
            "mkldnn": torch.backends.mkldnn.is_available() and torch.backends.mkldnn.enabled,
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "cudnn_allow_tf32": torch.backends.cudnn.allow_tf32,
            "cudnn_benchmark": torch.backends.cudnn.benchmark,
            "deterministic": torch.are_deterministic_algorithms_enabled(),
        },
        "environment": {name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
    }
