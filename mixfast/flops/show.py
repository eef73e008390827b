"""Costs as tables for people, no wider than 80 characters."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

from rich import box
from rich.table import Table

from mixfast.flops.cards import Card
from mixfast.flops.prediction import EXCHANGES, PRECISIONS, Prediction
from mixfast.flops.record import Compared
from mixfast.flops.tables import ThesisTable

MILLION, MEBI = 10**6, 2**20
FIGURES = ("parameters", "inference", "forward", "backward", "activations")


def parts_table(compared: Compared) -> Table:
    """One recipe by part, next to its single-input backbone. Equal blocks in a row share a line."""
    costed = compared.recipe
    table = _table(_title(compared), "parameters", "inference\nM", "forward\nM", "backward\nM", "kept\nMiB")
    for name, figures in _merged(_rows(compared)):
        table.add_row(name, *_shown(figures))
    table.add_section()
    total = [getattr(costed.cost, name).total for name in FIGURES]
    single = [getattr(compared.single.cost, name).total for name in FIGURES]
    table.add_row("all", *_shown(total))
    table.add_row("one input", *_shown(single))
    table.add_row("ratio", *(f"{mine / plain:.4f}" for mine, plain in zip(total, single, strict=True)))
    if costed.members > 1:
        table.add_row(
            f"{costed.members} members", *_shown([costed.members * value for value in total[:-1]] + total[-1:])
        )
    return table


def recipes_table(compared: Sequence[Compared]) -> Table:
    """A recipe a row: every figure, and below it the multiple of the single-input backbone's."""
    table = _table("", "parameters", "inference\nM", "step\nM", "kept\nMiB")
    table.columns[0].no_wrap = False
    table.columns[0].overflow = "fold"
    shown = {"parameters": "{:,}".format, "inference": _million, "step": _million, "activations": _mebi}
    for each in compared:
        figures, ratios = each.figures, each.ratios
        table.add_row(each.recipe.title, *(f"{shown[name](figures[name])}\n×{ratios[name]:.4f}" for name in shown))
    return table


def predictions_table(title: str, predictions: Sequence[Prediction], batch_size: int) -> Table:
    """What a step would take on each card. Every figure is marked ``~``: predicted."""
    exchanges = [f"exchange,\n{cards} cards\nms" for cards in EXCHANGES]
    heading = f"{title}: PREDICTED, batch {batch_size}; no card was measured"
    shown = _table(heading, "fused\nms", "eager\nms", "samples/s,\nfused", *exchanges, "exchange\nlonger from")
    for each in predictions:
        precision = str(each.precision).removeprefix("torch.")
        times = [f"~{_three_digits(1000 * seconds)}" for seconds in (each.fused, each.eager, *each.exchange.values())]
        rate = f"~{batch_size / each.fused:,.0f}"
        longer = f"~{each.dominated_from} cards" if each.dominated_from else "never"
        shown.add_row(f"{each.card.name}, {precision}", *times[:2], rate, *times[2:], longer)
    return shown


def predictions_notes(predictions: Sequence[Prediction]) -> Iterator[str]:
    """What is said below."""
    yield (
        "An operator takes its products at the card's peak rate (float32: outside the tensor cores) or its bytes at its peak "
        "bandwidth, whichever is longer. Fused: only those that multiply take any time, and the optimiser; eager: all do. No "
        "card reaches its peaks: true times are longer."
    )
    yield (
        "Exchange: float32 gradients summed by a ring, after the backward pass and not beside it; longer from: so many cards "
        "share the batch that it takes longer than the (fused) step on each."
    )
    cards = {each.card.name: each.card for each in predictions}.values()
    yield "Published peaks: " + "; ".join(f"{card.name}: {_published(card)} ({card.source})" for card in cards) + "."


def _published(card: Card) -> str:
    single, half = (card.rates[precision] / 1e12 for precision in PRECISIONS)
    links = f"links {card.fabric / 1e9:.0f} and {card.network / 1e9:.0f} GB/s"
    return f"{card.bandwidth / 1e12:.2f} TB/s, {single:g} and {half:g} TFLOP/s, {links}"


