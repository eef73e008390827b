"""What ``mixfast report`` reads of runs and records, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import report_inputs as given
import torch
from safetensors.torch import save_file

from mixfast.cli import main
from mixfast.flops.costing import Costed
from mixfast.report import draw, read_inputs
from mixfast.report.names import distinct_names, short_labels

MIMO = ("method.name=mimo", "method.alpha=null", "method.probability=0.5")


def read(*paths: Path):
    return read_inputs([str(path) for path in paths])


def test_names_are_as_short_as_tells_them_apart():
    paths = [Path("/a/x/run"), Path("/a/y/run"), Path("/b/y/run"), Path("/other")]
    assert distinct_names(paths) == ["x/run", "a/y/run", "b/y/run", "other"]
    descriptions = [("mimo", "wrn", "batch 8", "here"), ("mimo", "wrn", "batch 9", "here"), ("cut", "wrn", "", "there")]
    assert short_labels(descriptions) == ["mimo, batch 8", "mimo, batch 9", "cut"]
    assert short_labels(descriptions[:1], always=2) == ["mimo, wrn"] and short_labels([]) == []


def test_runs_that_differ_in_their_seed_are_one_group(tmp_path):
    runs = [given.write_run(tmp_path / f"run{seed}", f"seed={seed}", "about.title=a") for seed in (0, 1)]
    plain = given.write_run(tmp_path / "plain", *MIMO, "data.dir=/elsewhere")
    longer = given.write_run(tmp_path / "longer", "schedule.epochs=99")
    groups = read(*runs, plain, longer).groups["digits"]
    assert [[run.name for run in group.runs] for group in groups] == [["run0", "run1"], ["plain"], ["longer"]]
    assert [group.label for group in groups] == ["cut-mixmo (run0 and 1 more)", "mimo", "cut-mixmo (longer)"]
    cost = groups[0].cost
    assert isinstance(cost, Costed) and cost.setup.backbone == "wrn10-1"


def test_a_runs_classes_come_from_its_weights_where_its_data_are_elsewhere(tmp_path):
    run = given.write_run(tmp_path / "run", "data.name=folder:gone", "data.image_size=32")
    (group,) = read(run).groups["folder:gone"]
    assert "gone" in group.cost  # why it cannot be counted
    save_file({"heads.weight": torch.zeros(2, 7, 64)}, run / "best.safetensors")
    (group,) = read(run).groups["folder:gone"]
    assert group.cost.setup.shape.num_classes == 7


def test_a_deep_ensemble_costs_its_members_and_has_no_curves_of_its_own(tmp_path):
    run = given.write_run(tmp_path / "run", "ensemble.members=3")
    (run / "metrics.jsonl").unlink()
    (run / "member-0").mkdir()
    save_file({"heads.weight": torch.zeros(2, 10, 64)}, run / "member-0" / "best.safetensors")
    inputs = read(run)
    assert inputs.runs[0].num_classes == 10 and inputs.runs[0].metrics == []
    assert inputs.counted[0].members == 3 and inputs.counted[0].step % 3 == 0
    assert {plot.name for plot in draw(inputs).plots} == {"accuracy-cost", "calibration"}


def test_the_same_path_twice_counts_once(tmp_path, monkeypatch):
    run = given.write_run(tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    inputs = read(run, Path("run"), run / ".." / "run")
    assert len(inputs.runs) == len(inputs.sources) == 1


def test_steps_and_inference(tmp_path):
    step, inference = (
        given.write(tmp_path / "s.json", given.step()),
        given.write(tmp_path / "i.json", given.inference()),
    )
    timings = read(step, inference).timings
    assert [(each.work, each.backbone, each.batch_size) for each in timings] == [
        ("training step", "wrn28-2", 64), ("inference", "convit", 64), ("inference", "convit", 1)
    ]  # fmt: skip
    first = timings[0]
    assert (first.device, first.precision, first.images) == (
        "Some, 2 threads", "float32", "32 x 32 pixels, 100 classes"
    )  # fmt: skip
    assert [(each.method, each.way) for each in first.contenders] == [
        ("single", "eager"), ("cut-mixmo", "eager"), ("straightforward", "")
    ]  # fmt: skip
    (overhead,) = first.overheads  # a speed-up is none
    assert (overhead.method, overhead.way, overhead.interval) == (
        "cut-mixmo",
        "eager",
        (pytest.approx(1.08), pytest.approx(1.12)),
    )
    assert timings[1].overheads[0].method == "mixvit-embedding" and timings[1].overheads[0].refusal == "too noisy"


def test_recipes_that_were_timed_each_beside_its_backbone(tmp_path):
    seconds = {"single of a, eager": 0.1, "a, eager": 0.11, "b, eager": 0.3}
    configs = {
        name: {
            "model": {"name": backbone},
            "method": {"name": method, "num_inputs": inputs},
            "training": {"batch_size": 32, "amp": "bfloat16"},
        }
        for name, backbone, method, inputs in (("a", "wrn28-2", "cut-mixmo", 3), ("b", "wrn28-10", "single", 1))
    }
    images = {name: {"size": [32, 32], "classes": 100} for name in configs}
    found = given.table(seconds, {"overhead of a, eager": given.ratio(1.1)})
    record = given.bench("step", {"backbone": None, "batch_size": None}, recipes=configs, images=images, **found)
    first, second = read(given.write(tmp_path / "a.json", record)).timings
    assert (first.backbone, first.batch_size, first.precision) == ("wrn28-2", 32, "bfloat16")
    assert [(each.method, each.num_inputs) for each in first.contenders] == [("single", 1), ("cut-mixmo", 3)]
    assert [(each.method, each.way, each.median) for each in first.overheads] == [("cut-mixmo", "eager", 1.1)]
    assert second.backbone == "wrn28-10" and not second.overheads
    assert [each.method for each in second.contenders] == ["single"]


def test_without_an_interval_the_quartiles_are_shown(tmp_path):
    record = given.step(overhead=given.ratio(1.0, "too few rounds", interval=False))
    (timing,) = read(given.write(tmp_path / "s.json", record)).timings
    assert timing.overheads[0].interval == (0.9, 1.1)


def test_operators(tmp_path):
    (operators,) = read(given.write(tmp_path / "k.json", given.kernels())).operators
    pool, both, encode = operators.passes
    assert (pool.copy_rate, both.copy_rate, encode.copy_rate) == (2e9, 2e9, 4e9)
    assert (both.bytes, both.flops, both.seconds) == (3 * 10**6, 0, 0.002) and encode.flops == 4 * 10**7
    assert read(given.write(tmp_path / "old.json", given.kernels(work=False))).operators == ()


def test_a_record_of_all_benches_is_read_as_its_parts(tmp_path):
    parts = {
        name: make()
        for name, make in (("step", given.step), ("inference", given.inference), ("kernels", given.kernels))
    }
    own = {name: {k: v for k, v in part.items() if k not in ("machine", "version")} for name, part in parts.items()}
    record = given.bench("all", {"backbone": "wrn28-2"}, data={"settings": {}}, **own)
    inputs = read(given.write(tmp_path / "all.json", record))
    assert len(inputs.timings) == 3 and len(inputs.operators) == 1
    assert [source.kind for source in inputs.sources] == ["mixfast bench all"]


def test_costs_of_recipes_and_runs_are_alike(tmp_path):
    flops, run = tmp_path / "flops.json", given.write_run(tmp_path / "run")
    settings = ["model.name=wrn10-1", "baseline=false"]
    assert main(["flops", "quickstart", *settings, "--json", str(flops)]) == 0
    assert read(flops).counted == read(run).counted == read(flops, run).counted


def test_mistakes_are_named_before_anything_is_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    unfinished = given.write_run(tmp_path / "unfinished", finished=False)
    spoilt = given.write_run(tmp_path / "spoilt")
    (spoilt / "summary.json").write_text("{")
    (tmp_path / "empty").mkdir()
    texts = {
        "broken.json": "{",
        "other.json": '{"a": 1}',
        "list.json": "[]",
        "old.json": '{"bench": "step", "settings": {}}',
        "new.json": '{"kind": "mixfast flops", "version": 99}',
        "cut.json": json.dumps(given.bench("step", {})),
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    expected = {
        "nowhere": "nowhere is not there, expected a run directory or a record",
        "empty": "empty holds no run: there is no config.yaml in it",
        unfinished.name: f"still being trained, or was interrupted (go on with `mixfast train --resume {unfinished}`)",
        spoilt.name: "summary.json is no JSON",
        "broken.json": "broken.json is no JSON",
        "binary.json": "binary.json is no JSON",
        "other.json": "other.json is no record of mixfast bench",
        "list.json": "list.json is no record of mixfast bench",
        "old.json": "old.json is a record of version 0, expected 1: measure it again",
        "new.json": "new.json is a record of version 99, expected 1: count it again",
        "cut.json": "cut.json is not whole",
    }
    good = given.write_run(tmp_path / "good")
    for name, words in expected.items():
        assert main(["report", str(good), str(tmp_path / name), "-o", str(tmp_path / "out")]) == 2
        assert words in capsys.readouterr().err, name
    assert not (tmp_path / "out").exists()
