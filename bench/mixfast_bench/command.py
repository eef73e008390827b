"""``mixfast bench``: checks the arguments, measures, prints tables, writes the record."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mixfast.allocator import keep_freed_memory
from mixfast.config import Config
from mixfast.data import Images, SourceOptions, open_images
from mixfast.data.decode import usable_cores
from mixfast.data.sources.dali_presence import require_dali
from mixfast.files import write_text
from mixfast.records import BENCH_VERSION
from mixfast.training.session import resolve_device
from mixfast_bench import machine
from mixfast_bench.against import load_record, report
from mixfast_bench.cases import Batches, Rounds, at_least, synthetic_images
from mixfast_bench.kernel_cases import KERNEL_CASES
from mixfast_bench.kernel_measurement import recorded
from mixfast_bench.kernel_problems import KernelCase
from mixfast_bench.kernel_processes import measure_in_processes
from mixfast_bench.kernels import measure_kernels
from mixfast_bench.measure import Timings
from mixfast_bench.network_bench import (
    DEFAULT_BATCH,
    DEFAULT_CLASSES,
    bench_inference,
    bench_step,
    compile_choice,
    described_images,
    recipes_of,
    require_no_data,
)
from mixfast_bench.plots import plot_kernels
from mixfast_bench.registry import PIPELINE_COMPARISONS, PIPELINES, Comparison
from mixfast_bench.runs import DataMeasurement, measure_pipelines, pipeline_prefix
from mixfast_bench.sources import CUT_COMPARISONS, SOURCE_COMPARISONS, SOURCES, cut_sources
from mixfast_bench.summary import summarise_kernels, summarise_pipelines
from mixfast_bench.tables import data_table, kernel_table, rate_text, ratio_table

DEFAULT_PIPELINE_SIZES = (32, 64)
# The thesis's batches take a large device no longer than to start.
CUDA_TIMES = 8
SOURCE_RUNS = 100  # many more batches than lie ready when a turn begins
PADDED = "pad 4, crop, flip"
# What the command line keeps beside the bench's own arguments.
NOT_SETTINGS = ("command", "what", "run", "debug", "json", "plot", "against")


def run_bench(args: argparse.Namespace, console: Console, parts: Sequence[argparse.Namespace] = ()) -> int:
    """Measures what ``args`` (of ``mixfast.commands.bench``) ask for.

    ``parts``: of ``bench all``, the default arguments of each bench. Returns the exit status: 1 where something is slower than in
    the record that it is compared with.

    Raises:
        ValueError: an argument is wrong; the message names it. Nothing was measured.
        MixfastError: what was asked for cannot be had on this machine.
        OSError: the record cannot be written.
    """
    device = _device(args.device)
    if args.what == "all":
        run, work = _bench_all, [_parts(args, parts, device)]
    else:
        run, prepare = _bench_of(args.what)
        work = prepare(args, device)
    settings = _settings(args)
    record_file = None if args.json is None else _writable("--json", args.json)
    earlier_file = None if args.against is None else Path(args.against).expanduser()
    earlier = None if earlier_file is None else load_record(earlier_file, args.what, settings)
    described = machine.describe(device)
    _announce(described, console)
    results = run(args, *work, device, console)
    record = {
        "version": BENCH_VERSION,
        "bench": args.what,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": described,
        "settings": settings,
        **results,
    }
    if record_file is not None:
        write_text(record_file, json.dumps(record, indent=1) + "\n")
        console.print(f"record: {record_file}", highlight=False)
    if earlier is None:
        return 0
    # As it would be read from a file.
    return int(report(earlier, json.loads(json.dumps(record)), earlier_file, console))


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name, value in vars(args).items() if name not in NOT_SETTINGS}


def default_runs(what: str, device: torch.device) -> int:
    """Runs a turn: more where one is short beside what surrounds it, so that a turn lasts about as long everywhere."""
    if what in ("data", "inference"):
        return 5
    return 10 if device.type == "cuda" else 1


def _is_of_sources(args: argparse.Namespace) -> bool:
    return args.what == "data" and args.data_name is not None


def _rounds(args: argparse.Namespace, device: torch.device) -> Rounds:
    if args.runs is None:
        args.runs = SOURCE_RUNS if _is_of_sources(args) else default_runs(args.what, device)
    return Rounds(args.rounds, args.runs)


def _batches_and_rounds(args: argparse.Namespace, device: torch.device) -> tuple[Batches, Rounds]:
    return Batches(args.batch_size, args.repetition), _rounds(args, device)


def _steps_and_rounds(args: argparse.Namespace, device: torch.device) -> tuple[dict[str, Config] | Batches, Rounds]:
    configs = recipes_of(args)
    if not configs:
        args.batch_size = DEFAULT_BATCH if args.batch_size is None else args.batch_size
        return _batches_and_rounds(args, device)
    if args.batch_size is not None:
        raise ValueError(
            f"--batch-size is {args.batch_size}, but recipes say it themselves: give training.batch_size=..."
        )
    return configs, _rounds(args, device)


def _passes_and_rounds(
    args: argparse.Namespace, device: torch.device
) -> tuple[tuple[dict[str, Config], list[Batches]], Rounds]:
    configs = recipes_of(args)
    if len(set(args.batch_size)) < len(args.batch_size):
        raise ValueError(f"--batch-size is {args.batch_size}, expected each size once")
    return (configs, [Batches(size, repetition=1) for size in args.batch_size]), _rounds(args, device)


def _cases_and_rounds(args: argparse.Namespace, device: torch.device) -> tuple[list[KernelCase], int]:
    if args.times is None:
        args.times = CUDA_TIMES if device.type == "cuda" else 1
    at_least("--times", args.times, 1)
    known = dict.fromkeys(case.operator for case in KERNEL_CASES)
    for operator in args.op or ():
        if operator not in known:
            raise ValueError(f"--op is {operator}, expected some of {', '.join(known)}")
    at_least("--rounds", args.rounds, 1)
    at_least("--processes", args.processes, 1)
    if args.plot is not None:
        _writable("--plot", args.plot)
    return [case for case in KERNEL_CASES if args.op is None or case.operator in args.op], args.rounds


def _bench_of(what: str) -> tuple[Callable[..., dict[str, Any]], Callable[..., Any]]:
    """What measures, and what checks the arguments and makes those that it takes after them."""
    return {
        "step": (bench_step, _steps_and_rounds),
        "inference": (bench_inference, _passes_and_rounds),
        "data": (_bench_data, _batches_and_rounds),
        "kernels": (_bench_kernels, _cases_and_rounds),
    }[what]


def _parts(
    args: argparse.Namespace, parts: Sequence[argparse.Namespace], device: torch.device
) -> list[tuple[argparse.Namespace, Any, Any]]:
    """Each bench with its own arguments, but for what is said for all of them, and what it measures with."""
    result = []
    for own in parts:
        own.device = args.device
        if args.rounds is not None:
            own.rounds = args.rounds
        if own.what in ("step", "inference"):
            own.backbone = args.backbone
        run, prepare = _bench_of(own.what)
        result.append((own, run, prepare(own, device)))
    return result


def _bench_all(
    args: argparse.Namespace,
    parts: Sequence[tuple[argparse.Namespace, Any, Any]],
    device: torch.device,
    console: Console,
) -> dict[str, Any]:
    return {own.what: {"settings": _settings(own), **run(own, *work, device, console)} for own, run, work in parts}


def _bench_data(
    args: argparse.Namespace, batches: Batches, rounds: Rounds, device: torch.device, console: Console
) -> dict[str, Any]:
    if args.data_name is not None:
        return _bench_sources(args, batches, rounds, device, console)
    require_no_data(args)
    if args.crop_area is not None:
        raise ValueError(f"--crop-area is {args.crop_area}, which has no effect without --data-name")
    sizes = DEFAULT_PIPELINE_SIZES if args.image_size is None else args.image_size
    if len(set(sizes)) < len(sizes):
        raise ValueError(f"--image-size is {sizes}, expected each size once")
    data_sets = [synthetic_images(size, DEFAULT_CLASSES, device) for size in sizes]
    measured = measure_pipelines(PIPELINES, batches, data_sets, rounds, console)
    title = f"memory-resident pipeline alone: {PADDED}"
    return _data_results(measured, PIPELINE_COMPARISONS, data_sets, title, batches, rounds, console)


def _bench_sources(
    args: argparse.Namespace, batches: Batches, rounds: Rounds, device: torch.device, console: Console
) -> dict[str, Any]:
    """The sources on the files of a data set."""
    if args.image_size is not None and len(args.image_size) > 1:
        raise ValueError(f"--image-size is {args.image_size}, expected one size with --data-name {args.data_name}")
    if args.crop_area is not None and args.image_size is None:
        raise ValueError(
            "--crop-area cuts regions out of images of all sizes: give the size of the views, --image-size"
        )
    require_dali("cpu", device)
    (data,) = open_images(
        args.data_name,
        ("train",),
        options=SourceOptions("torch", workers=usable_cores()),
        device=device,
        root=args.data,
        image_size=None if args.image_size is None else args.image_size[0],
    )
    entries, comparisons, views = SOURCES, SOURCE_COMPARISONS, PADDED
    if args.crop_area is not None:
        least, greatest = args.crop_area
        entries, comparisons = cut_sources((least, greatest)), CUT_COMPARISONS
        views = f"random-resized crop of {least:g} to {greatest:g}, flip"
    measured = measure_pipelines(entries, batches, [data], rounds, console)
    title = f"{len(data):,} image files of {data.name}: {views}"
    return _data_results(measured, comparisons, [data], title, batches, rounds, console)


def _data_results(
    measured: DataMeasurement,
    comparisons: Sequence[Comparison],
    data_sets: Sequence[Images],
    what: str,
    batches: Batches,
    rounds: Rounds,
    console: Console,
) -> dict[str, Any]:
    """Prints the tables of pipelines; the record's part."""
    prefixes = [pipeline_prefix(data) for data in data_sets]
    summary = summarise_pipelines(measured, comparisons, prefixes)
    title = (
        f"{what}; batch {batches.batch_size}, b = {batches.repetition}; {rounds.rounds} rounds of {rounds.runs} batches"
    )
    console.print(title, highlight=False)
    for prefix in prefixes:
        console.print(data_table(summary.rows, prefix, prefix))
    console.print(ratio_table(summary.ratios, {"copy, read and written": rate_text(summary.copy_rate, "B/s")}))
    return {
        "images": [described_images(data) for data in data_sets],
        "floor_bytes_a_batch": measured.floor_bytes,
        "seconds": _raw(measured.timings),
        "summary": asdict(summary),
    }


