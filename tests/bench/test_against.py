"""Records beside earlier ones: a change is told from noise, and a record that does not fit is refused."""

from __future__ import annotations

import copy
import io
import json

import pytest
from mixfast_bench.against import changes, load_record, ratios, report
from rich.console import Console

from mixfast.cli import main
from mixfast.records import BENCH_VERSION


def ratio(median, width=0.01):
    return {
        "value": {"median": median, "lower_quartile": median, "upper_quartile": median},
        "interval": [median * (1 - width / 2), median * (1 + width / 2)],
        "refusal": None,
        "detail": "",
    }


def row(operator, eager, compiled, floor):
    shares = {
        "eager": ratio(eager),
        "compiled": ratio(compiled),
        "floor": ratio(floor),
        "rivals": {"one linear": ratio(eager)},
    }
    return {"operator": operator, "name": "small", "direction": "forward", "seconds": {"median": 1.0}, **shares}


def kernels(*rows):
    return record("kernels", {"summary": {"rows": list(rows), "means": {"eager": 3.0}}})


def record(bench, results):
    return {"version": BENCH_VERSION, "bench": bench, "settings": {}, "machine": {"device_name": "a card"}, **results}


BEFORE = kernels(row("augment", 3.0, 2.0, 0.5), row("unmix_pool", 4.0, 1.5, 0.7))


def rows_scaled(before, operator, factors):
    """The record after, with the ratios of this operator's rows multiplied, a tuple of four factors a row."""
    after = copy.deepcopy(before)
    mine = [found for found in after["summary"]["rows"] if found["operator"] == operator]
    for found, each in zip(mine, factors, strict=True):
        eager, compiled, floor, rival = each
        for name, factor in (("eager", eager), ("compiled", compiled), ("floor", floor)):
            found[name] = ratio(found[name]["value"]["median"] * factor)
        found["rivals"]["one linear"] = ratio(found["rivals"]["one linear"]["value"]["median"] * rival)
    return after


THREE = kernels(
    row("augment", 3.0, 2.0, 0.5),
    *(row("unmix_pool", 4.0, 1.5, 0.7) | {"name": name} for name in ("small", "wide", "large")),
)


def test_a_slower_operator_is_told_from_all_its_rows_together():
    """By a tenth, which no row alone would be believed."""
    noisy = [(1 / 1.08, 1 / 1.12, 1 / 1.09, 1.0), (1 / 1.1,) * 4, (1 / 1.13, 1 / 1.02, 1 / 1.14, 1 / 1.12)]
    slower = rows_scaled(THREE, "unmix_pool", noisy)
    (change,) = changes(THREE, slower)
    assert change.label == "unmix_pool: time beside its opponents'" and change.worse
    assert (change.before, change.after) == (1.0, pytest.approx(1.1))
    (back,) = changes(slower, THREE)
    assert not back.worse and back.after == pytest.approx(1 / 1.1)


def test_a_row_is_told_from_all_its_ratios():
    """One shape that became much slower, among others that did not."""
    found = changes(THREE, rows_scaled(THREE, "unmix_pool", [(1.0,) * 4, (1 / 1.3,) * 4, (1.0,) * 4]))
    assert {change.label for change in found} == {
        f"unmix_pool, wide, forward, {name}" for name in ("eager", "compiled", "floor", "one linear")
    }
    assert all(change.worse and change.after == pytest.approx(change.before / 1.3) for change in found)
    one_unmoved = [(1.0,) * 4, (1 / 1.3, 1 / 1.3, 1 / 1.3, 1.0), (1.0,) * 4]
    assert changes(THREE, rows_scaled(THREE, "unmix_pool", one_unmoved)) == []


def test_an_opponent_that_became_slower_is_no_change_of_ours():
    assert changes(THREE, rows_scaled(THREE, "unmix_pool", [(1.5, 1.0, 1.0, 1.0)] * 3)) == []
    assert changes(THREE, rows_scaled(THREE, "augment", [(1.5, 1.0, 1.0, 1.0)])) == []


def test_noise_is_no_change():
    near = rows_scaled(THREE, "unmix_pool", [(0.95,) * 4, (1.1,) * 4, (0.96,) * 4])
    assert changes(THREE, near) == []  # apart, but by less than two runs of the same code
    for interval in ([0.1, 5.0], None):
        wide = rows_scaled(THREE, "unmix_pool", [(0.7,) * 4] * 3)
        for found in wide["summary"]["rows"]:
            for value in (found["eager"], found["compiled"], found["floor"]):
                value["interval"] = interval
        assert changes(THREE, wide) == []


