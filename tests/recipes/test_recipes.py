"""The recipes: each loads, says what the thesis says, and people's own files can build on them."""

from __future__ import annotations

import pytest

from mixfast.config import Config, differences
from mixfast.data.registry import data_set_names
from mixfast.models.registry import FAMILIES
from mixfast.recipes import catalogue, list_recipes, load_recipe, recipe_names

NAMES = recipe_names()
REPORTED = {
    *("top1", "top5", "nll", "nll_calibrated", "nll_calibrated_a17", "ece", "members_top1", "classifier_sharing"),
    *("top1_std", "members_top1_std", "classifier_sharing_std", "corrupted_top1", "corrupted_top5", "corrupted_nll"),
    *("active_filters_0.2", "active_filters_0.3", "active_filters_0.4", "active_filters_0.5"),
}


@pytest.mark.parametrize("name", NAMES)
def test_every_recipe_loads_and_comes_back_from_its_yaml(name):
    recipe = load_recipe(name)
    assert Config.from_text(recipe.to_yaml(), name) == recipe
    assert any(family.numbers(recipe.model.name) is not None for family in FAMILIES)
    assert recipe.data.name.startswith("folder:") or recipe.data.name in data_set_names()
    assert recipe.about.title
    assert set(recipe.about.reported) <= REPORTED
    for key, value in recipe.about.reported.items():
        assert 0 < value < (3 if "nll" in key else 1.0001), key


def test_a_row_is_named_after_its_pieces():
    for name, recipe in catalogue.catalogue().recipes.items():
        if recipe.about.get("table"):
            assert name == "-".join(recipe.extends)


# What vision transformers train with, piece by piece.
AUGMENTATIONS = {
    "autoaugment-cifar": {"data.autoaugment": "cifar"},
    "autoaugment-imagenet": {"data.autoaugment": "imagenet"},
    "random-erasing": {"data.random_erasing": 0.25},
    "cutmix-mixup": {"msda.kind": "cutmix-mixup", "msda.probability": 1.0},
    "label-smoothing": {"training.label_smoothing": 0.1},
}


def test_every_piece_is_used_and_none_has_the_name_of_a_recipe():
    bases, recipes = catalogue.catalogue().bases, catalogue.catalogue().recipes
    used = {name for piece in [*bases.values(), *recipes.values()] for name in piece.extends}
    assert set(bases) == used - set(recipes)
    assert not set(bases) & set(recipes)


@pytest.mark.parametrize("piece", AUGMENTATIONS)
def test_the_augmentations_of_vision_transformers(piece, tmp_path):
    def recipe(*pieces: str) -> Config:
        file = tmp_path / "own.yaml"
        file.write_text(f"extends: [cifar10, wrn28-2, vanilla, {', '.join(pieces)}]")
        return load_recipe(file)

    plain, own = recipe(), recipe(piece)
    changed = {line.split(":")[0] for line in differences(plain, own)} - {"about.title"}
    assert changed == set(AUGMENTATIONS[piece])
    for key, value in AUGMENTATIONS[piece].items():
        section, name = key.split(".")
        assert getattr(getattr(own, section), name) == value
    if piece == "cutmix-mixup":
        assert (own.msda.alpha, own.msda.mixup_alpha) == (1.0, 0.8)


# ---------------------------------------------------------------------------------------------------- the tables

