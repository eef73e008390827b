"""``mixfast flops``: counts, without running anything, what recipes cost."""

from __future__ import annotations

import argparse
import json

from rich.console import Console

from mixfast.config import Config
from mixfast.files import write_text
from mixfast.flops.costing import cost_of, single_of
from mixfast.flops.prediction import predict
from mixfast.flops.record import CONVENTION, Compared, record_of
from mixfast.flops.show import (
    parts_table,
    predictions_notes,
    predictions_table,
    recipes_table,
    thesis_figures,
    thesis_notes,
)
from mixfast.flops.tables import ThesisTable, table_builders
from mixfast.recipes import load_recipe, split_settings

HELP = "count parameters, multiply-adds and activation bytes of recipes, and of the thesis's tables"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides", nargs="*", metavar="RECIPE", help="recipes or YAML files, and settings for all of them (key=value)"
    )
    parser.add_argument(
        "--table",
        action="append",
        default=[],
        metavar="N",
        help="the costs that a table or section of the thesis prints, beside those counted: 4.6, A.17, ..., or all",
    )
    parser.add_argument(
        "--predict", action="store_true", help="also predict a step on A100, H100 and B200 from their published figures"
    )
    parser.add_argument("--classes", type=int, metavar="K", help="number of classes (default: the data set's own)")
    parser.add_argument("--json", metavar="FILE", help="also write the figures to FILE")


def run(args: argparse.Namespace, console: Console) -> int:
    names, settings = split_settings(args.overrides)
    if not names and not args.table:
        raise ValueError("name recipes (`mixfast recipes` lists them), or a table of the thesis with --table N")
    if settings and not names:
        raise ValueError(f"settings need a recipe to change, got {settings[0]!r} and no recipe")
    if args.predict and not names:
        raise ValueError("--predict needs a recipe whose step to predict")
    builders = table_builders(args.table)
    configs = {name: load_recipe(name, settings) for name in names}
    compared = [_compared(name, config, args) for name, config in configs.items()]
    _print_recipes(compared, console)
    _print_predictions(compared, console)
    tables = [_print_table(build(), console) for build in builders]
    if args.json is not None:
        write_text(args.json, json.dumps(record_of(compared, tables), indent=2) + "\n")
    return 1 if any(each.disagreements for pair in compared for each in (pair.recipe, pair.single)) else 0


def _compared(name: str, config: Config, args: argparse.Namespace) -> Compared:
    recipe = cost_of(config, name, args.classes)
    predictions = predict(recipe, config.optimizer) if args.predict else ()
    return Compared(recipe, single_of(config, args.classes), predictions)


def _print_predictions(compared: list[Compared], console: Console) -> None:
    predicted = [each for each in compared if each.predictions]
    for each in predicted:
        console.print(predictions_table(each.recipe.title, each.predictions, each.recipe.cost.batch_size))
    for note in predictions_notes(predicted[0].predictions) if predicted else ():
        console.print(f"- {note}", highlight=False, style="dim")


def _print_recipes(compared: list[Compared], console: Console) -> None:
    if not compared:
        return
    console.print(parts_table(compared[0]) if len(compared) == 1 else recipes_table(compared))
    for line in CONVENTION:
        console.print(f"- {line}", highlight=False, style="dim")
    wrong = [
        (each.title, *line) for pair in compared for each in (pair.recipe, pair.single) for line in each.disagreements
    ]
    for title, part, figure, counted, computed in wrong:
        message = (
            f"{title}: {figure} of {part}: counted {counted:,}, by the closed form {computed:,}; please report this"
        )
        console.print(message, style="red", highlight=False)
    if not wrong:
        console.print("- Counted by running the networks; the closed forms agree in every part.", style="dim")


def _print_table(table: ThesisTable, console: Console) -> ThesisTable:
    console.print(thesis_figures(table))
    for note in thesis_notes(table):
        console.print(note, highlight=False, style="dim")
    return table
