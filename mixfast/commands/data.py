"""``mixfast data``."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console

from mixfast.data import prepare
from mixfast.data.shard_writing import SHARD_SIZE, write_shards
from mixfast.files import replacing
from mixfast.methods import Moment
from mixfast.recipes import load_recipe
from mixfast.training.contact_sheet import draw_contact_sheet
from mixfast.training.feed import Feed
from mixfast.training.session import build_network, load_data

HELP = "prepare data sets, and show what a network sees of them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    action = actions.add_parser("prepare", help="decode a data set once, check it, and say where it is kept")
    action.add_argument("name", help="a data set, as cifar100, tiny-imagenet or folder:DIR")
    action.add_argument("--from", dest="source", metavar="DIR", help="the folder it lies in (default: $MIXFAST_DATA)")
    action.add_argument("--image-size", type=int, help="resize and crop images to this many pixels a side")
    action.add_argument("--skip-corrupt", action="store_true", help="leave out image files that cannot be decoded")
    action.add_argument(
        "--shards", metavar="DIR", help="instead: write its image files, as they are, as WebDataset shards"
    )
    action.add_argument("--shard-size", type=int, metavar="N", help="images a shard (default: 1000)")
    action = actions.add_parser(
        "show", help="draw what a recipe's network sees: inputs, zones, mixes and labels, as a PNG"
    )
    action.add_argument("recipe", help="a recipe's name (see `mixfast recipes`) or a YAML file")
    action.add_argument("overrides", nargs="*", metavar="key=value", help="settings, as msda.kind=cutmix")
    action.add_argument("--data", metavar="DIR", help="the folder the data sets lie in (default: $MIXFAST_DATA)")
    action.add_argument(
        "--epoch", type=int, default=1, metavar="N", help="of the first batch of which epoch (default: 1)"
    )
    action.add_argument("--samples", type=int, default=6, metavar="N", help="how many samples (default: %(default)s)")
    action.add_argument("--out", default="data.png", metavar="FILE", help="the picture (default: %(default)s)")


def run(args: argparse.Namespace, console: Console) -> int:
    return {"prepare": _prepare, "show": _show}[args.action](args, console)


def _prepare(args: argparse.Namespace, console: Console) -> int:
    if args.shards is not None:
        return _write_shards(args, console)
    if args.shard_size is not None:
        raise ValueError(f"--shard-size is {args.shard_size}, which has no effect without --shards")
    options = {"root": args.source, "image_size": args.image_size, "skip_corrupt": args.skip_corrupt}
    for prepared in prepare(args.name, **options):
        console.print(prepared.describe(), highlight=False)
    return 0


def _write_shards(args: argparse.Namespace, console: Console) -> int:
    for option, value in (("--image-size", args.image_size), ("--skip-corrupt", args.skip_corrupt or None)):
        if value is not None:
            raise ValueError(f"{option} has no effect with --shards, which copies files as they are")
    size = SHARD_SIZE if args.shard_size is None else args.shard_size
    if size < 1:
        raise ValueError(f"--shard-size is {size}, expected at least 1")
    for written in write_shards(args.name, args.shards, root=args.source, shard_size=size):
        console.print(written.describe(), highlight=False)
    console.print(f"use it as:  data.name=shards:{args.shards}", highlight=False)
    return 0


def _show(args: argparse.Namespace, console: Console) -> int:
    out = Path(args.out).expanduser()
    if not out.parent.is_dir():
        raise ValueError(f"--out is {out}, expected a file in a folder that exists")
    root = None if args.data is None else Path(args.data).expanduser().resolve()
    config = load_recipe(args.recipe, args.overrides, data_dir=root)
    for name, value, most in (
        ("--epoch", args.epoch, config.schedule.epochs),
        ("--samples", args.samples, config.training.batch_size),
    ):
        if not 1 <= value <= most:
            raise ValueError(f"{name} is {value}, expected a number from 1 to {most}")
    data = load_data(config, torch.device("cpu")).train
    network, method = build_network(config, data)
    feed = Feed(data, method, config, network.core.stem.grid(data.image_shape))
    batch = feed.batch(feed.plan(args.epoch), 0, Moment(args.epoch, config.schedule.epochs))
    title = f"{config.about.title}: {data.name}, epoch {args.epoch} of {config.schedule.epochs}, first batch"
    figure = draw_contact_sheet(batch.some(torch.arange(args.samples)), data, title)
    with replacing(out) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
    console.print(f"picture: {out}", highlight=False)
    return 0
