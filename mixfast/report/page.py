"""The page: HTML that needs nothing beside itself."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator
from html import escape

from mixfast.report.inputs import Inputs
from mixfast.report.plot import Plot, Table
from mixfast.report.plots import Drawn, Kind

# A number, an interval, or a median with its quartiles; their columns are aligned to the right.
NUMBER = re.compile(r"([-+]?[\d.,]+( to [-+]?[\d.,]+| \[[\d., ]+\])?)?")
TEXT = ' class="text"'
STYLE = """
:root { font: 16px/1.5 Georgia, 'Times New Roman', serif; color: #111; background: #fff; }
body { margin: 0 auto; max-width: 90rem; padding: 1rem clamp(0.75rem, 3vw, 2.5rem) 3rem; }
h1 { font-size: 1.7rem; margin: 0.5rem 0 0; }
h2 { font-size: 1.25rem; margin: 0 0 0.5rem; }
p, li, figcaption { max-width: 40rem; overflow-wrap: anywhere; }
section { border-top: 1px solid #ccc; margin-top: 2rem; padding-top: 1rem; }
figure { margin: 0; }
figure img { display: block; width: 100%; max-width: 38rem; height: auto; }
figcaption { font-size: 0.9rem; color: #333; margin-top: 0.5rem; }
.numbers { overflow: auto; max-height: 40rem; margin-top: 1rem; }
table { border-collapse: collapse; font: 0.8rem/1.4 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
th, td { padding: 0.2rem 0.6rem; text-align: right; border-bottom: 1px solid #e4e4e4; white-space: nowrap; }
.text { text-align: left; }
th:first-child, td:first-child { min-width: 9rem; padding-left: 0; white-space: normal; }
th { position: sticky; top: 0; background: #fff; vertical-align: bottom; }
code { font-size: 0.85em; }
@media (min-width: 75rem) {
  .plot { display: grid; grid-template-columns: minmax(0, 38rem) minmax(0, 1fr); gap: 2.5rem; align-items: start; }
  .numbers { margin-top: 0; }
}
@media print { .numbers { max-height: none; } section { break-inside: avoid; } }
"""


def page(inputs: Inputs, drawn: Drawn, software: str, date: str) -> str:
    """The whole page; ``software``: who made it, which the page says and the writer knows its own files by."""
    return "\n".join(
        (
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta name="generator" content="{escape(software)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',
            "<title>mixfast report</title>",
            f"<style>{STYLE}</style>",
            "</head>",
            "<body>",
            "<h1>mixfast report</h1>",
            f"<p>{escape(software)}, {escape(date)}</p>",
            *(line for plot in drawn.plots for line in _section(plot)),
            *_missing(drawn.missing, inputs.uncounted),
            *_sources(inputs),
            "</body>",
            "</html>",
            "",
        )
    )


def _section(plot: Plot) -> Iterator[str]:
    picture = base64.b64encode(plot.svg()).decode("ascii")
    width, height = (round(96 * inches) for inches in plot.figure.get_size_inches())
    yield f'<section id="{plot.name}">'
    yield f"<h2>{escape(plot.title)}</h2>"
    yield '<div class="plot">'
    yield "<figure>"
    yield (
        f'<img src="data:image/svg+xml;base64,{picture}" width="{width}" height="{height}" '
        f'alt="{escape(plot.title)}; the table beside it has the numbers">'
    )
    yield f'<figcaption>{escape(plot.caption)} <a href="{plot.name}.png">As PNG.</a></figcaption>'
    yield "</figure>"
    yield from _table(plot.table)
    yield "</div>"
    yield "</section>"


def _table(table: Table) -> Iterator[str]:
    # With a tab stop: what scrolls must be reached by keyboard.
    yield '<div class="numbers" tabindex="0">'
    yield "<table>"
    texts = [not all(NUMBER.fullmatch(cell) for cell in column) for column in zip(*table.rows, strict=True)]
    yield f"<thead>{_row('th', table.headings, texts)}</thead>"
    yield f"<tbody>{''.join(_row('td', row, texts) for row in table.rows)}</tbody>"
    yield "</table>"
    yield "</div>"


def _row(tag: str, cells: tuple[str, ...], texts: list[bool]) -> str:
    shown = (
        f"<{tag}{TEXT if is_text else ''}>{escape(cell)}</{tag}>" for cell, is_text in zip(cells, texts, strict=True)
    )
    return f"<tr>{''.join(shown)}</tr>"


def _missing(missing: tuple[Kind, ...], uncounted: list[str]) -> Iterator[str]:
    if not missing and not uncounted:
        return
    yield '<section id="missing">'
    yield "<h2>Not in this report</h2>"
    if missing:
        yield "<p>Nothing that was given holds what these plots need:</p>"
        yield from _list(f"{escape(kind.title)}: {_with_code(kind.needs)}." for kind in missing)
    if uncounted:
        yield "<p>Runs whose cost cannot be counted here:</p>"
        yield from _list(map(_with_code, uncounted))
    yield "</section>"


def _list(items: Iterable[str]) -> Iterator[str]:
    yield f"<ul>{''.join(f'<li>{item}</li>' for item in items)}</ul>"


def _sources(inputs: Inputs) -> Iterator[str]:
    yield '<section id="sources">'
    yield "<h2>Made from</h2>"
    rows = tuple((source.name, source.kind, source.detail) for source in inputs.sources)
    yield from _table(Table(("path", "what", "of"), rows))
    yield "</section>"


def _with_code(text: str) -> str:
    """Escaped; what stands between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
