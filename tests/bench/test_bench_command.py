"""``mixfast bench`` from the command line: tables, record, refusals."""

from __future__ import annotations

import json

import numpy as np
import pytest
from mixfast_bench import command, network_bench

from mixfast.cli import main

TINY_STEP = ("bench", "step", "--backbone", "wrn10-1", "--compile", "off", "--batch-size", "8", "--device", "cpu")
OF_TWO = ("cifar100-wrn28-10-vanilla", "tiny-imagenet-preact-resnet18-1-vanilla")
TINY_DATA = ("bench", "data", "--batch-size", "8", "--device", "cpu", "--image-size", "8")


@pytest.fixture(autouse=True)
def few_synthetic_images(monkeypatch):
    monkeypatch.setattr("mixfast_bench.cases.SYNTHETIC_PIXELS", 100 * 16 * 16)
    monkeypatch.setattr("mixfast_bench.machine.COPY_BYTES", 2**20)
    monkeypatch.setitem(command.machine.PRODUCT_SIDE, "cpu", 64)


def test_step_prints_tables_and_writes_the_record(tmp_path, capsys):
    record_file = tmp_path / "record.json"
    arguments = (*TINY_STEP, "--image-size", "16", "--classes", "10", "--rounds", "2", "--json", str(record_file))
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    for text in ("single, eager", "cut-mixmo, eager", "straightforward", "matrix product", "GFLOP/s", "too few rounds"):
        assert text in printed

    record = json.loads(record_file.read_text())
    assert record["bench"] == "step"
    assert record["machine"]["versions"]["torch"]
    assert record["settings"]["rounds"] == 2
    assert record["settings"]["runs"] == 1
    assert record["images"] == {"name": "synthetic", "count": 100, "size": [16, 16], "classes": 10}
    seconds = record["seconds"]["cut-mixmo, eager"]
    steps = np.sum([seconds[phase] for phase in ("data", "forward + backward", "optimiser")], axis=0)
    rows = {row["name"]: row for row in record["summary"]["rows"]}
    assert rows["cut-mixmo, eager"]["step"]["median"] == pytest.approx(np.median(steps))
    assert rows["cut-mixmo, eager"]["samples_per_second"] == pytest.approx(8 / np.median(steps))
    plain = np.sum(list(record["seconds"]["single, eager"].values()), axis=0)
    overhead = record["summary"]["ratios"]["overhead, eager"]
    assert overhead["value"]["median"] == pytest.approx(np.median(steps / plain))
    assert overhead["refusal"] == "too few rounds"
    rate = 2 * 64**3 / np.array(record["seconds"]["matrix product"]["product"])
    utilisation = record["flops_a_step"]["single, eager"] / rate / plain
    assert rows["single, eager"]["utilisation"]["value"]["median"] == pytest.approx(np.median(utilisation))


def test_step_on_a_real_data_set(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("MIXFAST_CACHE", str(tmp_path))
    assert main((*TINY_STEP, "--data-name", "digits", "--rounds", "1")) == 0
    assert "8x8 digits, 10 classes" in " ".join(capsys.readouterr().out.split())


def test_data_prints_tables_and_writes_the_record(tmp_path, capsys):
    record_file = tmp_path / "record.json"
    assert main((*TINY_DATA, "12", "--rounds", "1", "--runs", "2", "--json", str(record_file))) == 0
    printed = capsys.readouterr().out
    for text in ("8x8", "12x12", "cut-mixmo + augmix, shared", "straightforward", "copy, read and written", "GB/s"):
        assert text in printed
    record = json.loads(record_file.read_text())
    row = next(row for row in record["summary"]["rows"] if row["name"] == "8x8 cut-mixmo, shared")
    assert row["samples_per_second"] == pytest.approx(8 / record["seconds"]["8x8 cut-mixmo, shared"]["data"][0])
    assert [images["size"] for images in record["images"]] == [[8, 8], [12, 12]]


def test_recipes_beside_their_backbones(tmp_path, capsys):
    record_file = tmp_path / "record.json"
    arguments = ("quickstart", "model.name=wrn10-1", "training.batch_size=8", "--compile", "off", "--rounds", "2")
    assert main(("bench", "step", *arguments, "--json", str(record_file))) == 0
    record = json.loads(record_file.read_text())
    names = [row["name"] for row in record["summary"]["rows"]]
    assert names == ["single of quickstart, eager", "quickstart, eager"]
    assert list(record["summary"]["ratios"]) == ["overhead of quickstart, eager"]
    assert record["recipes"]["quickstart"]["model"]["name"] == "wrn10-1"
    arguments = ("quickstart", "model.name=wrn10-1", "--batch-size", "4", "1", "--compile", "off", "--rounds", "1")
    assert main(("bench", "inference", *arguments, "--json", str(record_file))) == 0
    record = json.loads(record_file.read_text())
    assert (
        record["batch 4"]["flops_a_step"]["quickstart, eager"]
        == 4 * record["batch 1"]["flops_a_step"]["quickstart, eager"]
    )
    assert "overhead of quickstart, eager" in capsys.readouterr().out


def test_measured_beside_predicted_where_there_is_a_known_card(tmp_path, capsys, monkeypatch):
    """Stands in for a card: what is timed is the CPU."""
    card = network_bench.card_called("NVIDIA H100 80GB HBM3")
    monkeypatch.setattr(network_bench, "known_card", lambda device: card)
    record_file = tmp_path / "record.json"
    arguments = (*TINY_STEP, "--image-size", "16", "--rounds", "1", "--amp", "bfloat16", "--json", str(record_file))
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert "beside H100's published peaks" in printed and "~" in printed
    predicted = json.loads(record_file.read_text())["predicted"]
    assert predicted.keys() == {"single, eager", "cut-mixmo, eager"}
    assert all(0 < step["fused"] < step["eager"] and step["card"] == "H100" for step in predicted.values())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA B200", "B200"),
        ("NVIDIA GeForce RTX 5090", "RTX 5090"),
        ("Tesla T4", None),
    ],
)
def test_cards_are_known_by_the_drivers_names(name, expected):
    card = network_bench.card_called(name)
    assert (card and card.name) == expected