# Typed from the thesis, in its own units: percent for accuracies and ECE, hundredths where the table has them.
SPOT_CHECKS = {
    "cifar100-wrn28-10-vanilla": {"top1": 81.63, "top5": 95.49, "nll_calibrated": 73.9, "nll_calibrated_a17": 75.0},
    "cifar100-wrn28-10-cut-mixmo-cutmix-b4": {"top1": 85.77, "top5": 97.42, "nll_calibrated": 52.4},
    "cifar100-wrn28-10-cut-mixmo-b2": {"top1": 84.38, "top5": 96.94, "nll_calibrated": 56.3, "members_top1": 82.3},
    "cifar100-wrn28-10-mimo-b2": {"top1": 82.40, "top5": 95.78, "nll_calibrated": 68.8, "members_top1": 79.8},
    "cifar100-wrn28-10-cutmix-ensemble2": {"top1": 85.74, "top5": 96.82, "nll_calibrated": 57.1},
    "cifar10-wrn28-10-linear-mixmo-cutmix-b4": {"top1": 97.68, "nll_calibrated": 8.7},
    "cifar10-wrn28-10-vanilla": {"top1": 96.34, "nll_calibrated": 12.6},
    "cifar10-wrn28-10-manifold-mixup": {"top1": 97.45, "nll_calibrated": 12.2},
    "cifar100-wrn28-10-cut-mixmo-augmix-b4": {"corrupted_top1": 71.1, "corrupted_top5": 89.5, "corrupted_nll": 116},
    "cifar100-wrn28-10-vanilla-augmix": {"corrupted_top1": 67.8, "corrupted_top5": 87.5, "corrupted_nll": 138},
    "cifar100-wrn28-10-cut-mixmo-cowmask-b2": {"top1": 84.17, "nll_calibrated": 56.1},
    "cifar100-wrn28-10-cut-mixmo-shared-encoder-heads-by-ratio-b2": {"nll_calibrated": 59.8},
    "tiny-imagenet-preact-resnet18-3-cut-mixmo-b4": {"top1": 70.24, "nll_calibrated": 119},
    "tiny-imagenet-preact-resnet18-2-vanilla-ensemble4": {"top1": 69.94, "nll_calibrated": 124},
    "tiny-imagenet-preact-resnet18-1-linear-mixmo-b2": {"top1": 61.58, "nll_calibrated": 161},
    "cifar100-wrn28-2-mixshare-fadeout-b2": {
        **{"top1": 79.0, "top1_std": 0.1, "members_top1": 76.7, "members_top1_std": 1.3},
        **{"classifier_sharing": 64.4, "classifier_sharing_std": 6.0},
    },
    "cifar100-wrn28-5-unmix-b2": {
        **{"top1": 79.4, "top1_std": 2.7, "members_top1": 79.4, "members_top1_std": 2.7},
        **{"classifier_sharing": 98.8, "classifier_sharing_std": 0.7},
    },
    "cifar100-wrn28-10-cut-mixmo-m3-b2": {"members_top1": 79.5},
    "imagenet-resnet18-7-cutmix": {"top1": 77.18, "nll_calibrated": 119.0},
    "cifar100-wrn28-10-cut-mixmo-cutmix-b4-last": {
        **{"top1": 85.59, "top5": 97.33, "nll_calibrated": 53.2, "nll": 53.3, "ece": 1.95}
    },
    "cifar10-wrn28-10-cut-mixmo-cutmix-b2-last": {"top1": 97.33, "nll_calibrated": 8.5, "nll": 8.6, "ece": 0.88},
    "cifar100-wrn28-7-cut-mixmo-b4": {
        **{"top1": 84.32, "nll_calibrated": 56.2, "active_filters_0.2": 98.9, "active_filters_0.3": 98.8},
        **{"active_filters_0.4": 98.0, "active_filters_0.5": 95.2},
    },
    "cifar100-wrn28-14-cut-mixmo-cutmix-b4-ensemble2": {"top1": 87.11, "nll_calibrated": 47.3},
    "cifar100-wrn28-2-linear-mixmo-cutmix-b4": {"top1": 76.36, "nll_calibrated": 82.4},
    "vit-cifar100-convit-vit-mixmo-separate": {
        **{"top1": 78.5, "top1_std": 0.2, "members_top1": 76.4, "members_top1_std": 0.1}
    },
    "vit-tiny-imagenet-cait-xs24-mixvit-encoding-twice-decay-twice-depth": {"top1": 70.9, "top1_std": 0.2},
    "vit-imagenet100-cait-xs24-mixvit-embedding-twice-decay-twice-depth": {"top1": 89.7, "top1_std": 0.3},
    "vit-cifar10-convit-vanilla": {"top1": 96.1, "top1_std": 0.1},
    "vit-cifar100-convit-mixvit-encoding-no-ba": {"top1": 75.8, "top1_std": 0.1},
    "vit-cifar100-convit-mixvit-embedding-alternating": {"top1": 82.0, "top1_std": 0.4},
    "vit-cifar100-convit-mixvit-encoding-ba4-300": {"top1": 83.2, "top1_std": 0.2},
}


@pytest.mark.parametrize("name", SPOT_CHECKS)
def test_what_is_reported(name):
    reported = load_recipe(name).about.reported
    wanted = {key: value / 100 for key, value in SPOT_CHECKS[name].items()}
    assert {key: reported[key] for key in wanted} == pytest.approx(wanted, rel=1e-12)
    exact = {key for key in reported if not key.startswith(("corrupted", "active"))}
    assert exact == {key for key in wanted if not key.startswith(("corrupted", "active"))}


