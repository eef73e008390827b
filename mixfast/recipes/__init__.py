"""Recipes: one configuration for every convolutional row of the thesis's tables, and the quickstarts.

    _bases.yaml     the pieces: data sets with their training settings, backbones, methods, variants
    table-*.yaml    a file per table (figure, section): its rows, the pieces each is made of, the numbers it reports
    *.yaml          recipes that stand alone; people's own files look the same

A row's name is its pieces, joined: ``cifar100-wrn28-10-cut-mixmo-cutmix-b4``. A network that several tables report has
one name; the table that says ``extends`` defines it and the others add what they report.
"""

from mixfast.recipes.catalogue import RecipeSummary, list_recipes, recipe_names
from mixfast.recipes.loading import load_recipe, split_settings

__all__ = ["RecipeSummary", "list_recipes", "load_recipe", "recipe_names", "split_settings"]