def test_without_a_compiler_both_means_what_can_be_had(monkeypatch, capsys):
    monkeypatch.setattr(network_bench, "missing_compiler", lambda device: "no compiler in this test")
    assert main((*TINY_STEP[:4], "--compile", "both", *TINY_STEP[6:], "--image-size", "8", "--rounds", "1")) == 0
    printed = capsys.readouterr().out
    assert "no compiler in this test" in printed
    assert "compiled" not in printed.replace("without compiled rows", "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*TINY_STEP, "--rounds", "0"), "--rounds is 0"),
        ((*TINY_STEP, "--runs", "0"), "--runs is 0"),
        ((*TINY_STEP, "--batch-size", "0"), "--batch-size is 0"),
        ((*TINY_STEP, "--repetition", "3"), "--repetition is 3 and --batch-size 8"),
        ((*TINY_STEP, "--backbone", "wrn28-x"), "the nearest is 'wrn28-"),
        ((*TINY_STEP, "--image-size", "4"), "--image-size is 4"),
        ((*TINY_STEP, "--image-size", "0"), "--image-size is 0"),
        ((*TINY_STEP, "--classes", "1"), "--classes is 1"),
        ((*TINY_STEP, "--classes", "0"), "--classes is 0"),
        ((*TINY_STEP, "--data-name", "digitz"), "digits"),
        ((*TINY_STEP, "--data-name", "digits", "--classes", "10"), "no effect with --data-name digits"),
        ((*TINY_STEP, "--data", "somewhere"), "no effect without --data-name"),
        ((*TINY_DATA, "--crop-area", "0.08", "1"), "no effect without --data-name"),
        (
            ("bench", "data", "--device", "cpu", "--data-name", "tiny-imagenet", "--crop-area", "0.08", "1"),
            "give the size of the views, --image-size",
        ),
        ((*TINY_STEP, "--device", "cuda:99"), "--device: "),
        ((*TINY_STEP, "--device", "mps"), "--device is mps"),
        ((*TINY_STEP, "--json", "no/such/folder/record.json"), "--json is no/such/folder/record.json"),
        ((*TINY_STEP, "--json", "."), "--json is ."),
        ((*TINY_STEP, "--num-inputs", "1"), "--num-inputs is 1"),
        ((*TINY_STEP, "quickstart"), "--backbone is wrn10-1, but recipes say it themselves: give model.name="),
        (("bench", "step", "quickstart", "--batch-size", "8"), "give training.batch_size="),
        (
            ("bench", "step", "quickstart", "quickstart-mixvit", "training.batch_size=8", "schedule.epoch=3"),
            "schedule.epochs",
        ),
        (("bench", "step", "quickstrat"), "quickstart"),
        (("bench", "step", "model.name=wrn10-1"), "settings need a recipe"),
        (("bench", "step", *OF_TWO), "training.batch_size is 64 in cifar100-wrn28-10-vanilla, 100 in"),
        (("bench", "inference", "quickstart", "--num-inputs", "3"), "give method.num_inputs="),
        (("bench", "inference", "quickstart", "--classes", "3"), "--classes is 3, but recipes say it themselves"),
        (("bench", "step", "quickstart", "--data", "x"), "--data is x, but recipes say it themselves: give data.dir="),
        ((*TINY_DATA, "8"), "--image-size is [8, 8]"),
        ((*TINY_DATA, "4"), "--image-size is 4"),
    ],
)
def test_wrong_arguments_are_named_before_anything_is_measured(arguments, message, capsys, monkeypatch):
    def measured(*_):
        raise AssertionError("measured")

    monkeypatch.setattr(network_bench, "measure_steps", measured)
    monkeypatch.setattr(command, "measure_pipelines", measured)
    assert main(arguments) == 2
    assert message in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("arguments", [("bench",), ("bench", "stepp"), ("bench", "data", "--backbone", "wrn10-1")])
def test_the_parser_refuses_what_it_does_not_know(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert "mixfast" in capsys.readouterr().err