@pytest.mark.parametrize(
    ("table", "rows"),
    [
        ("3.1", 32),  # 16 rows, two data sets
        ("3.2", 10),
        ("3.3", 7),
        ("3.4", 5),
        ("3.5", 31),  # 11 rows, three widths; Manifold MixUp for one width only
        ("3.6", 10),
        ("Figure 3.10", 6),
        ("4.1", 5),
        ("4.2", 24),  # three backbones on two data sets, one on two others, three rows each
        ("4.3", 7),
        ("4.4", 12),
        ("4.5", 8),  # our experiments: two methods, four data sets
        ("4.6", 9),  # the default stands in three of its parts
        ("Section A.5.6", 6),
        ("A.12", 32),
        ("A.16", 21),
        ("A.17", 70),
        ("A.18", 4),
        ("A.19", 8),
        (None, 4),
    ],
)
def test_every_row_of_a_table_has_a_recipe(table, rows):
    in_table = [recipe for recipe in list_recipes() if table in (recipe.table.split(", ") if recipe.table else [None])]
    assert len(in_table) == rows


def test_recipes_are_sorted_by_table():
    first = [recipe.table.split(", ")[0] if recipe.table else None for recipe in list_recipes()]
    order = [None, "3.1", "3.2", "3.3", "3.4", "3.5", "3.6", "Figure 3.10"]
    order += ["4.1", "4.2", "4.4", "4.6", "Section A.5.6", "A.12", "A.16", "A.17", "A.18", "A.19"]
    assert list(dict.fromkeys(first)) == order
    assert [recipe.name for recipe in list_recipes()] == NAMES
    assert NAMES[:4] == ["quickstart", "quickstart-cifar10", "quickstart-few-images", "quickstart-mixvit"]


def test_a_summary_says_what_the_recipe_says():
    shown = {recipe.name: recipe for recipe in list_recipes()}["cifar100-wrn28-10-cut-mixmo-b4"]
    about = load_recipe(shown.name).about
    assert (shown.title, shown.table, shown.row, shown.reported) == (
        about.title,
        about.table,
        about.row,
        about.reported,
    )
    assert shown.title == "CIFAR-100, WRN-28-10, Cut-MixMo, b = 4"
    assert shown.table == "3.1, 3.2, A.16, A.17"
    assert shown.row == "Cut-MixMo, b = 4; Cut-MixMo; Cut-MixMo, w = 10"


# ---------------------------------------------------------------------------------------------------- the settings


def of_data(data: str) -> list[Config]:
    return [load_recipe(name) for name in NAMES if name.startswith(f"{data}-")]


@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
def test_cifar_settings(data):
    for recipe in of_data(data):
        optimizer, schedule = recipe.optimizer, recipe.schedule
        assert recipe.data.name == data
        assert (recipe.data.pad, recipe.data.flip, recipe.training.batch_size) == (4, True, 64)
        assert (optimizer.name, optimizer.momentum, optimizer.nesterov) == ("sgd", 0.9, True)
        assert optimizer.weight_decay == 2 * 3e-4  # the l2 penalty 3e-4 * sum p^2 has the gradient 6e-4 * p
        assert recipe.learning_rate() == pytest.approx(0.1 / recipe.data.repetition * 64 / 128, rel=1e-12)
        assert (schedule.epochs, schedule.warmup_epochs, schedule.decay) == (300, 1, 0.1)
        is_of_table_36 = recipe.about.table == "3.6"
        assert schedule.decay_epochs == ((75, 150, 225) if is_of_table_36 else (100, 200, 225))


def test_tiny_imagenet_settings():
    for recipe in of_data("tiny-imagenet"):
        optimizer, schedule = recipe.optimizer, recipe.schedule
        assert (recipe.data.pad, recipe.data.flip, recipe.training.batch_size) == (4, True, 100)
        assert (optimizer.name, optimizer.momentum, optimizer.nesterov) == ("sgd", 0.9, True)
        assert optimizer.weight_decay == 1e-4
        assert recipe.learning_rate() == pytest.approx(0.2 / recipe.data.repetition, rel=1e-12)
        assert (schedule.epochs, schedule.warmup_epochs, schedule.decay) == (1200, 1, 0.1)
        # x0.1 at the start of epochs 600 and 900, counted from 1 (METHODS 7)
        assert [drop + 1 for drop in schedule.decay_epochs] == [600, 900]


