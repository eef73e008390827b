"""A run that is stopped, or killed, and resumed ends in the same bits as one that was left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from small_runs import SMALL, assert_same_run

from mixfast.training.checkpoint import CheckpointError
from mixfast.training.run_directory import RunDirectory
from mixfast.training.session import open_run

VARIANTS = {
    "cut-mixmo": (),
    "everything": (
        "training.ema_decay=0.9",
        "training.amp=bfloat16",
        "optimizer.name=adamw",
        "optimizer.lr=0.01",
        "optimizer.grad_clip=1.0",
        "msda.kind=cutmix",
        "data.validation=0.2",
        "evaluation.select=validation",
        "training.label_smoothing=0.1",
    ),
    # Half-precision convolutions are slow on a CPU: a few steps are enough to carry the gradient scale across.
    "float16": ("training.amp=float16", "schedule.max_steps=8"),
    "mixshare": (
        "method.name=mixshare",
        "method.probability=1.0",
        "method.encoder_init=same",
        "method.fade_epochs=2",
        "data.views=shared",
        "data.input_repetition=0.25",
    ),
    # Stochastic depth draws from torch's own generator, in the network.
    "mixvit": (
        "model.name=convit32-1",
        "model.patch_size=2",
        "model.drop_path=0.2",
        "method.name=mixvit-encoding",
        "method.probability=0.5",
        "optimizer.name=adamw",
        "optimizer.lr=0.002",
        "optimizer.decay_vectors=false",
        "training.label_smoothing=0.1",
    ),
    "augmentations": (
        "data.pad=1",
        "data.flip=true",
        "data.autoaugment=cifar",
        "data.random_erasing=0.25",
        "msda.kind=cutmix-mixup",
        "msda.probability=1.0",
        "training.label_smoothing=0.1",
    ),
    "manifold": (
        "method.name=single",
        "method.num_inputs=1",
        "method.alpha=null",
        "method.probability=0.5",
        "data.repetition=1",
        "msda.kind=manifold-mixup",
        "msda.probability=1.0",
    ),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_stopped_anywhere_and_resumed_equals_never_stopped(variant, small_config, run_session, tmp_path):
    config = small_config(*VARIANTS[variant])
    assert run_session(config, tmp_path / "whole")
    stops = random.Random(variant)
    path = tmp_path / "parts"
    finished = run_session(config, path, stop_after=stops.randrange(2, 6))
    pauses = 0
    while not finished:
        pauses += 1
        config, _ = open_run(path)
        finished = run_session(config, path, stop_after=stops.randrange(4, 60), resume=True)
    assert pauses >= 1
    assert_same_run(tmp_path / "whole", path)


def test_a_deep_ensemble_and_its_baseline_resume_where_they_were(small_config, run_session, tmp_path):
    config = small_config(
        "ensemble.members=2", "schedule.epochs=1", "schedule.decay_epochs=[]", "schedule.warmup_epochs=0"
    )
    assert run_session(config, tmp_path / "whole")
    path = tmp_path / "parts"
    assert not run_session(config, path, stop_after=45)  # inside the second member
    first = (path / "member-0" / "summary.json").read_text()
    assert run_session(open_run(path)[0], path, resume=True)
    assert (path / "member-0" / "summary.json").read_text() == first
    for member in ("member-0", "member-1"):
        assert_same_run(tmp_path / "whole" / member, path / member)
    assert len(RunDirectory(path).read_summary()["members"]) == 4


def mixfast(*arguments, **options):
    command = [sys.executable, "-m", "mixfast", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)


def test_killed_at_random_moments_and_resumed_equals_never_killed(small_config, run_session, tmp_path):
    overrides = ("training.checkpoint_minutes=0.0005", "schedule.epochs=6")
    assert run_session(small_config(*overrides), tmp_path / "whole")
    path, moments = tmp_path / "killed", random.Random(0)
    process = mixfast("train", "quickstart", "--out", path, *SMALL, *overrides)
    for _ in range(3):
        last = RunDirectory(path).last
        seen = last.stat().st_mtime_ns if last.exists() else 0
        deadline = time.monotonic() + 60
        while (not last.exists() or last.stat().st_mtime_ns == seen) and process.poll() is None:
            assert time.monotonic() < deadline, "no checkpoint within a minute"
            time.sleep(0.01)
        time.sleep(moments.uniform(0, 0.8))
        process.kill()
        process.communicate()
        process = mixfast("train", "--resume", path)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert_same_run(tmp_path / "whole", path)
    assert not list(path.glob(".*.tmp")) or all(file.suffix == ".tmp" for file in path.glob(".*"))


def test_sigterm_finishes_the_step_saves_and_says_how_to_go_on(tmp_path):
    path = tmp_path / "run"
    process = mixfast("train", "quickstart", "--out", path, *SMALL, "schedule.epochs=500")
    last = RunDirectory(path).last
    deadline = time.monotonic() + 60
    while not last.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(1.0)
    os.kill(process.pid, signal.SIGTERM)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert f"mixfast train --resume {path}" in output.replace("\n", "")


def test_resuming_refuses_another_configuration_and_other_data(small_config, run_session, tmp_path):
    path = tmp_path / "run"
    run_session(small_config(), path, stop_after=20)
    config_file = RunDirectory(path).config_file
    original = config_file.read_text()
    config_file.write_text(
        original.replace("lr: 0.8", "lr: 0.7") if "lr: 0.8" in original else original.replace("seed: 0", "seed: 1")
    )
    with pytest.raises(CheckpointError, match="another configuration"):
        run_session(open_run(path)[0], path, resume=True)
    config_file.write_text(original)
    state_config = open_run(path)[0]
    import mixfast.training.trainer as trainer

    real = trainer.fingerprint
    trainer.fingerprint = lambda data: "other"
    try:
        with pytest.raises(CheckpointError, match="other training data"):
            run_session(state_config, path, resume=True)
    finally:
        trainer.fingerprint = real
    assert run_session(state_config, path, resume=True)
