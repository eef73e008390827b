"""``mixfast bench kernels``: what is timed computes the same thing everywhere, and the figures follow from the timings."""

from __future__ import annotations

import io
import json

import pytest
import torch
from mixfast_bench import kernel_cases, kernels, machine
from mixfast_bench.kernel_cases import KERNEL_CASES, loss, pool, stem
from mixfast_bench.kernel_problems import KernelCase, Problem, Rival
from mixfast_bench.kernels import (
    BOTH,
    COMPILED,
    EAGER,
    FORWARD,
    MIXFAST,
    KernelMeasurement,
    contenders_of,
    measure_kernels,
)
from mixfast_bench.plots import plot_kernels
from mixfast_bench.summary import summarise_kernels
from mixfast_bench.tables import kernel_table
from rich.console import Console

from mixfast import cli

CPU = torch.device("cpu")
QUIET = Console(file=io.StringIO())


def gradients(call, leaves):
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    result = call(*leaves)
    # Positive, so that sums over many positions do not cancel down to their rounding errors.
    grad = torch.rand(result.shape, generator=torch.Generator().manual_seed(0)).to(result.dtype)
    return [result.detach(), *torch.autograd.grad(result, leaves, grad)] if leaves else [result]


# Streaming cases are the same as smaller ones, only larger.
@pytest.mark.parametrize("case", [case for case in KERNEL_CASES if not case.streaming], ids=lambda case: case.title)
def test_the_operator_and_its_plain_form_agree(case):
    problem = case.build(CPU, torch.float32)
    for got, expected in zip(
        gradients(problem.call, problem.leaves), gradients(problem.plain, problem.leaves), strict=True
    ):
        assert (got - expected).abs().max() <= 2e-5 * expected.abs().max()


def test_titles_are_different():
    assert len({case.title for case in KERNEL_CASES}) == len(KERNEL_CASES)


def test_two_convolutions_and_a_select_are_the_same_stem():
    problem = stem(4, 8, 5)(CPU, torch.float64)
    (rival,) = problem.rivals.values()
    torch.testing.assert_close(rival.call(*rival.leaves), problem.call(*problem.leaves))


def test_floors_count_what_is_seen():
    cut, linear = stem(4, 8, 5)(CPU, torch.float32), stem(4, 8, 5, kind="linear")(CPU, torch.float32)
    written = 4 * 5 * 8 * 8 * 4
    assert cut.bytes[0] == written + 4 * 3 * 8 * 8 * 4 and linear.bytes[0] == written + 8 * 3 * 8 * 8 * 4
    assert linear.flops[0] == 2 * cut.flops[0] == 2 * 2 * 4 * 64 * 5 * 27
    assert pool(2, 6, 4)(CPU, torch.bfloat16).bytes == (2 * 6 * 16 * 2, 2 * 2 * 6 * 16 * 2)


@pytest.mark.parametrize("case", [case for case in KERNEL_CASES if not case.streaming], ids=lambda case: case.title)
def test_times_the_batch_is_times_the_traffic(case):
    (once, _), (more, _) = (case.build(CPU, torch.float32, times).bytes for times in (1, 3))
    assert once < more <= 3 * once


def test_who_runs():
    problem = stem(4, 8, 5)(CPU, torch.float32)
    assert set(contenders_of(problem, compiled=False)) == {
        (way, way2) for way in (MIXFAST, EAGER) for way2 in (FORWARD, BOTH)
    }
    rival = Rival(lambda x: 2 * x, (torch.ones(3),))
    problem = Problem(problem.call, problem.plain, problem.leaves, (8, 8), rivals={"twice": rival})
    assert ("twice", BOTH) in contenders_of(problem, compiled=False)
    views = kernel_cases.crops(2, 8, 1)(CPU, torch.float32)
    assert set(contenders_of(views, compiled=False)) == {(MIXFAST, FORWARD), (EAGER, FORWARD)}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(machine.PRODUCT_SIDE, "cpu", 16)
    cases = (KernelCase("mixed_cross_entropy", "small", loss(4, 5)), KernelCase("unmix_pool", "tiny", pool(2, 3, 2)))
    monkeypatch.setattr("mixfast_bench.command.KERNEL_CASES", cases)
    return cases


