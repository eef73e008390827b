"""The ``mixfast`` command."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout

from rich.console import Console

from mixfast.commands import COMMANDS
from mixfast.errors import EXPECTED, print_error
from mixfast.training.ranks import SECONDS_FOR_FIRST


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mixfast",
        description="Trains image classifiers that mix M inputs into one network and read M predictions out.",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(name, help=command.HELP, description=command.HELP)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    return parser


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Settings (``key=value``) may stand before, between and after options, which argparse alone does not allow."""
    parser = build_parser()
    args, left = parser.parse_known_args(arguments)
    unknown = [word for word in left if word.startswith("-") or not hasattr(args, "overrides")]
    if unknown:
        parser.error(f"{args.command}: unknown arguments: {' '.join(unknown)}")
    if left:
        args.overrides = [*args.overrides, *left]
    processes = os.environ.get("WORLD_SIZE", "1")
    if args.command != "train" and processes != "1":
        parser.error(f"{args.command} runs in one process, but torchrun started {processes}: only train takes several")
    return args


@contextmanager
def said_once() -> Iterator[None]:
    """What the parser prints comes from the first of several processes only."""
    if os.environ.get("RANK", "0") == "0":
        yield
        return
    try:
        with redirect_stdout(None), redirect_stderr(None):
            yield
    except SystemExit:
        time.sleep(SECONDS_FOR_FIRST)
        raise


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status: 0, 2 for a mistake, 128 + n when signal n stopped it."""
    with said_once():
        args = parse(arguments)
    try:
        return args.run(args, Console())
    except EXPECTED as error:
        if args.debug:
            raise
        print_error(str(error) or type(error).__name__)
        return 2