def test_an_overhead_is_worse_the_larger_it_is():
    def steps(overhead, speedup, utilisation):
        summary = {
            "rows": [{"name": "single, eager", "step": {"median": 1.0}, "utilisation": ratio(utilisation)}],
            "ratios": {"overhead, eager": ratio(overhead), "speed-up over straightforward, eager": ratio(speedup)},
        }
        return record("all", {"step": {"summary": summary}, "inference": {"batch 64": {"summary": summary}}})

    found = {change.label: change.worse for change in changes(steps(1.01, 1.4, 0.7), steps(1.10, 1.5, 0.6))}
    assert found == {
        f"{where}{name}": worse
        for where in ("step, ", "inference, batch 64, ")
        for name, worse in (
            ("single, eager, utilisation", True),
            ("overhead, eager", True),
            ("speed-up over straightforward, eager", False),
        )
    }


def test_what_is_said(tmp_path):
    out = io.StringIO()
    slower = kernels(row("augment", 2.4, 1.6, 0.4), row("unmix_pool", 4.0, 1.5, 0.7))
    other = {**BEFORE, "machine": {"device_name": "another card"}}
    assert report(other, slower, tmp_path, Console(file=out, width=200))
    assert "augment: time beside its opponents' 1 1.25 WORSE" in " ".join(out.getvalue().split())
    assert "augment, small, forward, eager" in out.getvalue() and "WORSE" in out.getvalue()
    assert "another machine: another card" in out.getvalue()
    assert not report(BEFORE, BEFORE, tmp_path, Console(file=out, width=200))
    assert "nothing changed beyond noise" in out.getvalue()


@pytest.mark.parametrize(
    ("written", "message"),
    [
        (None, "expected a record that mixfast bench wrote"),
        ("{", "is no JSON"),
        ("[]", "is no record of mixfast bench"),
        ('{"kind": "mixfast flops", "version": 1}', "is a record of mixfast flops, expected one of mixfast bench"),
        ('{"bench": "data", "settings": {}}', "version 0, expected 1: measure it again"),
        ('{"bench": "data", "settings": {}, "version": 2}', "version 2, expected 1"),
        ('{"bench": "data", "settings": {}, "version": 1}', "of bench data, expected one of bench kernels"),
        ('{"bench": "kernels", "settings": {"dtype": "float16"}, "version": 1}', "dtype float16 there, float32 here"),
    ],
)
def test_records_that_do_not_fit_are_refused(written, message, tmp_path):
    file = tmp_path / "record.json"
    if written is not None:
        file.write_text(written)
    with pytest.raises(ValueError, match=message):
        load_record(file, "kernels", {"dtype": "float32", "rounds": 20})


def test_rounds_may_differ(tmp_path):
    file = tmp_path / "record.json"
    file.write_text(json.dumps({**BEFORE, "settings": {"dtype": "float32", "rounds": 3}}))
    assert len(list(ratios(load_record(file, "kernels", {"dtype": "float32", "rounds": 20})))) == 8


def test_all_of_them_from_the_command_line(tmp_path, capsys, monkeypatch):
    ran = []
    monkeypatch.setattr(
        "mixfast_bench.command._bench_of",
        lambda what: (lambda args, *rest: ran.append((what, args.rounds)) or {"summary": {}}, lambda args, device: []),
    )
    file = tmp_path / "record.json"
    assert main(["bench", "all", "--device", "cpu", "--rounds", "7", "--json", str(file)]) == 0
    assert ran == [(what, 7) for what in ("step", "inference", "data", "kernels")]
    written = json.loads(file.read_text())
    assert written["bench"] == "all" and written["version"] == BENCH_VERSION and "kernels" in written
    assert main(["bench", "all", "--device", "cpu", "--rounds", "7", "--against", str(file)]) == 0
    assert "nothing changed beyond noise" in capsys.readouterr().out
    assert main(["bench", "kernels", "--device", "cpu", "--against", str(file)]) != 0
    assert "of bench all, expected one of bench kernels" in capsys.readouterr().err
