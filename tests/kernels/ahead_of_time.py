"""What tools/aot.py says of an operator's kernels."""

from __future__ import annotations

import importlib.util
import sys

from running import ROOT


def aot_tool():
    specification = importlib.util.spec_from_file_location("aot_tool", ROOT / "tools" / "aot.py")
    tool = importlib.util.module_from_spec(specification)
    sys.modules["aot_tool"] = tool  # dataclasses look their module up
    specification.loader.exec_module(tool)
    return tool


def intermediate_code(call, target: str) -> dict[str, str]:
    """The PTX of every kernel that ``call`` launches, on tensors without memory, by the kernel's name."""
    tool = aot_tool()
    with tool.recorded_launches() as launches:
        call()
    return {launch.kernel.__name__: tool.compiled(launch, target).asm["ptx"] for launch in launches}


def spills(operator: str, only: str = "") -> dict[str, int]:
    """Spilling instructions of every kernel of an operator's cases (those whose name has ``only``), on every target."""
    tool, found = aot_tool(), {}
    for case in tool.all_cases([operator]):
        if only in case.name:
            for kernel, machines in tool.measure(case, list(tool.CARDS))["kernels"].items():
                found |= {f"{case.name}, {kernel}, {target}": m["spills"] for target, m in machines.items()}
    assert found, f"no case of {operator} is called {only}"
    return found