def test_imagenet_settings():
    for recipe in of_data("imagenet"):
        assert (recipe.data.name, recipe.data.image_size) == ("imagenet", 224)
        assert (recipe.optimizer.momentum, recipe.optimizer.nesterov) == (0.9, True)
        assert recipe.learning_rate() == pytest.approx(0.1 / recipe.data.repetition, rel=1e-12)
        assert [drop / recipe.schedule.epochs for drop in recipe.schedule.decay_epochs] == pytest.approx(
            [30 / 90, 60 / 90, 80 / 90], abs=0.01
        )


def test_names_mean_what_they_say():
    for name in (name for name in NAMES if not name.startswith(("quickstart", "vit-"))):
        recipe, parts = load_recipe(name), set(name.split("-"))
        assert recipe.data.repetition == (4 if "b4" in parts else 2 if "b2" in parts else 1)
        assert recipe.method.num_inputs == (
            1 if not parts & {"b2", "b4"} else 3 if "m3" in parts else 4 if "m4" in parts else 2
        )
        members = [int(part.removeprefix("ensemble")) for part in parts if part.startswith("ensemble")]
        assert recipe.ensemble.members == (members or [1])[0]
        assert recipe.evaluation.select == ("last" if "last" in parts else "validation")
        assert recipe.data.augmix == ("augmix" in parts)
        assert recipe.model.name in name
        method = next(
            (known for known in ("linear-mixmo", "cut-mixmo", "mimo") if known in name),
            "mixshare" if parts & {"mixshare", "unmix"} else "single",
        )
        assert recipe.method.name == method
        kind = next((known for known in ("manifold-mixup", "mixup", "cutmix") if f"-{known}" in name), "none")
        assert recipe.msda.kind == kind
        assert not recipe.baseline
        if kind in ("mixup", "cutmix"):
            assert (recipe.msda.alpha, recipe.msda.probability) == (1, 0.5)
        if method in ("linear-mixmo", "cut-mixmo"):
            assert (recipe.method.alpha, recipe.method.root) == (2, 3)
        if method == "cut-mixmo":
            assert recipe.method.probability == 0.5


def of_transformers() -> list[Config]:
    return [load_recipe(name) for name in NAMES if name.startswith("vit-")]