def _three_digits(value: float) -> str:
    return f"{value:,.{0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3}f}"


def thesis_figures(table: ThesisTable) -> Table:
    """The printed figures, what is counted for them, and whether one is the other with the digits that were printed."""
    has_own = any(figure.mixfast is not None for figure in table.figures)
    shown = _table(f"{table.number}: {table.title}", "printed", "counted", "difference", "met", *["mixfast"] * has_own)
    shown.columns[0].no_wrap = False
    shown.columns[0].max_width = 26
    for figure in table.figures:
        numbers = [
            figure.printed,
            _number(figure.counted, table.decimals),
            _number(figure.difference, table.decimals, "+"),
        ]
        own = [] if figure.mixfast is None else [_number(figure.mixfast, table.decimals)]
        met = figure.agreement
        shown.add_row(figure.row, *numbers, f"[red]{met}[/red]" if met == "no" else met, *own)
    return shown


def thesis_notes(table: ThesisTable) -> Iterator[str]:
    """What is said below the table: why figures are not met, then how they were counted."""
    yield from (f"- {figure.row}: {figure.why}." for figure in table.figures if figure.why)
    yield from (f"- {note}" for note in table.notes)


def _title(compared: Compared) -> str:
    setup = compared.recipe.setup
    height, width = setup.shape.image_shape
    inputs = f"M = {setup.inputs}, " if setup.inputs > 1 else ""
    return (
        f"{compared.recipe.title}\n{setup.method.name} over {setup.backbone}, {inputs}{height} x {width} pixels, "
        f"{setup.shape.num_classes} classes\nM: million multiply-adds for an image or sample; kept: for a batch of "
        f"{compared.recipe.cost.batch_size}"
    )


def _rows(compared: Compared) -> Iterator[tuple[str, list[int]]]:
    cost = compared.recipe.cost
    parts = dict.fromkeys(part for name in FIGURES for part in getattr(cost, name).parts)
    # What only works while training comes where it works: behind the backbone, before the heads.
    ends = [part for part in ("heads", "loss") if part in parts]
    for part in [*(part for part in parts if part not in ends), *ends]:
        yield part, [getattr(cost, name).parts.get(part, 0) for name in FIGURES]


def _merged(rows: Iterator[tuple[str, list[int]]]) -> Iterator[tuple[str, list[int]]]:
    """Neighbours of the same list and the same cost become one line with their sum: ``blocks.0-4``."""
    run: list[tuple[str, list[int]]] = []
    for name, figures in [*rows, ("", [])]:
        if run and _family(name) == _family(run[0][0]) != "" and figures == run[0][1]:
            run.append((name, figures))
            continue
        if run:
            first, last = run[0][0], run[-1][0].rpartition(".")[2]
            yield (first if len(run) == 1 else f"{first}-{last}"), [len(run) * value for value in run[0][1]]
        run = [(name, figures)]


def _family(part: str) -> str:
    """``blocks`` of ``blocks.3``; nothing of a part that is no element of a list."""
    match = re.fullmatch(r"(.+)\.\d+", part)
    return "" if match is None else match[1]


def _shown(figures: Sequence[int]) -> list[str]:
    parameters, *products, kept = figures
    return [f"{parameters:,}" if parameters else "-", *map(_million, products), _mebi(kept)]


def _million(products: int) -> str:
    return f"{products / MILLION:,.3f}" if products else "-"


def _mebi(bytes_: int) -> str:
    mebi = bytes_ / MEBI
    return f"{mebi:,.{0 if mebi >= 10_000 else 1}f}" if bytes_ else "-"


def _number(value: Fraction, decimals: int, sign: str = "") -> str:
    """Whole numbers of more than three digits as they are, others with ``decimals`` digits."""
    if value == 0:
        return "0"
    whole = value.denominator == 1 and abs(value) >= 1000
    return f"{float(value):{sign},.{0 if whole else decimals}f}"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title or None, title_justify="left", title_style="", box=box.SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    return table
