"""What a run leaves behind, and what it refuses."""

from __future__ import annotations

import errno
import json
import math

import pytest
import torch
from PIL import Image
from small_runs import assert_same_run

from mixfast.errors import UnavailableError
from mixfast.methods import create_model
from mixfast.training import checkpoint, compiling, optimisers
from mixfast.training.assessment import assess
from mixfast.training.checkpoint import CheckpointError, load_weights
from mixfast.training.run_directory import RunDirectory, RunError
from mixfast.training.session import resolve_device
from mixfast.training.trainer import DivergedError

SUMMARY_KEYS = {
    "top1", "top5", "nll", "nll_calibrated", "ece", "diversity", "members", "params", "images_per_second", "epochs", "seconds",
    "calibration",
}  # fmt: skip


def test_a_run_directory_holds_what_it_promises(small_config, run_session, console, tmp_path):
    config = small_config("baseline=true")
    path = tmp_path / "run"
    assert run_session(config, path)
    run = RunDirectory(path)
    assert run.read_config() == config.replace(data={"source": "resident"})  # what auto chose
    records = run.read_metrics()
    assert [record["epoch"] for record in records] == [1, 2, 3] and all(math.isfinite(r["loss"]) for r in records)
    summary = json.loads(run.summary_file.read_text())
    assert set(summary) == SUMMARY_KEYS
    assert sum(entry["count"] for entry in summary["calibration"]) == 596  # the test images
    gaps = [
        entry["count"] * abs(entry["confidence"] - entry["accuracy"])
        for entry in summary["calibration"]
        if entry["count"]
    ]
    assert sum(gaps) / 596 == pytest.approx(summary["ece"])
    assert "calibration" not in records[0]
    assert summary["top1"] > 0.5 and len(summary["members"]) == 2 and summary["epochs"] == 3
    assert Image.open(run.curves).size[0] > 600
    assert list(path.glob("events.out.*"))
    plain = RunDirectory(path / "single")
    assert plain.read_summary()["members"] == [plain.read_summary()["top1"]]
    steps = [torch.load(r.last, weights_only=True)["position"]["step"] for r in (run, plain)]
    assert steps[0] == steps[1]
    table = console.file.getvalue()
    assert "subnetwork 2" in table and "plain, same steps" in table


MIXVIT = (
    "model.name=convit32-1",
    "model.patch_size=2",
    "method.name=mixvit-embedding",
    "method.probability=0.5",
    "optimizer.name=adamw",
    "optimizer.lr=0.002",
)


def test_methods_beside_one_another(small_config, run_session, console, tmp_path):
    path = tmp_path / "run"
    config = small_config(*MIXVIT, "baseline=true", "beside=[mixvit-encoding]", "schedule.max_steps=12")
    assert run_session(config, path)
    for name, method in (("", "mixvit-embedding"), ("single", "single"), ("mixvit-encoding", "mixvit-encoding")):
        run = RunDirectory(path / name)
        assert run.read_config().method.name == method and run.read_summary() is not None
        assert torch.load(run.last, weights_only=True)["position"]["step"] == 12
    assert [title in console.file.getvalue() for title in ("plain, same steps", "mixvit-encoding")] == [True, True]


def test_eval_with_another_inference(small_config, run_session, tmp_path):
    """Table 4.6: one trained network, four ways to predict."""
    path = str(tmp_path / "run")
    run_session(small_config(*MIXVIT, "schedule.max_steps=30"), path)
    results = {way: assess([path], inference=way).metrics for way in ("separate", "sum", "alternating", "single")}
    assert results["separate"]["nll"] == pytest.approx(assess([path]).metrics["nll"])
    assert len({metrics["nll"] for metrics in results.values()}) == 4
    assert {way: len(metrics["members"]) for way, metrics in results.items()} == {
        "separate": 2,
        "sum": 2,
        "alternating": 2,
        "single": 1,
    }
    assert results["single"]["top1"] == results["separate"]["members"][0]
    analysed = assess([path], analysis=True).analysis[path]
    assert set(analysed) == {"encoder sharing", "classifier sharing"}


