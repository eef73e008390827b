"""tools/aot.py: compiles for GPUs without one, and notices what gets worse."""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_map_only

pytest.importorskip("triton")

PATH = Path(__file__).parents[2] / "tools" / "aot.py"
QUICK = "unmix_pool: forward, bfloat16, WRN-28-10, affine"


@pytest.fixture(scope="module")
def aot():
    specification = importlib.util.spec_from_file_location("aot", PATH)
    module = importlib.util.module_from_spec(specification)
    sys.modules["aot"] = module  # where dataclasses look for it
    specification.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def table(aot):
    return json.loads(aot.TABLE.read_text())["cases"]


def test_the_table_has_every_case_and_no_other(aot, table):
    names = [case.name for case in aot.all_cases([])]
    assert len(set(names)) == len(names)
    assert set(names) == set(table)


def test_every_operator_has_a_forward_and_a_backward_case(aot, table):
    for operator in aot.OPERATORS:
        kind = "backward" if operator.endswith("_backward") else "forward"
        name = operator.removesuffix("_backward")
        assert any(case.startswith(name) and (kind in case or name == "augment") for case in table), operator


def test_nothing_in_the_table_spills(table):
    for name, row in table.items():
        for kernel, machines in row["kernels"].items():
            assert all(machine["spills"] == 0 for machine in machines.values()), (name, kernel)


def test_a_case_moves_its_floor_and_its_streams_are_wide(aot, capsys):
    (case,) = (case for case in aot.all_cases(["unmix_pool"]) if case.name == QUICK)
    row = aot.measure(case, ["sm_80", "sm_120"])
    assert row["moved"] == row["floor"]
    for machine in row["kernels"]["pool_kernel"].values():
        # A 64 x 64 tile in bfloat16 is four 128-bit loads for each of 128 threads; two halves of scale and shift, 4 bytes each.
        assert machine["wide"] >= 4 and machine["spills"] == 0 and 0 < machine["registers"] <= 255
    aot.print_row(case, row, ["sm_80", "sm_120"])
    assert "predicted us: A100" in capsys.readouterr().out


def with_batch(call, size):
    """The same call with every tensor of the batch made as long as ``size``, its layout kept."""
    batch = call.args[0].shape[0]

    def resized(value):
        if value.shape[:1] != (batch,):
            return value
        return torch.empty_strided((size, *value.shape[1:]), value.stride(), dtype=value.dtype, device="meta")

    return functools.partial(call.func, *tree_map_only(torch.Tensor, resized, call.args))


@pytest.mark.parametrize("operator", ["class_attention", "mask_mix_encode", "source_attribution", "unmix_pool"])
def test_another_batch_size_compiles_nothing_new(aot, operator):
    for case in aot.all_cases([operator]):
        compiled = []
        for size in (128, 1, 37, 1000):
            launches, _ = aot.run_case(dataclasses.replace(case, call=with_batch(case.call, size)))
            sources = (aot.specialised(launch, "sm_90") for launch in launches)
            compiled.append([(source.hash(), options) for source, options in sources])
        assert compiled.count(compiled[0]) == len(compiled), case.name


def test_check_compares_with_the_committed_table(aot, capsys):
    assert aot.main(["--check", "--operator", "unmix_pool", "--only", QUICK, "--target", "sm_90"]) == 0
    assert QUICK in capsys.readouterr().out


def test_check_fails_by_name_when_the_table_was_better(aot, table, tmp_path, monkeypatch, capsys):
    better = copy.deepcopy(table)
    better[QUICK]["kernels"]["pool_kernel"]["sm_90"]["registers"] -= 9
    path = tmp_path / "aot.json"
    path.write_text(json.dumps({"triton": aot.triton.__version__, "cases": better}))
    monkeypatch.setattr(aot, "TABLE", path)
    assert aot.main(["--check", "--operator", "unmix_pool", "--only", QUICK, "--target", "sm_90"]) == 1
    assert f"{QUICK}: pool_kernel sm_90: registers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"registers": 49}, "registers 40 -> 49"),
        ({"spills": 1}, "spills 0 -> 1"),
        ({"wide": 3}, "128-bit accesses 4/8 -> 3/8"),
        ({"registers": 48}, None),
        ({"registers": 30, "wide": 5, "shared": 9999}, None),
    ],
)
def test_what_counts_as_worse(aot, change, words):
    machine = {"registers": 40, "spills": 0, "shared": 512, "wide": 4, "accesses": 8}
    old = {"moved": 100, "floor": 90, "kernels": {"k": {"sm_90": machine}}}
    new = {"moved": 100, "floor": 90, "kernels": {"k": {"sm_90": {**machine, **change}}}}
    assert aot.worse(old, new) == ([f"k sm_90: {words}"] if words else [])


def test_more_bytes_or_an_unknown_kernel_are_worse(aot):
    machine = {"registers": 40, "spills": 0, "shared": 512, "wide": 4, "accesses": 8}
    old = {"moved": 90, "floor": 90, "kernels": {"k": {"sm_90": machine}}}
    assert aot.worse(old, {**old, "moved": 99}) == ["bytes over floor 1.000 -> 1.100"]
    assert aot.worse(old, {**old, "kernels": {"other": {"sm_90": machine}}}) == ["other sm_90: not in the table"]


def test_the_interpreter_is_refused(aot, monkeypatch, capsys):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert aot.main(["--check"]) == 2
    assert "TRITON_INTERPRET" in capsys.readouterr().err


@pytest.mark.long
def test_check_of_everything(aot):
    assert aot.main(["--check"]) == 0