def test_measuring_times_everyone_in_every_round(small):
    measured = measure_kernels(small, CPU, torch.float32, 1, 3, False, QUIET)
    assert [each.case for each in measured] == list(small)
    for each in measured:
        assert all(len(seconds) == 3 and min(seconds) > 0 for seconds in (*each.timings.values(), each.copy))


def measurement(name="case", compiled=True):
    problem = Problem(lambda: None, lambda: None, (), (100, 300), (0, 4000))
    timings = {
        (MIXFAST, FORWARD): [1.0] * 9,
        (EAGER, FORWARD): [3.0] * 9,
        (MIXFAST, BOTH): [2.0] * 9,
        (EAGER, BOTH): [8.0] * 9,
    }
    if compiled:
        timings |= {(COMPILED, FORWARD): [1.5] * 9, (COMPILED, BOTH): [4.0] * 9}
    timings["one linear", BOTH] = [1.0] * 9
    case = KernelCase("unmix_pool", name, lambda *_: problem)
    return KernelMeasurement(case, problem, timings, [0.5] * 9, 0.001, 1000)


def test_figures_follow_from_the_timings(tmp_path):
    summary = summarise_kernels([measurement("a"), measurement("b")])
    forward, both = summary.rows[:2]
    assert (forward.seconds.median, forward.eager.value.median, forward.compiled.value.median) == (1.0, 3.0, 1.5)
    assert forward.floor.value.median == 0.5  # the copy of as many bytes
    assert both.floor.value.median == 0.75  # three times the bytes; the arithmetic would take 0.004
    assert both.rivals["one linear"].value.median == 0.5 and not forward.rivals
    assert summary.means == {EAGER: pytest.approx(4.0), COMPILED: pytest.approx(2.0)}
    assert summary.product_rate == 1e6
    file = tmp_path / "plot.png"
    plot_kernels(summary, "title", file)
    assert file.read_bytes().startswith(b"\x89PNG")
    out = io.StringIO()
    Console(file=out, width=80).print(kernel_table(summary.rows, "unmix_pool"))
    assert "4.00x" in out.getvalue() and "75%" in out.getvalue() and "one linear: 0.50x" in out.getvalue()


def test_without_a_compiler_there_are_no_compiled_figures(tmp_path):
    summary = summarise_kernels([measurement(compiled=False)])
    assert summary.rows[0].compiled is None and COMPILED not in summary.means
    plot_kernels(summary, "title", tmp_path / "plot.png")


def test_the_command_writes_record_and_plot(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("mixfast_bench.command.compile_choice", lambda *_: "off")
    record, plot = tmp_path / "r.json", tmp_path / "p.png"
    arguments = ["bench", "kernels", "--op", "unmix_pool", "--rounds", "2", "--json", str(record), "--plot", str(plot)]
    assert cli.main(arguments) == 0
    written = json.loads(record.read_text())
    assert written["bench"] == "kernels" and list(written["seconds"]) == ["unmix_pool: tiny"]
    assert set(written["seconds"]["unmix_pool: tiny"]) == {
        "mixfast, forward", "mixfast, forward + backward", "eager, forward", "eager, forward + backward", "copy"
    }  # fmt: skip
    (work,) = written["work"].values()
    assert work["forward"] == {"bytes": 2 * 3 * 4 * 4, "flops": 0} and set(work) == {"forward", "forward + backward"}
    assert plot.exists() and "unmix_pool" in capsys.readouterr().out


def test_an_unknown_operator_is_refused_before_measuring(capsys, monkeypatch):
    monkeypatch.setattr(kernels, "measure_problem", lambda *_: pytest.fail("measured"))
    assert cli.main(["bench", "kernels", "--op", "unmix_pol"]) != 0
    error = capsys.readouterr().err
    assert "--op is unmix_pol" in error and "unmix_pool" in error


@pytest.mark.parametrize("argument", ["--json", "--plot"])
def test_a_file_that_cannot_be_written_is_refused_before_measuring(small, argument, capsys, monkeypatch):
    monkeypatch.setattr(kernels, "measure_problem", lambda *_: pytest.fail("measured"))
    assert cli.main(["bench", "kernels", argument, "/nowhere/file"]) != 0
    assert argument in capsys.readouterr().err