def test_eval_of_a_convolutional_network_has_one_inference(small_config, run_session, tmp_path):
    path = str(tmp_path / "run")
    run_session(small_config("schedule.max_steps=5"), path)
    with pytest.raises(ValueError, match="inference is separate, but .* is a convolutional network"):
        assess([path], inference="separate")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model.patch_size=3",), "image_size"),
        (("model.name=convit30-1",), "multiple of 32"),
        (("model.name=wrn10-1",), "only vision transformers take it"),
        (("model.name=wrn10-1", "model.patch_size=null"), "MixViT needs a transformer"),
        (
            (
                "msda.kind=manifold-mixup",
                "method.name=single",
                "method.num_inputs=1",
                "method.alpha=null",
                "data.repetition=1",
            ),
            "msda.kind is manifold-mixup and model.name is convit32-1",
        ),
    ],
)
def test_transformers_that_cannot_be_are_refused_before_anything_is_written(
    overrides, message, small_config, run_session, tmp_path
):
    with pytest.raises(ValueError, match=message):
        run_session(small_config(*MIXVIT, *overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weight_decay_spares_vectors_where_asked(small_config, cpu_network):
    for spared, groups in ((False, 1), (True, 2)):
        config = small_config(*MIXVIT, f"optimizer.decay_vectors={'false' if spared else 'true'}")
        optimiser = optimisers.make_optimiser(config, cpu_network, torch.device("cpu"))
        assert [group["weight_decay"] for group in optimiser.param_groups] == [config.optimizer.weight_decay, 0.0][
            :groups
        ]
        assert sum(len(group["params"]) for group in optimiser.param_groups) == len(list(cpu_network.parameters()))


@pytest.fixture
def cpu_network():
    return create_model(
        "convit32-1", num_classes=10, method="mixvit-embedding", num_inputs=2, image_size=8, in_channels=1
    )


def test_eval_repeats_the_summary_and_joins_runs_into_an_ensemble(small_config, run_session, tmp_path):
    for seed in (0, 1):
        run_session(small_config(f"seed={seed}"), tmp_path / str(seed))
    alone = assess([str(tmp_path / "0")], analysis=True)
    summary = RunDirectory(tmp_path / "0").read_summary()
    assert alone.metrics["top1"] == summary["top1"] and alone.metrics["nll"] == pytest.approx(summary["nll"])
    assert 0 <= alone.analysis[str(tmp_path / "0")]["classifier sharing"] <= 1
    together = assess([str(tmp_path / "0"), str(tmp_path / "1")])
    assert len(together.metrics["members"]) == 4
    assert together.metrics["members"][:2] == alone.metrics["members"]
    probabilities = assess([str(tmp_path / "0")], average="probabilities")
    assert probabilities.metrics["nll"] != alone.metrics["nll"]


def test_validation_selects_by_default_and_test_only_when_asked(small_config, run_session, console, tmp_path):
    run_session(small_config("evaluation.select=validation"), tmp_path / "a")
    assert {record["split"] for record in RunDirectory(tmp_path / "a").read_metrics()} == {"validation"}
    run_session(small_config("evaluation.select=test"), tmp_path / "b")
    assert {record["split"] for record in RunDirectory(tmp_path / "b").read_metrics()} == {"test"}
    assert "as in the papers" in console.file.getvalue()
    best = max(record["top1"] for record in RunDirectory(tmp_path / "b").read_metrics())
    assert RunDirectory(tmp_path / "b").read_summary()["top1"] == best


def test_the_moving_average_is_what_is_evaluated(small_config, run_session, tmp_path):
    config = small_config("training.ema_decay=0.99")
    run_session(config, tmp_path / "run")
    run = RunDirectory(tmp_path / "run")
    state = torch.load(run.last, weights_only=True)
    network = create_model("wrn10-1", num_classes=10, method="cut-mixmo", in_channels=1)
    load_weights(run.best, network)
    assert torch.equal(network.heads.weight.detach(), state["average"]["module.heads.weight"])
    assert not torch.equal(network.heads.weight.detach(), state["network"]["heads.weight"])


def test_a_loss_that_is_not_finite_names_step_checkpoint_and_remedy(small_config, run_session, tmp_path):
    config = small_config(
        "optimizer.lr=100", "optimizer.weight_decay=1", "training.log_every=1", "schedule.warmup_epochs=0"
    )
    with pytest.raises(DivergedError, match=r"step \d+ .* is of step 0\. Try a lower optimizer\.lr"):
        run_session(config, tmp_path / "run")
    state = torch.load(RunDirectory(tmp_path / "run").last, weights_only=True)
    assert all(torch.isfinite(value).all() for value in state["network"].values())


def test_a_run_is_not_begun_where_one_is_or_where_nothing_can_be_written(small_config, run_session, tmp_path):
    run_session(small_config(), tmp_path / "run", stop_after=3)
    with pytest.raises(RunError, match="already holds a run"):
        run_session(small_config(), tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="cannot be written"):
        run_session(small_config(), tmp_path / "file" / "run")


def test_a_full_disk_leaves_the_last_checkpoint_whole(small_config, run_session, tmp_path, monkeypatch):
    path, calls, real = tmp_path / "run", [], checkpoint.torch.save

    def save(state, file):
        calls.append(file)
        if len(calls) == 2:
            file.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        real(state, file)

    monkeypatch.setattr(checkpoint.torch, "save", save)
    with pytest.raises(CheckpointError, match="No space left on device.*--resume"):
        run_session(small_config(), path)
    assert checkpoint.load_checkpoint(RunDirectory(path).last)["position"]["step"] == 0
    assert not list(path.glob(".*"))
    monkeypatch.setattr(checkpoint.torch, "save", real)
    assert run_session(RunDirectory(path).read_config(), path, resume=True)


def test_a_damaged_checkpoint_and_foreign_weights_are_named(tmp_path):
    (tmp_path / "last.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load_checkpoint(tmp_path / "last.pt")
    torch.save({"format": 99}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="format 99"):
        checkpoint.load_checkpoint(tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="no checkpoint"):
        checkpoint.load_checkpoint(tmp_path / "absent.pt")
    checkpoint.save_weights(tmp_path / "w.safetensors", create_model("wrn10-1", num_classes=10))
    with pytest.raises(CheckpointError, match="do not fit"):
        load_weights(tmp_path / "w.safetensors", create_model("wrn10-1", num_classes=11))


def test_auto_compiles_only_where_it_pays():
    cpu = torch.device("cpu")
    assert not compiling.should_compile("off", cpu, 1e20, 10)
    assert not compiling.should_compile("auto", cpu, 1e6, 100)
    assert compiling.should_compile("auto", cpu, 1e12, 10**6) == (compiling.missing_compiler(cpu) is None)


def test_compile_on_without_a_compiler_says_so(monkeypatch):
    monkeypatch.setattr(compiling.shutil, "which", lambda name: None)
    assert not compiling.should_compile("auto", torch.device("cpu"), 1e12, 10**6)
    with pytest.raises(UnavailableError, match="no C\\+\\+ compiler"):
        compiling.should_compile("on", torch.device("cpu"), 1.0, 1)


def test_a_compiled_run_is_resumed_bit_for_bit_too(small_config, run_session, tmp_path):
    config = small_config("training.compile=on", "schedule.epochs=2", "schedule.decay_epochs=[]")
    assert run_session(config, tmp_path / "whole")
    assert not run_session(config, tmp_path / "parts", stop_after=60)
    assert run_session(config, tmp_path / "parts", resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_apex_is_refused_where_its_kernels_are_not(small_config, cpu_network):
    config = small_config("optimizer.implementation=apex", "training.device=cuda")
    with pytest.raises(UnavailableError, match="amp_C"):
        optimisers.make_optimiser(config, cpu_network, torch.device("cuda"))


def test_unknown_devices_are_refused():
    with pytest.raises(ValueError, match=r"training\.device"):
        resolve_device("gpu7")
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="sees 0 CUDA devices"):
            resolve_device("cuda:0")
