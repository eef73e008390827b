"""Recipes from names and files: inheritance, overrides, and what is refused."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import yaml

from mixfast.config import ConfigError, differences
from mixfast.recipes import catalogue, load_recipe


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_overrides_and_the_data_folder(tmp_path: Path):
    recipe = load_recipe("cifar100-wrn28-10-vanilla", ["optimizer.lr=1e-3", "training.amp=off"], data_dir=tmp_path)
    assert (recipe.optimizer.lr, recipe.training.amp, recipe.data.dir) == (0.001, "off", str(tmp_path))
    assert load_recipe("quickstart", ["data.dir=/elsewhere"], data_dir=tmp_path).data.dir == "/elsewhere"
    assert load_recipe("quickstart").data.dir is None


def test_an_unknown_recipe_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no recipe 'cifar100-wrn28-10-cutmixmo-b4'; did you mean '.*cut-mixmo-b4'"):
        load_recipe("cifar100-wrn28-10-cutmixmo-b4")
    with pytest.raises(ConfigError, match="there is no recipe 'wrn28-10'"):  # a piece is no recipe
        load_recipe("wrn28-10")
    with pytest.raises(FileNotFoundError):
        load_recipe("absent.yaml")


def test_an_unknown_override_is_refused_before_anything_is_read():
    with pytest.raises(ConfigError, match="did you mean 'optimizer.lr'"):
        load_recipe("absent.yaml", ["optimizer.rl=1"])


def test_a_contradiction_through_an_override_is_refused():
    with pytest.raises(ConfigError, match="nearest batch size is 48 or 52"):
        load_recipe("cifar100-wrn28-10-cut-mixmo-b4", ["training.batch_size=50"])


def test_a_file_of_ones_own(tmp_path: Path):
    path = write(
        tmp_path / "mine.yaml",
        "extends: cifar100-wrn28-10-cut-mixmo-cutmix-b4\nmodel: {name: wrn28-2}\nschedule: {epochs: 250}\n",
    )
    changed = differences(load_recipe("cifar100-wrn28-10-cut-mixmo-cutmix-b4"), load_recipe(path))
    # What the thesis reports is about its network, not about this one.
    assert [line for line in changed if not line.startswith("about.")] == [
        "model.name: wrn28-10 -> wrn28-2",
        "schedule.epochs: 300 -> 250",
    ]
    about = load_recipe(str(path)).about
    assert (about.title, about.table, about.row, about.reported) == ("mine", None, None, {})


def test_later_pieces_win_and_the_file_itself_last(tmp_path: Path):
    (tmp_path / "parts").mkdir()
    write(tmp_path / "parts" / "long.yaml", "schedule: {epochs: 400}\ndata: {pad: 3}\nseed: 1\n")
    write(tmp_path / "parts" / "both.yml", "extends: long.yaml\nseed: 2\n")
    path = write(
        tmp_path / "mine.yaml",
        "extends: [cifar100, wrn28-2, parts/both.yml, vanilla]\nabout: {title: Mine}\ndata: {pad: 2}\n",
    )
    recipe = load_recipe(path)
    assert (recipe.data.name, recipe.data.flip, recipe.model.name) == ("cifar100", True, "wrn28-2")
    assert (recipe.schedule.epochs, recipe.schedule.decay_epochs) == (400, (100, 200, 225))
    assert (recipe.seed, recipe.data.pad, recipe.about.title) == (2, 2, "Mine")
    swapped = write(tmp_path / "swapped.yaml", "extends: [parts/both.yml, cifar100, wrn28-2]\n")
    assert load_recipe(swapped).schedule.epochs == 300


def test_the_configuration_of_a_run_is_a_recipe(tmp_path: Path):
    recipe = load_recipe("cifar100-wrn28-2-mixshare-fadeout-b2", ["seed=3"])
    assert load_recipe(write(tmp_path / "config.yaml", recipe.to_yaml())) == recipe


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("extends: cifar100\nmodell: {name: wrn10-1}\n", "mine.yaml: unknown key 'modell'; did you mean 'model"),
        (
            "extends: cifar100\nmodel: {nam: wrn10-1}\n",
            "mine.yaml: unknown key 'model.nam'; did you mean 'model.name'?",
        ),
        ("extends: cifar100\nmodel: wrn10-1\n", "mine.yaml: model is a section"),
        ("extends: cifar100\nmodel: {name: 3}\n", "model.name is 3, expected text (.*mine.yaml)"),
        ("extends: cifar100\n", "model.name is missing (in .*mine.yaml)"),
        ("extends: cifar1000\n", "mine.yaml: extends 'cifar1000', no recipe and no base; did you mean 'cifar100'?"),
        ("extends: absent.yaml\n", "mine.yaml: extends 'absent.yaml', but there is no file .*absent.yaml"),
        ("extends: 3\n", "mine.yaml: extends is 3, expected the name of a recipe, base or file, or a list"),
        ("extends: [cifar100, 3]\n", "mine.yaml: extends is ['cifar100', 3], expected"),
        ("extends: mine.yaml\n", "mine.yaml: extends itself: .*mine.yaml -> .*mine.yaml"),
        ("extends: other.yaml\n", "mine.yaml: extends itself: .*mine.yaml -> .*other.yaml -> .*mine.yaml"),
        ("about: mine\n", "mine.yaml: about is a section"),
        (
            "about: {titel: mine}\nextends: quickstart\n",
            "mine.yaml: unknown key 'about.titel'; did you mean 'about.title'?",
        ),
        ("- 1\n", "mine.yaml: expected keys with values"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path: Path, text, expected):
    write(tmp_path / "other.yaml", "extends: [cifar10, ./mine.yaml]\n")
    path = write(tmp_path / "mine.yaml", text)
    pattern = ".*".join(map(re.escape, expected.split(".*")))
    with pytest.raises(ConfigError, match=pattern):
        load_recipe(path)


def test_a_cycle_is_found_whatever_the_path_looks_like(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "a").mkdir()
    write(tmp_path / "a" / "a.yaml", "extends: ../b.yaml\n")
    write(tmp_path / "b.yaml", "extends: a/../a/a.yaml\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"b.yaml: extends itself: b.yaml -> a/a.yaml -> b.yaml"):
        load_recipe("./b.yaml")


# ---------------------------------------------------------------------------------------------------- table files

BASES = "piece: {title: Piece, data: {name: digits}}\n"


def catalogue_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **tables: str) -> catalogue.Catalogue:
    write(tmp_path / "_bases.yaml", BASES)
    for label, text in tables.items():
        write(tmp_path / f"table-{label.replace('_', '.')}.yaml", f'table: "{label}"\nrows: {{{text}}}\n')
    monkeypatch.setattr(catalogue, "FOLDER", tmp_path)
    return catalogue.catalogue.__wrapped__()


def test_rows_of_several_tables_are_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    made = catalogue_of(
        tmp_path,
        monkeypatch,
        A_2="n: {extends: [piece], row: R, reported: {top1: 0.5}}",
        A_10="n: {row: S, reported: {top1: 0.5, ece: 0.1}}, m: {extends: n, row: S}",
        B_1="n: {row: R}",
    )
    about = made.recipes["n"].about
    assert (about["table"], about["row"]) == ("A_2, A_10, B_1", "R; S")
    assert about["reported"] == {"top1": 0.5, "ece": 0.1}
    assert list(made.recipes) == ["n", "m"]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["n: {row: R}"], "n: no table defines it"),
        (["n: {extends: [piece], row: R}", "n: {extends: [piece], row: R}"], "table-B.yaml, n: already defined"),
        (
            ["n: {extends: [piece], row: R, reported: {top1: 0.5}}", "n: {row: R, reported: {top1: 0.6}}"],
            "table-B.yaml, n: top1 is 0.6 here and 0.5 in another table",
        ),
        (["n: {extends: [piece], row: R, data: {pad: 1}}"], "table-A.yaml, n: unknown key 'data'"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows, expected):
    with pytest.raises(ConfigError, match=expected):
        catalogue_of(tmp_path, monkeypatch, **dict(zip("AB", rows, strict=False)))


def test_every_other_reader_of_yaml_sees_the_same_words(tmp_path: Path):
    """A run's config.yaml in a YAML 1.1 reader: `off` must not become false there."""
    values = yaml.safe_load(load_recipe("quickstart").to_yaml())
    assert values["training"]["amp"] == "off"
    assert math.isclose(values["optimizer"]["weight_decay"], 2e-3)
