"""Tables fit into 80 columns with slow machines' figures, and show no ratio that is refused."""

from __future__ import annotations

import io

from mixfast_bench.registry import DATA_CASES, STEP_COMPARISONS, STEPS
from mixfast_bench.spread import Ratio, Spread, compare
from mixfast_bench.summary import DataRow, StepRow, StepSummary
from mixfast_bench.tables import data_table, rate_text, ratio_table, ratio_text, step_rate_table, step_time_table
from rich.console import Console

SLOW = Spread(2.3456, 1.2344, 3.4567)
SLOW_BATCH = Spread(0.5, 0.4, 0.6)
RATE = Spread(1.7e11, 1.6e11, 1.8e11)
TOLD = compare([0.2] * 8, [0.4] * 8, 0.05)
NOISY = compare([1.234, 2.345] * 8, [1.0] * 16, 0.05)


def printed(table):
    console = Console(file=io.StringIO(), width=80)
    console.print(table)
    return console.file.getvalue()


def step_summary():
    phases = {"data": SLOW_BATCH, "forward + backward": SLOW, "optimiser": SLOW_BATCH}
    ratios = [TOLD, NOISY] * 3
    rows = [
        StepRow(entry.name, phases, SLOW, 12345.6, ratio, 2**31) for entry, ratio in zip(STEPS, ratios, strict=False)
    ]
    return StepSummary(rows, {comparison.name: NOISY for comparison in STEP_COMPARISONS}, RATE)


def test_steps_fit_and_say_what_was_measured():
    summary = step_summary()
    times, rates = printed(step_time_table(summary, "title")), printed(step_rate_table(summary))
    assert "…" not in times + rates
    assert all(entry.name in times and entry.name in rates for entry in STEPS)
    assert times.count("2,346 [1,234, 3,457]") == len(STEPS)
    assert "12,346" in rates
    assert "50%" in rates  # 0.2 / 0.4
    assert "2,048" in rates


def test_memory_that_is_not_known_is_no_number():
    row = StepRow("single, eager", {"data": SLOW}, SLOW, 1.0, TOLD, None)
    assert "not known" in printed(step_rate_table(StepSummary([row], {}, SLOW)))


def test_pipelines_fit_and_are_split_by_size():
    rows = [
        DataRow(f"{size} {case.name}", SLOW_BATCH, 123456.7, NOISY)
        for size in ("32x32", "64x64")
        for case in DATA_CASES
    ]
    table = printed(data_table(rows, "64x64 ", "64x64"))
    assert "…" not in table
    assert table.count("123,457") == len(DATA_CASES)
    assert "32x32" not in table


def test_a_refused_ratio_is_not_shown():
    assert NOISY.refusal == "too noisy"
    table = printed(ratio_table({"overhead, eager": NOISY}, {"matrix product": rate_text(RATE, "FLOP/s")}))
    assert "too noisy" in table
    assert not any(figure in table for figure in ("1.790", "1.789", "1.79"))  # the median
    assert "170.0 [160.0, 180.0] GFLOP/s" in table


def test_a_ratio_has_three_decimals_and_quartiles():
    assert ratio_text(Ratio(Spread(1.0214, 1.0101, 1.0339), (1.0, 1.03))) == "1.021 [1.010, 1.034]"
