"""Predictions from counted work and published figures, by hand; and the page that shows them is what the tool says now."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from mixfast.cli import main
from mixfast.flops.cards import CARDS, Card
from mixfast.flops.costing import cost_of, cost_of_recipe
from mixfast.flops.prediction import exchange_seconds, predict, step_seconds
from mixfast.recipes import load_recipe

PAGE = Path(__file__).parents[2] / "bench" / "README.md"
CARD = Card("card", 100.0, {torch.float32: 10.0, torch.bfloat16: 40.0}, "nowhere", fabric=50.0, network=5.0)


def test_an_operator_takes_the_longer_of_its_products_and_its_bytes():
    # 2 x 100 operations at 10 a second; 1000 bytes at 100 a second; nothing but bytes.
    work = [(100, 100), (10, 1000), (0, 300)]
    assert step_seconds(work, CARD, torch.float32) == 20 + 10 + 3
    # Four times the rate, half the bytes.
    assert step_seconds(work, CARD, torch.bfloat16) == 5 + 5 + 1.5


def test_a_ring_sends_all_but_a_share_twice_and_the_network_between_machines_decides():
    assert exchange_seconds(1000, 2, CARD) == 2 * 500 / 50
    assert exchange_seconds(1000, 8, CARD) == pytest.approx(2 * 875 / 50)
    assert exchange_seconds(1000, 16, CARD) == pytest.approx(2 * 937.5 / 5)


def test_work_of_a_step(config_of):
    """All products are in it; a head reads features, weights and gradients; and a step of twice the batch is more work."""
    costed = cost_of(config_of("wrn10-1", batch_size=4), "")
    work = costed.cost.work
    assert sum(products for products, _ in work) == 4 * costed.cost.step
    features, classes = 64, 100
    head = 4 * (4 * features + features * classes + 4 * classes + classes)  # bias too
    assert (4 * features * classes, head) in work
    twice = cost_of(config_of("wrn10-1", batch_size=8), "").cost.work
    assert len(twice) == len(work) and sum(moved for _, moved in twice) > sum(moved for _, moved in work)


def test_bounds_are_in_order(config_of):
    config = config_of("wrn10-1", batch_size=64)
    costed = cost_of(config, "")
    for each in predict(costed, config.optimizer):
        assert 0 < each.fused < each.eager
        update = 5 * 4 * costed.cost.parameters.total / each.card.bandwidth
        assert each.fused > update
        assert each.dominated_from is None or each.exchange[8] > 0
    adam = config.optimizer.model_copy(update={"name": "adamw"})
    assert predict(costed, adam)[0].fused > predict(costed, config.optimizer)[0].fused
    joined = {card.name for card in CARDS.values() if card.fabric}
    assert {each.card.name for each in predict(costed, adam)} == joined == {"A100", "H100", "B200"}


def test_exchange_is_longer_from_where_it_first_exceeds_a_share_of_the_step(config_of):
    config = config_of("wrn10-1", batch_size=64)
    costed = cost_of(config, "")
    for each in predict(costed, config.optimizer):
        gradients = 4 * costed.cost.parameters.total
        longer = [n for n in (2, 4, 8, 16, 32, 64) if exchange_seconds(gradients, n, each.card) >= each.fused / n]
        assert each.dominated_from == min(longer, default=None)


def page_rows():
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        match = re.match(r"\| `([\w.-]+)` \| (A100|H100|B200) \| (.*) \|$", line)
        if match:
            yield match[1], match[2], [float(number) for number in re.findall(r"~([\d.]+)", match[3])]


def test_the_page_shows_what_is_predicted():
    rows = list(page_rows())
    assert len(rows) == 12 and all(len(numbers) == 7 for *_, numbers in rows)
    for recipe, card, numbers in rows:
        single, half = (
            each for each in predict(cost_of_recipe(recipe), load_recipe(recipe).optimizer) if each.card.name == card
        )
        times = [1000 * each for each in (single.fused, single.eager, half.fused, half.eager, single.exchange[8])]
        assert numbers[:5] == pytest.approx(times, rel=6e-3)
        assert numbers[5:] == [single.dominated_from, half.dominated_from]


def test_the_command_marks_every_figure_as_predicted(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    path = tmp_path / "flops.json"
    assert main(["flops", "cifar100-wrn28-2-vanilla", "--predict", "--json", str(path)]) == 0
    predictions = json.loads(path.read_text())["recipes"][0]["predictions"]
    assert len(predictions) == 6
    assert all(
        key.startswith("predicted_") for each in predictions for key in set(each) - {"card", "source", "precision"}
    )
    printed = capsys.readouterr().out
    assert "PREDICTED" in printed
    rows = [line for line in printed.splitlines() if re.match(r" (A100|H100|B200), ", line)]
    assert len(rows) == 6 and all(word.startswith(("~", "cards", "never")) for row in rows for word in row.split()[2:])
    assert main(["flops", "--table", "4.1", "--predict"]) == 2
    assert "--predict needs a recipe" in capsys.readouterr().err
