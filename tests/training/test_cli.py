"""The command line, as a person meets it."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from small_runs import SMALL

from mixfast import cli


def run(capsys, *arguments):
    status = cli.main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, " ".join(captured.err.split())


def test_train_then_eval(capsys, tmp_path):
    status, out, _ = run(capsys, "train", "quickstart", "--out", tmp_path / "run", *SMALL, "--select", "last")
    assert status == 0 and "run directory" in out
    status, out, _ = run(capsys, "eval", tmp_path / "run", "--json", tmp_path / "figures.json", "--analysis")
    assert status == 0 and "classifier sharing" in out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert json.loads((tmp_path / "figures.json").read_text())["metrics"]["top1"] == summary["top1"]
    status, out, _ = run(capsys, "train", "--resume", tmp_path / "run")
    assert status == 0 and "run directory" in out


def test_recipes_and_doctor(capsys):
    status, out, _ = run(capsys, "recipes", "3.6", "--json")
    assert status == 0 and all("3.6" in recipe["table"] for recipe in json.loads(out))
    assert run(capsys, "recipes")[0] == 0
    status, out, _ = run(capsys, "doctor")
    assert status == 0 and "digits" in out


def test_data_prepare_says_what_it_found(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("MIXFAST_CACHE", str(tmp_path))
    status, out, _ = run(capsys, "data", "prepare", "digits")
    assert status == 0 and "1,201 images" in out and "596 images" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train",), "name a recipe"),
        (("train", "quickstrat"), "quickstart"),
        (("train", "quickstart", "optimizer.learning_rate=1"), "optimizer.lr"),
        (("train", "quickstart", "schedule.epochs=many"), "schedule.epochs"),
        (("train", "quickstart", "method.num_inputs=1"), "num_inputs"),
        (("train", "quickstart", "training.batch_size=63"), "batch_size"),
        (("train", "quickstart", "model.name=wrn29-2", "baseline=false"), "the nearest is 28"),
        (("train", "quickstart", "data.name=folder:nowhere"), "nowhere"),
        (("train", "quickstart", "data.name=cifar"), "cifar10"),
        (("train", "quickstart", "training.device=gpu"), "training.device"),
        (("train", "--resume", "nowhere"), "nowhere"),
        (("train", "quickstart", "--resume", "nowhere"), "takes nothing else"),
        (("eval", "nowhere"), "nowhere"),
        (("recipes", "no such recipe"), "no recipe contains"),
    ],
)
def test_mistakes_are_named_before_any_work(capsys, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    status, _, error = run(capsys, *arguments)
    assert status == 2 and words in error, error
    assert not (tmp_path / "runs").exists()


def test_unknown_options_stop_with_the_usage(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "quickstart", "--fast"])
    assert stop.value.code == 2 and "--fast" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "50000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, None)],
)
def test_threads_spin_briefly_unless_told_otherwise(given, expected):
    """OpenMP reads it when torch is loaded: it must be settled by then."""
    code = (
        "import os, sys\nimport mixfast.__main__ as command\nloaded = 'torch' in sys.modules\n"
        "sys.argv = ['mixfast', 'recipes', '3.6', '--json']\ncommand.main()\n"
        "print(loaded, os.environ.get('GOMP_SPINCOUNT'))"
    )
    environment = {
        name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | given, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == f"False {expected}"
