"""Runs and records with figures that are known, written without training or measuring anything."""

from __future__ import annotations

import json
from pathlib import Path

from mixfast.recipes import load_recipe
from mixfast.records import BENCH_VERSION
from mixfast.training.run_directory import RunDirectory

MACHINE = {"device": "cpu", "device_name": "Some(R) Processor", "threads": 2, "versions": {"torch": "2.0"}}


def write_run(path: Path, *settings: str, top1: float = 0.9, finished: bool = True, bins: bool = True) -> Path:
    """A run of the quickstart recipe on the digits, with three epochs."""
    run = RunDirectory(path)
    run.create(load_recipe("quickstart", ["model.name=wrn10-1", "baseline=false", *settings]))
    for epoch in (1, 2, 3):
        run.append_metrics({"epoch": epoch, "loss": 3.0 / epoch, "split": "test", "top1": top1 - 0.1 * (3 - epoch)})
    if finished:
        summary = {"top1": top1, "nll": 0.5, "ece": 0.1, "params": 12345}
        run.write_summary(summary | ({"calibration": BINS} if bins else {}))
    return path


BINS = [
    {"lower": 0.0, "upper": 0.5, "count": 0, "confidence": None, "accuracy": None},
    {"lower": 0.5, "upper": 1.0, "count": 40, "confidence": 0.9, "accuracy": 0.8},
]


def write(path: Path, record: dict) -> Path:
    path.write_text(json.dumps(record))
    return path


def bench(what: str, settings: dict, **results) -> dict:
    return {
        "version": BENCH_VERSION,
        "bench": what,
        "date": "2026-01-02T03:04:05+00:00",
        "machine": MACHINE,
        "settings": settings,
        **results,
    }


def spread(median: float) -> dict:
    return {"median": median, "lower_quartile": 0.9 * median, "upper_quartile": 1.1 * median}


def ratio(median: float, refusal: str | None = None, interval: bool = True) -> dict:
    ends = [median - 0.02, median + 0.02] if interval else None
    return {"value": spread(median), "interval": ends, "refusal": refusal, "detail": ""}


def table(seconds: dict[str, float], ratios: dict) -> dict:
    """What ``bench step`` and ``inference`` write of one table."""
    rows = [{"name": name, "step": spread(value)} for name, value in seconds.items()]
    flops = {name: 2_000_000_000 for name in seconds}
    return {"flops_a_step": flops, "summary": {"rows": rows, "ratios": ratios, "product_rate": spread(1e11)}}


IMAGES = {"images": {"size": [32, 32], "classes": 100}}
SECONDS = {"single, eager": 0.1, "cut-mixmo, eager": 0.11, "straightforward": 0.2}


def step(backbone: str = "wrn28-2", batch_size: int = 64, overhead: dict | None = None) -> dict:
    settings = {"backbone": backbone, "batch_size": batch_size, "amp": "off"}
    ratios = {"overhead, eager": overhead or ratio(1.1), "speed-up over straightforward, eager": ratio(1.8)}
    return bench("step", settings, **IMAGES, **table(SECONDS, ratios))


def inference(backbone: str = "convit") -> dict:
    seconds = {"single, eager": 0.01, "mixvit-embedding, eager": 0.02}
    ratios = {"overhead of mixvit-embedding, eager": ratio(2.0, refusal="too noisy")}
    tables = {f"batch {size}": table(seconds, ratios) for size in (64, 1)}
    return bench("inference", {"backbone": backbone, "batch_size": [64, 1]}, **IMAGES, **tables)


def kernels(work: bool = True) -> dict:
    def row(operator: str, direction: str, seconds: float) -> dict:
        return {"operator": operator, "name": "small", "direction": direction, "seconds": spread(seconds)}

    rows = [row("unmix_pool", "forward", 0.001), row("unmix_pool", "forward + backward", 0.002)]
    rows.append(row("mask_mix_encode", "forward", 0.004))
    counts = {
        "unmix_pool: small": {
            "forward": {"bytes": 10**6, "flops": 0},
            "forward + backward": {"bytes": 3 * 10**6, "flops": 0},
        },
        "mask_mix_encode: small": {"forward": {"bytes": 2 * 10**6, "flops": 4 * 10**7}},
    }
    results = {
        "seconds": {title: {"copy": [0.0004, 0.0005, 0.0006]} for title in counts},
        "summary": {"rows": rows, "product_rate": 1e11},
    }
    return bench("kernels", {"dtype": "float32"}, **results, **({"work": counts} if work else {}))


def flops(*inputs: int, backbone: str = "wrn28-10", method: str = "mimo", batch_size: int = 64) -> dict:
    recipes = [
        {
            "method": method,
            "backbone": backbone,
            "num_inputs": number,
            "members": 1,
            "image": [3, 32, 32],
            "classes": 100,
            "batch_size": batch_size,
            "total": {"inference": 10**9 * number, "step": 3 * 10**9, "activations": 2**20},
        }
        for number in inputs
    ]
    return {"version": 1, "kind": "mixfast flops", "torch": "2.0", "recipes": recipes, "tables": []}
