"""``mixfast bench kernels``: what is timed computes the same thing everywhere, and the figures follow from the timings."""

from __future__ import annotations

import io
import json
import subprocess
from dataclasses import asdict, replace

import pytest
import torch
from mixfast_bench import kernel_cases, kernels, machine
from mixfast_bench.kernel_cases import KERNEL_CASES, loss, pool, stem
from mixfast_bench.kernel_measurement import (
    BOTH,
    COMPILED,
    EAGER,
    FORWARD,
    MIXFAST,
    KernelMeasurement,
    from_record,
    joined,
    recorded,
)
from mixfast_bench.kernel_problems import KernelCase, Problem, Rival
from mixfast_bench.kernels import contenders_of, measure_kernels
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
    assert [(each.operator, each.name) for each in measured] == [(case.operator, case.name) for case in small]
    for each in measured:
        assert all(len(seconds) == 3 and min(seconds) > 0 for seconds in (*each.timings.values(), each.copy))


def measurement(name="case", compiled=True):
    timings = {
        (MIXFAST, FORWARD): [1.0] * 9,
        (EAGER, FORWARD): [3.0] * 9,
        (MIXFAST, BOTH): [2.0] * 9,
        (EAGER, BOTH): [8.0] * 9,
    }
    if compiled:
        timings |= {(COMPILED, FORWARD): [1.5] * 9, (COMPILED, BOTH): [4.0] * 9}
    timings["one linear", BOTH] = [1.0] * 9
    work = {FORWARD: {"bytes": 100, "flops": 0}, BOTH: {"bytes": 300, "flops": 4000}}
    return KernelMeasurement("unmix_pool", name, timings, [0.5] * 9, work, 1e6, ("one linear",))


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


def test_a_measurement_comes_back_from_its_record():
    measured = [measurement("a"), measurement("b: wide", compiled=False)]
    record = recorded(measured) | {"summary": asdict(summarise_kernels(measured))}
    assert from_record(json.loads(json.dumps(record))) == measured


def test_processes_add_their_rounds():
    first, second = measurement("a"), replace(measurement("a"), copy=[0.7], product_rate=3e6)
    (both,) = joined([[first], [second]])
    assert both.copy == [*first.copy, 0.7] and both.product_rate == 2e6
    assert both.timings == {key: values * 2 for key, values in first.timings.items()}
    assert (both.title, both.work, both.launched) == (first.title, first.work, first.launched)


def test_several_processes_each_measure_what_one_would(small, tmp_path, capsys, monkeypatch):
    """The children run here, one command each, with what they are told; their rounds make one record."""
    monkeypatch.setattr("mixfast_bench.command.compile_choice", lambda *_: "off")
    seen = []

    def run(command, **_):
        seen.append(command[3:])
        return subprocess.CompletedProcess(command, cli.main(command[3:]), "", "")

    monkeypatch.setattr("mixfast_bench.kernel_processes.subprocess.run", run)
    record = tmp_path / "r.json"
    arguments = ["bench", "kernels", "--rounds", "2", "--dtype", "bfloat16", "--times", "2"]
    assert cli.main([*arguments, "--processes", "3", "--json", str(record)]) == 0
    written = json.loads(record.read_text())
    assert len(seen) == 3
    assert list(written["seconds"]) == ["mixed_cross_entropy: small", "unmix_pool: tiny"]
    assert all(len(values) == 6 for case in written["seconds"].values() for values in case.values())
    alone = tmp_path / "alone.json"
    assert cli.main([*arguments, "--json", str(alone)]) == 0
    one = json.loads(alone.read_text())
    differing = {name for name, value in written["settings"].items() if one["settings"][name] != value}
    assert differing == {"processes"} and one["work"] == written["work"]
    assert cli.main([*arguments, "--against", str(record)]) in (0, 1)  # how many processes is no other setting


def test_a_process_that_fails_is_said(small, capsys, monkeypatch):
    failed = subprocess.CompletedProcess([], 3, "", "first\nno memory left")
    monkeypatch.setattr("mixfast_bench.kernel_processes.subprocess.run", lambda *_, **__: failed)
    assert cli.main(["bench", "kernels", "--processes", "2"]) == 2
    assert "process 1 of 2 ended with status 3" in (error := capsys.readouterr().err) and "no memory left" in error


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