def _bench_kernels(
    args: argparse.Namespace, cases: list[KernelCase], rounds: int, device: torch.device, console: Console
) -> dict[str, Any]:
    operators = list(dict.fromkeys(case.operator for case in cases))
    if args.processes > 1:
        measured = measure_in_processes(args, operators, console)
    else:
        keep_freed_memory()
        compiled = compile_choice("both", device, console) == "both"
        measured = measure_kernels(cases, device, getattr(torch, args.dtype), args.times, rounds, compiled, console)
    summary = summarise_kernels(measured)
    for operator in operators:
        console.print(kernel_table(summary.rows, operator))
    for way, mean in summary.means.items():
        text = f"against {way}: {mean:.2f} times as fast (geometric mean of the cases), {summary.smallest[way]:.2f} at least"
        console.print(text, highlight=False)
    if args.plot is not None:
        plot_file = _writable("--plot", args.plot)
        threads = "" if device.type == "cuda" else f"{torch.get_num_threads()} threads, "
        batches = "" if args.times == 1 else f", {args.times} times the batch"
        where = f"{machine.device_name(device)}, {threads}{args.dtype}{batches}"
        plot_kernels(summary, where, plot_file)
        console.print(f"plot: {plot_file}", highlight=False)
    record = recorded(measured)
    for title, names in record["launched_by_the_host"].items():
        console.print(f"{title}: launched by the host in every run: {'; '.join(names)}", highlight=False)
    return {**record, "summary": asdict(summary)}


