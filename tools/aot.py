"""Compiles every Triton kernel for GPUs that this machine does not have, and reads what came out of the machine code.

    python tools/aot.py            the table: registers, spills, shared memory, wide accesses, bytes over floor, predictions
    python tools/aot.py --check    compares with tools/aot.json; exit status 1, naming what got worse
    python tools/aot.py --write    writes tools/aot.json

A case (``aot_cases()`` of an operator's file) runs the launcher that ships on tensors without memory. Each launch is
recorded with its arguments, which are specialised as Triton would for tensors that PyTorch allocates, and compiled.

Bytes moved are those of every tensor that a launch takes, once a launch, and of what PyTorch's own operators in the
launcher read and write: what caches cannot save. The times are predictions from a card's published figures, not
measurements.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from mixfast_kernels._triton import OPERATORS
from mixfast_kernels._triton.aot import Case, nbytes
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.backends.compiler import GPUTarget
from triton.compiler.compiler import ASTSource, CompiledKernel, make_backend
from triton.runtime.jit import JITFunction, create_function_from_signature

from mixfast.flops.cards import CARDS, Card

TABLE = Path(__file__).with_suffix(".json")
MORE_REGISTERS = 8  # a compiler's mood, not a change


@dataclass(frozen=True)
class Launch:
    kernel: JITFunction
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(frozen=True)
class Machine:
    """What machine code needs: ``spills`` and ``accesses`` count instructions, ``wide`` those accesses of 128 bits or more."""

    registers: int
    spills: int
    shared: int
    wide: int
    accesses: int


class Traffic(TorchDispatchMode):
    """Adds up what PyTorch's operators read and write; views and fresh memory cost nothing."""

    moved = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]
        outputs = [value for value in tree_leaves(result) if isinstance(value, torch.Tensor)]
        if not func.is_view and "empty" not in func.name():
            self.moved += nbytes(*inputs, *outputs)
        return result


