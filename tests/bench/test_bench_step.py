"""The timed step is the trainer's, and its figures follow from the timings."""

from __future__ import annotations

import io
from functools import partial

import pytest
import torch
from mixfast_bench.cases import Batches, DataCase, Rounds, Setting, training_config
from mixfast_bench.measure import Timings, no_mark
from mixfast_bench.registry import CUT_MIXMO, SINGLE, STEP_COMPARISONS, STEPS, Comparison, steps
from mixfast_bench.runs import StepMeasurement, measure_steps
from mixfast_bench.step import TrainerStep
from mixfast_bench.summary import summarise_steps
from rich.console import Console

from mixfast.errors import MixfastError
from mixfast.training.run_directory import RunDirectory
from mixfast.training.session import build_network
from mixfast.training.stopping import StopRequest
from mixfast.training.trainer import Trainer


@pytest.fixture
def quiet():
    return Console(file=io.StringIO(), width=100)


@pytest.mark.parametrize(
    "case", [SINGLE, CUT_MIXMO, DataCase("cut-mixmo", msda="cutmix", views="shared")], ids=lambda case: case.name
)
def test_the_step_is_the_trainers_bit_for_bit(case, small_batches, few_images, cpu, tmp_path, quiet):
    """Weights, batch-norm statistics and momenta after five steps, across the end of an epoch."""
    config = training_config(case, small_batches, device=cpu, backbone="wrn10-1").replace(schedule={"max_steps": 5})
    network, method = build_network(config, few_images)
    run = RunDirectory(tmp_path / "run")
    run.create(config)
    trainer = Trainer(config, network, method, few_images, few_images, run, quiet)
    assert trainer.steps_per_epoch < 5
    assert trainer.train(StopRequest())

    step = TrainerStep("step", config, few_images)
    for _ in range(5):
        step.run(no_mark)
    expected, got = network.state_dict(), step.trainer.network.state_dict()
    assert expected.keys() == got.keys()
    assert all(torch.equal(expected[name], got[name]) for name in expected)
    expected, got = (one.optimiser.state_dict()["state"] for one in (trainer, step.trainer))
    assert len(expected) > 0
    assert all(torch.equal(expected[key]["momentum_buffer"], got[key]["momentum_buffer"]) for key in expected)


def builders(images, batches):
    return [partial(entry.build, images, batches, "wrn10-1") for entry in steps("wrn10-1", "off")[0]]


def test_measuring_gives_every_phase_of_every_contender(small_batches, few_images, quiet):
    measured = measure_steps(builders(few_images, small_batches), 8, few_images.device, Rounds(2, 1), quiet)
    names = ["single, eager", "cut-mixmo, eager", "straightforward"]
    assert list(measured.flops) == names
    assert list(measured.timings) == [*names, "matrix product"]
    for name in names:
        assert list(measured.timings[name].phases) == ["data", "forward + backward", "optimiser"]
        assert all(len(seconds) == 2 and min(seconds) > 0 for seconds in measured.timings[name].phases.values())
    assert measured.flops["straightforward"] == measured.flops["cut-mixmo, eager"] > measured.flops["single, eager"]


def test_a_loss_that_is_not_finite_is_no_timing(small_batches, few_images, quiet, monkeypatch):
    def spoiled(self, mark):
        for phase in ("data", "forward + backward", "optimiser"):
            mark(phase)
        self.result = torch.tensor(float("nan"))

    monkeypatch.setattr(TrainerStep, "run", spoiled)
    with pytest.raises(MixfastError, match=r"what 'single, eager' computes is not finite"):
        measure_steps(builders(few_images, small_batches)[:1], 8, few_images.device, Rounds(1, 1), quiet)


def test_figures_by_hand():
    """A machine that halves its speed: the plain step takes 2 ms, then 4, the mixed one 1.25 times as long."""

    class Product:
        name, flops = "matrix product", 6_000_000

    pace = [1.0] * 4 + [2.0] * 4
    phases = {"data": 0.0005, "forward + backward": 0.001, "optimiser": 0.0005}
    plain = Timings({phase: [seconds * slow for slow in pace] for phase, seconds in phases.items()})
    mixed = Timings({phase: [1.25 * seconds * slow for slow in pace] for phase, seconds in phases.items()})
    product = Timings({"product": [0.001 * slow for slow in pace]})
    measured = StepMeasurement(
        {"plain": plain, "mixed": mixed, "matrix product": product},
        samples=60,
        flops={"plain": 3_000_000, "mixed": 4_500_000},
        memory={"plain": 100, "mixed": None},
        product=Product(),
    )
    summary = summarise_steps(
        measured, [Comparison("overhead", "mixed", "plain", 0.03), Comparison("absent", "mixed", "none", 0.03)]
    )
    plain_row, mixed_row = summary.rows
    assert plain_row.step.median == pytest.approx(0.003)
    assert plain_row.phases["optimiser"].median == pytest.approx(0.00075)
    assert plain_row.samples_per_second == pytest.approx(20_000)
    assert plain_row.utilisation.value.median == pytest.approx(0.25)  # 3 MFLOP in the time of 12
    assert mixed_row.utilisation.value.median == pytest.approx(0.3)  # 4.5 MFLOP in the time of 15
    assert mixed_row.peak_memory is None
    assert list(summary.ratios) == ["overhead"]
    assert summary.ratios["overhead"].value.median == pytest.approx(1.25)
    assert summary.ratios["overhead"].refusal is None
    assert summary.product_rate.median == pytest.approx(4.5e9)


def test_comparisons_name_contenders():
    names = [entry.name for entry in STEPS]
    assert len(set(names)) == len(names)
    assert {name for c in STEP_COMPARISONS for name in (c.numerator, c.denominator)} <= set(names)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("off", ["single, eager", "cut-mixmo, eager", "straightforward"]),
        ("on", ["single, compiled", "cut-mixmo, compiled", "straightforward"]),
        ("both", [entry.name for entry in STEPS]),
    ],
)
def test_compile_choices(choice, expected):
    assert [entry.name for entry in steps("wrn10-1", choice)[0]] == expected


def test_compiled_entries_ask_the_trainer_to_compile(few_images, small_batches, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function, **_: compiled.append(function.__name__) or function)
    for entry in STEPS[:4]:
        compiled.clear()
        entry.build(few_images, small_batches, "wrn10-1")
        assert compiled == (["batch_loss"] if entry.compiled else [])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Batches(0, 1), "--batch-size is 0"),
        (lambda: Batches(4, 0), "--repetition is 0"),
        (lambda: Batches(6, 4), "--repetition is 4 and --batch-size 6"),
        (lambda: Rounds(0, 1), "--rounds is 0"),
        (lambda: Rounds(1, 0), "--runs is 0"),
    ],
)
def test_impossible_settings(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_how_all_steps_run(few_images, small_batches):
    setting = Setting(amp="bfloat16", channels_last=False, num_inputs=3)
    entries, _ = steps("wrn10-1", "off", num_inputs=3)
    assert [entry.name for entry in entries] == ["single, eager", "cut-mixmo, eager"]
    plain, mixed = (entry.build(few_images, small_batches, "wrn10-1", setting=setting).trainer for entry in entries)
    assert plain.network.num_inputs == 1 and mixed.network.num_inputs == 3
    assert all(trainer.config.training.amp == "bfloat16" for trainer in (plain, mixed))
    kernel = mixed.network.core.stages[0][0].conv1.weight
    assert kernel.is_contiguous() and not kernel.is_contiguous(memory_format=torch.channels_last)
