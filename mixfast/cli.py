"""The ``mixfast`` command."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from rich.console import Console

from mixfast.commands import COMMANDS
from mixfast.errors import MixfastError

# What a person can mend: shown as one line. Anything else is a defect of ours and keeps its traceback.
EXPECTED = (MixfastError, ValueError, OSError)


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
    return args


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status: 0, 2 for a mistake, 128 + n when signal n stopped it."""
    args = parse(arguments)
    try:
        return args.run(args, Console())
    except EXPECTED as error:
        if args.debug:
            raise
        message = str(error) or type(error).__name__
        Console(stderr=True).print(f"mixfast: error: {message}", style="red", markup=False, highlight=False)
        return 2


if __name__ == "__main__":
    sys.exit(main())