@contextmanager
def recorded_launches() -> Iterator[list[Launch]]:
    """Launches of Triton kernels are noted, not made."""
    launches: list[Launch] = []

    def record(kernel: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        launches.append(Launch(kernel, args, kwargs))

    run, JITFunction.run = JITFunction.run, record
    try:
        yield launches
    finally:
        JITFunction.run = run


def run_case(case: Case) -> tuple[list[Launch], int]:
    """The launches that the case makes, and the bytes that they and PyTorch's operators move."""
    with recorded_launches() as launches, Traffic() as traffic:
        case.call()
    tensors = [
        value
        for launch in launches
        for value in (*launch.args, *launch.kwargs.values())
        if isinstance(value, torch.Tensor)
    ]
    return launches, traffic.moved + nbytes(*tensors)


def specialised(launch: Launch, target: str) -> tuple[ASTSource, dict[str, Any]]:
    """What Triton would compile for a launch's arguments on a target such as ``"sm_90"``, and its options."""
    backend = make_backend(_gpu(target))
    bind = create_function_from_signature(launch.kernel.signature, launch.kernel.params, backend)
    bound, specialisation, options = bind(*launch.args, **launch.kwargs)
    options, signature, constants, attributes = launch.kernel._pack_args(
        backend, launch.kwargs, bound, specialisation, options
    )
    return ASTSource(launch.kernel, signature, constants, attributes), options.__dict__


def compiled(launch: Launch, target: str) -> CompiledKernel:
    source, options = specialised(launch, target)
    return triton.compile(source, target=_gpu(target), options=options)


def _gpu(target: str) -> GPUTarget:
    return GPUTarget("cuda", int(target.removeprefix("sm_")), 32)


def machine_of(binary: CompiledKernel) -> Machine:
    return read_machine_code(binary.asm["cubin"], binary.metadata.shared)


def read_machine_code(cubin: bytes, shared: int) -> Machine:
    """``shared``: what the launch asks for, which the machine code does not say."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        usage, code = (_cuobjdump(option, file.name) for option in ("-res-usage", "-sass"))
    registers = int(re.search(r"REG:(\d+)", usage)[1])
    # Where memory is meant, the address is in brackets: `LDG.E.128 R4, desc[UR4][R2.64]`.
    accesses = re.findall(r"\b(?:LDG|STG|LDGSTS)\.(\S*)", code)
    wide = [access for access in accesses if re.search(r"\b(128|256)\b", access)]
    spills = re.findall(r"\b(?:LDL|STL)\b", code)
    return Machine(registers, len(spills), shared, len(wide), len(accesses))


def _cuobjdump(option: str, path: str) -> str:
    command = [triton.knobs.nvidia.cuobjdump.path, option, path]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def prediction(case: Case, moved: int, card: Card) -> float:
    """Seconds that the card's bandwidth and arithmetic allow, whichever takes longer; launches are not counted."""
    return max(moved / card.bandwidth, case.flops / card.rates[case.dtype])


def measure(case: Case, targets: list[str]) -> dict[str, Any]:
    """A case's row of the table, as it is written to the file."""
    launches, moved = run_case(case)
    kernels: dict[str, Any] = {}
    for launch in launches:
        name = launch.kernel.__name__.strip("_")
        name = f"{name}, launch {len(kernels) + 1}" if name in kernels else name
        kernels[name] = {target: asdict(machine_of(compiled(launch, target))) for target in targets}
    return {"moved": moved, "floor": case.floor, "kernels": kernels}


def print_row(case: Case, row: dict[str, Any], targets: list[str]) -> None:
    moved, floor = row["moved"], row["floor"]
    times = ", ".join(f"{CARDS[t].name} {prediction(case, moved, CARDS[t]) * 1e6:.1f}" for t in targets)
    print(f"{case.name}\n    {moved / 1e6:.2f} MB, {moved / floor:.3f} of the floor; predicted us: {times}")
    for name, machines in row["kernels"].items():
        cells = {
            label: "/".join(str(machines[target][key]) for target in targets)
            for label, key in (("registers", "registers"), ("spills", "spills"), ("shared", "shared"))
        }
        cells["128-bit"] = " ".join(f"{machines[t]['wide']}/{machines[t]['accesses']}" for t in targets)
        print(f"    {name:28}" + "  ".join(f"{label} {value}" for label, value in cells.items()), flush=True)


def worse(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What got worse in one case, in words."""
    found = []
    if new["moved"] * old["floor"] > old["moved"] * new["floor"]:
        found.append(f"bytes over floor {old['moved'] / old['floor']:.3f} -> {new['moved'] / new['floor']:.3f}")
    for kernel, machines in new["kernels"].items():
        for target, machine in machines.items():
            before = old["kernels"].get(kernel, {}).get(target)
            if before is None:
                found.append(f"{kernel} {target}: not in the table")
                continue
            if machine["registers"] > before["registers"] + MORE_REGISTERS:
                found.append(f"{kernel} {target}: registers {before['registers']} -> {machine['registers']}")
            if machine["spills"] > before["spills"]:
                found.append(f"{kernel} {target}: spills {before['spills']} -> {machine['spills']}")
            if machine["wide"] * before["accesses"] < before["wide"] * machine["accesses"]:
                shares = (f"{m['wide']}/{m['accesses']}" for m in (before, machine))
                found.append(f"{kernel} {target}: 128-bit accesses {' -> '.join(shares)}")
    return found


def all_cases(operators: list[str]) -> list[Case]:
    modules = sorted({module for operator, module in OPERATORS.items() if not operators or operator in operators})
    return [case for m in modules for case in importlib.import_module(f"mixfast_kernels._triton.{m}").aot_cases()]


def parsed_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    action = parser.add_mutually_exclusive_group()
    action.add_argument("--check", action="store_true", help="exit 1 when something got worse than the committed table")
    action.add_argument("--write", action="store_true", help="write the committed table")
    parser.add_argument("--operator", action="append", default=[], choices=sorted(set(OPERATORS.values())))
    parser.add_argument("--target", action="append", default=[], choices=list(CARDS))
    parser.add_argument("--only", default="", help="cases whose name contains this")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    options = parsed_arguments(arguments)
    if os.environ.get("TRITON_INTERPRET") == "1":
        print("aot: TRITON_INTERPRET=1 is set, under which nothing is compiled", file=sys.stderr)
        return 2
    targets = options.target or list(CARDS)
    committed = json.loads(TABLE.read_text()) if TABLE.exists() else {"triton": triton.__version__, "cases": {}}
    if options.check and committed["triton"] != triton.__version__:
        print(f"aot: the table is triton {committed['triton']}'s, this is {triton.__version__}", file=sys.stderr)
    rows, complaints = {}, []
    for case in all_cases(options.operator):
        if options.only not in case.name:
            continue
        rows[case.name] = row = measure(case, targets)
        print_row(case, row, targets)
        if options.check:
            old = committed["cases"].get(case.name)
            found = ["not in the table"] if old is None else worse(old, row)
            complaints += [f"{case.name}: {complaint}" for complaint in found]
    for target in targets:
        print(f"{target} stands for {CARDS[target].name} ({CARDS[target].source}); times are predictions")
    if options.write:
        cases = {**committed["cases"], **rows} if options.operator or options.only else rows
        TABLE.write_text(json.dumps({"triton": triton.__version__, "cases": cases}, indent=1) + "\n")
    print("\n".join(complaints), file=sys.stderr, end="\n" if complaints else "")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
