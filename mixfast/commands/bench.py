"""``mixfast bench``: loads the bench package only when it is asked for."""

from __future__ import annotations

import argparse

from rich.console import Console

HELP = "measure on this machine what the methods cost"
PARTS = ("step", "inference", "data", "kernels")  # of ``bench all``


def add_arguments(parser: argparse.ArgumentParser) -> None:
    benches = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    _add_step(benches.add_parser("step", help="a training step with its data, beside the plain network's"))
    _add_inference(benches.add_parser("inference", help="predictions of all subnetworks, beside the plain network's"))
    _add_data(benches.add_parser("data", help="the input pipeline alone, from memory or from image files"))
    _add_kernels(benches.add_parser("kernels", help="each operator against its plain form, eager and compiled"))
    _add_all(benches.add_parser("all", help="all of these, each as it is by default"))


def _defaults(what: str) -> argparse.Namespace:
    """The arguments of a bench that is told nothing."""
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args([what])


def run(args: argparse.Namespace, console: Console) -> int:
    from mixfast_bench.command import run_bench

    return run_bench(args, console, [_defaults(what) for what in PARTS] if args.what == "all" else ())


def _add_step(parser: argparse.ArgumentParser) -> None:
    _add_network(parser)
    parser.add_argument(
        "--amp", choices=("off", "bfloat16", "float16"), help="mixed precision, of all steps (default: off)"
    )
    parser.add_argument(
        "--layout",
        choices=("channels-last", "contiguous"),
        help="the memory of features, but the opponent's (default: channels-last)",
    )
    _add_common(parser, batch_size=None, repetition=None)


def _add_inference(parser: argparse.ArgumentParser) -> None:
    _add_network(parser)
    parser.add_argument(
        "--batch-size", type=int, nargs="+", default=[64, 1], metavar="B", help="images a pass (default: 64 1)"
    )
    parser.add_argument("--runs", type=int, metavar="N", help="passes a turn (default: 5, 10 on CUDA)")
    _add_measuring(parser, rounds=40)


def _add_network(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="RECIPE",
        help="recipes or YAML files, each beside its backbone with one input, and settings for all of them (key=value)",
    )
    parser.add_argument("--backbone", help="instead of recipes: the backbone of all (default: wrn28-2)")
    parser.add_argument("--num-inputs", type=int, metavar="M", help="inputs of the mixing methods (default: 2)")
    parser.add_argument(
        "--compile",
        choices=("on", "off", "both"),
        default="both",
        help="with torch.compile, without, or both (default; without, where there is no compiler)",
    )
    parser.add_argument("--data-name", metavar="NAME", help="train on this data set (default: random images)")
    parser.add_argument("--data", metavar="DIR", help="the folder the data set lies in (default: $MIXFAST_DATA)")
    parser.add_argument(
        "--image-size", type=int, metavar="N", help="pixels a side (default: 32 for random images, the data set's own)"
    )
    parser.add_argument("--classes", type=int, metavar="K", help="classes of the random images (default: 100)")


def _add_data(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--data-name", metavar="NAME", help="the sources, on this data set's image files, beside torchvision"
    )
    parser.add_argument("--data", metavar="DIR", help="the folder the data set lies in (default: $MIXFAST_DATA)")
    parser.add_argument(
        "--image-size",
        type=int,
        nargs="+",
        metavar="N",
        help="pixels a side (default: 32 64 for random images, the data set's own)",
    )
    parser.add_argument(
        "--crop-area",
        type=float,
        nargs=2,
        metavar=("LEAST", "GREATEST"),
        help="of image files: random-resized crop of such a share of the area, as 0.08 1 (default: pad and crop)",
    )
    _add_common(parser)


def _add_kernels(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--op", nargs="+", metavar="OP", help="only these operators, such as unmix_pool (default: all)")
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="(default: %(default)s)"
    )
    parser.add_argument("--times", type=int, metavar="N", help="N times the batch of each case (default: 1, 8 on CUDA)")
    parser.add_argument("--plot", metavar="FILE", help="also draw the speed-ups into FILE, a PNG")
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="measure in N processes, one after the other (default: 1)"
    )
    _add_measuring(parser, rounds=20)


def _add_all(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--backbone", default="wrn28-2", help="of steps and inference (default: %(default)s)")
    _add_measuring(parser, rounds=None)


def _add_common(parser: argparse.ArgumentParser, batch_size: int | None = 64, repetition: int | None = 4) -> None:
    """``batch_size``, ``repetition``: None where a recipe may say it instead."""
    parser.add_argument("--batch-size", type=int, default=batch_size, metavar="B", help="samples a step (default: 64)")
    parser.add_argument(
        "--repetition",
        type=int,
        default=repetition,
        metavar="b",
        help="batch repetition: of Cut-MixMo; over a transformer, of all (default: 4)",
    )
    parser.add_argument(
        "--runs",
        type=int,
        metavar="N",
        help="steps or batches a turn (default: 1 step, 10 on CUDA; 5 batches, 100 of files)",
    )
    _add_measuring(parser, rounds=40)


def _add_measuring(parser: argparse.ArgumentParser, rounds: int | None) -> None:
    default = "each bench's own" if rounds is None else rounds
    parser.add_argument(
        "--rounds", type=int, default=rounds, metavar="N", help=f"interleaved turns of each (default: {default})"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="also write the record to FILE")
    parser.add_argument(
        "--against",
        metavar="FILE",
        help="say what changed since that record beyond noise; exit status 1 if something is slower",
    )
