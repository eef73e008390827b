"""``mixfast data``."""

from __future__ import annotations

import argparse

from rich.console import Console

from mixfast.data import prepare

HELP = "prepare data sets"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    action = actions.add_parser("prepare", help="decode a data set once, check it, and say where it is kept")
    action.add_argument("name", help="a data set, as cifar100, tiny-imagenet or folder:DIR")
    action.add_argument("--from", dest="source", metavar="DIR", help="the folder it lies in (default: $MIXFAST_DATA)")
    action.add_argument("--image-size", type=int, help="resize and crop images to this many pixels a side")
    action.add_argument("--skip-corrupt", action="store_true", help="leave out image files that cannot be decoded")


def run(args: argparse.Namespace, console: Console) -> int:
    options = {"root": args.source, "image_size": args.image_size, "skip_corrupt": args.skip_corrupt}
    for prepared in prepare(args.name, **options):
        console.print(prepared.describe(), highlight=False)
    return 0