def _device(name: str) -> torch.device:
    try:
        device = resolve_device(name)
    except ValueError as error:
        raise ValueError(f"--device: {error}") from error
    if device.type not in machine.PRODUCT_SIDE:
        raise ValueError(f"--device is {name}, expected auto, cpu, cuda or cuda:N: others have no stopwatch here")
    # As in a training that is not asked to be deterministic.
    torch.backends.cudnn.benchmark = True
    return device


def _writable(argument: str, name: str) -> Path:
    """Raises ValueError unless a file can be written there: it would be a pity to find out after measuring."""
    path = Path(name).expanduser()
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        raise ValueError(f"{argument} is {path}, expected a file in a folder that exists and can be written")
    return path


def _announce(described: dict[str, Any], console: Console) -> None:
    native = [name for name, kind in described["operators"].items() if kind == "native"]
    console.print(
        f"{described['device_name']}; threads: {described['threads']}; torch {described['versions']['torch']}; "
        f"native operators: {', '.join(native) or 'none'}",
        highlight=False,
    )
    load = described["load_average"]
    if load is not None and load > 0.5:
        console.print(
            f"load average {load:.1f}: something else has been running here; figures are those of a busy machine",
            style="yellow",
            highlight=False,
        )


def _raw(timings: dict[str, Timings]) -> dict[str, dict[str, list[float]]]:
    return {name: contender.phases for name, contender in timings.items()}
