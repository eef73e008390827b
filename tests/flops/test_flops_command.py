"""``mixfast flops``: what it prints and records, and what it refuses."""

from __future__ import annotations

import json

import pytest

from mixfast.cli import main
from mixfast.flops import costing
from mixfast.flops.closed_form import Piece


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


@pytest.fixture
def recorded(tmp_path, capsys):
    """Runs the command; its exit status, its record, and what it printed."""

    def run(*words):
        path = tmp_path / "flops.json"
        status = main(["flops", *words, "--json", str(path)])
        return status, json.loads(path.read_text()), capsys.readouterr().out

    return run


def test_one_recipe_by_part(recorded):
    status, record, printed = recorded("cifar100-wrn28-2-mixshare-fadeout-b2")
    (recipe,) = record["recipes"]
    assert (status, record["version"], recipe["closed_form_agrees"]) == (0, 1, True)
    assert recipe["total"]["parameters"] == 1_492_552 == sum(recipe["parts"]["parameters"].values())
    assert recipe["total"]["step"] == sum(sum(recipe["parts"][name].values()) for name in ("forward", "backward"))
    assert recipe["over_single"]["parameters"] == pytest.approx(1_492_552 / 1_479_220)
    for shown in ("stages.2", "unmix_pool", "1,492,552", "one input", "1,479,220", "1.0090", "closed forms agree"):
        assert shown in printed


def test_equal_blocks_share_a_line(recorded):
    _, record, printed = recorded("vit-cifar100-convit-vanilla")
    assert "blocks.0-4" in printed and "blocks.1" not in printed.replace("class_blocks.1", "")
    assert len([part for part in record["recipes"][0]["parts"]["inference"] if part.startswith("blocks.")]) == 5


def test_several_recipes_and_settings_for_all(recorded):
    _, record, printed = recorded("cifar100-wrn28-2-vanilla", "training.batch_size=8", "cifar100-wrn28-2-cut-mixmo-b4")
    assert [recipe["batch_size"] for recipe in record["recipes"]] == [8, 8]
    assert record["recipes"][0]["over_single"] == dict.fromkeys(record["recipes"][0]["total"], 1.0)
    assert "×1.0090" in printed


def test_a_deep_ensemble_costs_its_members(recorded):
    _, record, _ = recorded("cifar100-wrn28-2-vanilla-ensemble2")
    ratios = record["recipes"][0]["over_single"]
    assert (ratios["parameters"], ratios["inference"], ratios["step"], ratios["activations"]) == (2, 2, 2, 1)


def test_classes_of_a_folder_that_is_not_there(recorded, capsys):
    recipe = ("imagenet-resnet18-5-vanilla", "data.name=folder:nowhere")
    _, record, _ = recorded(*recipe, "--classes", "1000")
    assert record["recipes"][0]["classes"] == 1000
    assert main(["flops", *recipe]) == 2
    assert "--classes K" in capsys.readouterr().err


def test_a_table_of_the_thesis(recorded):
    status, record, printed = recorded("--table", "4.1")
    assert (status, record["recipes"], record["tables"][0]["table"]) == (0, [], "4.1")
    assert [figure["agreement"] for figure in record["tables"][0]["figures"]].count("no") == 0
    assert "MixMo, separate" in printed and "difference" in printed and "0.941" in printed


def test_a_disagreement_is_shown_and_fails(recorded, monkeypatch):
    form = costing.closed_form
    monkeypatch.setattr(costing, "closed_form", lambda setup: {**form(setup), "heads": Piece(1, 2, 3, 4)})
    status, record, printed = recorded("cifar100-wrn28-2-vanilla")
    assert status == 1 and not record["recipes"][0]["closed_form_agrees"]
    assert "inference of heads: counted 12,800, by the closed form 2" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name recipes"),
        (["cifar100-wrn28-10-vanila"], "did you mean 'cifar100-wrn28-10-vanilla'"),
        (["--table", "4.7"], "did you mean '4.6'"),
        (["cifar100-wrn28-2-vanilla", "model.nme=wrn10-1"], "did you mean 'model.name'"),
        (["cifar100-wrn28-2-vanilla", "data.name=cifar1000"], "did you mean 'cifar100'"),
        (["cifar100-wrn28-2-vanilla", "--classes", "1"], "num_classes is 1"),
        (["--table", "4.1", "seed=3"], "settings need a recipe"),
    ],
)
def test_mistakes_are_named(words, message, capsys):
    assert main(["flops", *words]) == 2
    captured = capsys.readouterr()
    assert message in " ".join(captured.err.split()) and not captured.out
