"""``mixfast recipes``."""

from __future__ import annotations

import argparse
import json

from rich.console import Console
from rich.table import Table

from mixfast.recipes import list_recipes

HELP = "list the recipes, with the thesis's table, row and accuracy"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("filter", nargs="?", default="", help="only recipes whose name or table contains this")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace, console: Console) -> int:
    chosen = [
        recipe
        for recipe in list_recipes()
        if args.filter in recipe.name or args.filter in (recipe.table or "").split(", ")
    ]
    if not chosen:
        raise ValueError(f"no recipe contains {args.filter!r}; `mixfast recipes` lists them all")
    if args.json:
        print(json.dumps([vars(recipe) for recipe in chosen], indent=2))
        return 0
    table = Table(title="recipes (figures: what the thesis reports)")
    for heading in ("recipe", "table", "row", "reported"):
        table.add_column(heading, overflow="fold")
    for recipe in chosen:
        figures = ", ".join(f"{name} {_figure(name, value)}" for name, value in recipe.reported.items())
        table.add_row(recipe.name, recipe.table or "", recipe.row or "", figures)
    console.print(table)
    return 0


def _figure(name: str, value: float) -> str:
    """Likelihoods are numbers; everything else is a fraction, shown in percent as the thesis prints it."""
    return f"{value:.3f}" if "nll" in name else f"{100 * value:.2f}%"