def test_transformers_settings():
    """Thesis A.1.5 and METHODS 4."""
    assert len(of_transformers()) == 48
    for recipe in of_transformers():
        data, optimizer, schedule = recipe.data, recipe.optimizer, recipe.schedule
        is_long = schedule.epochs == 300
        assert data.repetition in (1, 3, 4) and data.views == "independent"
        distinct = recipe.training.batch_size // data.repetition
        assert distinct == (1048 if data.name == "imagenet100" else 128)
        assert data.autoaugment == ("imagenet" if data.name == "imagenet100" else "cifar")
        assert data.random_erasing == 0.25 and recipe.training.label_smoothing == 0.1
        assert (optimizer.name, optimizer.lr_scaling, optimizer.decay_vectors) == ("adamw", "sqrt", False)
        assert recipe.learning_rate() == pytest.approx(5e-4 if is_long else 1e-3)
        smaller = recipe.replace(training={"batch_size": recipe.training.batch_size // 4}, data={"repetition": 1})
        assert smaller.learning_rate() == pytest.approx(recipe.learning_rate() / 2)
        assert schedule.warmup_epochs == 0.1 * schedule.epochs and schedule.decay == 0.1
        assert schedule.decay_epochs == ((250, 280) if is_long else (125, 140))
        mixes = recipe.method.name.startswith("mixvit")
        doubled = 2 if mixes and data.name in ("tiny-imagenet", "imagenet100") else 1
        assert optimizer.weight_decay == 0.05 * doubled
        assert recipe.model.drop_path == (0.05 * doubled if recipe.model.name.startswith("cait") else 0)
        if mixes and recipe.method.tokens == "mixed":
            assert (recipe.method.num_inputs, recipe.method.alpha) == (2, 0.5)
        if recipe.msda.kind != "none":
            msda = recipe.msda
            assert (msda.kind, msda.alpha, msda.mixup_alpha, msda.probability) == ("cutmix-mixup", 1.0, 0.8, 1.0)


def test_the_rows_of_tables_41_44_and_46():
    methods = {
        name: load_recipe(f"vit-cifar100-convit-{name}") for name in ("vit-mixmo", "vit-mixmo-cut-only-separate")
    }
    sums, cuts = (methods[name].method for name in methods)
    assert (sums.name, sums.probability, sums.anneal, sums.root, sums.inference) == ("cut-mixmo", 0.5, True, 1, None)
    assert (cuts.name, cuts.probability, cuts.anneal, cuts.root, cuts.inference) == (
        "cut-mixmo",
        1,
        False,
        1,
        "separate",
    )
    assert load_recipe("vit-cifar100-convit-vit-mixmo-kernel-init").method.encoder_init == "same"
    plainest = load_recipe("vit-cifar100-convit-mixvit-embedding-no-msda-no-ba")
    assert (plainest.msda.kind, plainest.data.repetition, plainest.training.batch_size) == ("none", 1, 128)
    ablations = {
        "early": ("place", "early"),
        "sum": ("inference", "sum"),
        "alternating": ("inference", "alternating"),
        "single-subnetwork": ("inference", "single"),
        "all-tokens": ("tokens", "all"),
    }
    for name, (key, value) in ablations.items():
        assert getattr(load_recipe(f"vit-cifar100-convit-mixvit-embedding-{name}").method, key) == value


def test_the_rows_of_mixshare():
    for width in (2, 5):
        name = f"cifar100-wrn28-{width}"
        mixmo, unmix, aligned, partial, fadeout = (
            load_recipe(f"{name}-{variant}")
            for variant in (
                "cut-mixmo-b2-decay75",
                "unmix-b2",
                "unmix-kernel-init-b2",
                "mixshare-partial-b2",
                "mixshare-fadeout-b2",
            )
        )

        def changed(old: Config, new: Config) -> list[str]:
            return [line for line in differences(old, new) if not line.startswith("about.")]

        assert changed(mixmo, unmix) == ["method.name: cut-mixmo -> mixshare", "method.probability: 0.5 -> 1.0"]
        assert changed(unmix, aligned) == ["method.encoder_init: independent -> same"]
        full = ["data.input_repetition: 0.0 -> 0.1", "method.root: 3.0 -> 1.0"]
        assert changed(aligned, fadeout) == [*full, "method.fade_epochs: 0 -> 100"]
        assert changed(aligned, partial) == [*full, "method.unmix_fraction: 1.0 -> 0.25"]


@pytest.mark.parametrize(
    ("variant", "encoders", "heads"),
    [
        ("shared-encoder-shared-head-b2", "shared", "shared"),
        ("shared-head-b2", "per-input", "shared"),
        ("shared-encoder-random-heads-b2", "shared", "random"),
        ("shared-encoder-heads-by-ratio-b2", "shared", "by-ratio"),
        ("b2", "per-input", "per-input"),
    ],
)
def test_the_rows_of_table_34(variant, encoders, heads):
    method = load_recipe(f"cifar100-wrn28-10-cut-mixmo-{variant}").method
    assert (method.encoders, method.heads) == (encoders, heads)


@pytest.mark.parametrize("mask", ["horizontal", "vertical", "patchup", "fmix", "cowmask"])
def test_the_rows_of_table_33(mask):
    assert load_recipe(f"cifar100-wrn28-10-cut-mixmo-{mask}-b2").method.mask == mask


def test_the_quickstarts():
    quickstart = load_recipe("quickstart")
    assert (quickstart.data.name, quickstart.method.name, quickstart.data.repetition) == ("digits", "cut-mixmo", 2)
    assert quickstart.baseline
    assert quickstart.evaluation.select == "last"
    assert not quickstart.data.flip
    mixvit = load_recipe("quickstart-mixvit")
    assert (mixvit.data.name, mixvit.method.name, mixvit.beside) == ("digits", "mixvit-embedding", ("mixvit-encoding",))
    assert mixvit.baseline and mixvit.evaluation.select == "last" and not mixvit.data.flip
    cifar = load_recipe("quickstart-cifar10")
    assert (cifar.data.name, cifar.model.name, cifar.schedule.epochs) == ("folder:cifar10-jpeg", "wrn16-2", 10)
    assert (cifar.method.name, cifar.data.repetition, cifar.optimizer.weight_decay) == ("cut-mixmo", 2, 6e-4)
