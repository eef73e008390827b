"""What the plots show of known inputs, and that each is drawn where its inputs are there and only then."""

from __future__ import annotations

import pytest
import report_inputs as given

from mixfast.models import split_width
from mixfast.report import draw, read_inputs
from mixfast.report.plot import styles


@pytest.fixture
def plots(tmp_path):
    """Draws records and runs: a dict of plots, and the titles of those that are missing."""

    def drawn(*records, runs=()):
        files = [given.write(tmp_path / f"{number}.json", record) for number, record in enumerate(records)]
        result = draw(read_inputs([str(path) for path in (*files, *runs)]))
        return {plot.name: plot for plot in result.plots}, [kind.title for kind in result.missing]

    return drawn


def legend_of(plot):
    return [text.get_text() for text in plot.figure.legends[0].get_texts()]


def labels_of(axes):
    return [label.get_text() for label in axes.get_yticklabels()]


def test_everything_is_drawn_or_said_to_be_missing(plots, tmp_path):
    run = given.write_run(tmp_path / "run")
    everything = (given.step(), given.inference(), given.kernels(), given.flops(2, 3))
    shown, missing = plots(*everything, runs=(run,))
    assert list(shown) == [
        "accuracy-cost", "overheads-training-step",
        "overheads-inference", "flops-time", "roofline", "traffic", "curves-loss", "curves-accuracy", "calibration",
        "scaling-num-inputs", "scaling-batch-size",
    ]  # fmt: skip
    assert missing == []
    for plot in shown.values():
        axes = plot.figure.axes
        assert axes[-1].get_xlabel() and all(each.get_ylabel() or labels_of(each) for each in axes), plot.name
        assert plot.title and plot.caption.endswith(".") and plot.table.rows
        assert all(len(row) == len(plot.table.headings) for row in plot.table.rows)


def test_what_is_not_given_is_not_drawn(plots, tmp_path):
    shown, missing = plots(given.kernels(work=False))
    assert shown == {} and len(missing) == 7
    shown, missing = plots(runs=[given.write_run(tmp_path / "run", bins=False)])
    assert list(shown) == ["accuracy-cost", "curves-loss", "curves-accuracy"] and "Calibration" in missing
    shown, _ = plots(given.inference())
    assert list(shown) == ["overheads-inference", "scaling-batch-size"]


def test_accuracy_against_cost(plots, tmp_path):
    runs = [given.write_run(tmp_path / f"r{seed}", f"seed={seed}", top1=0.9 + seed / 100) for seed in (0, 1)]
    other = given.write_run(tmp_path / "other", "data.name=fashion-mnist", "model.name=wrn16-2")
    gone = given.write_run(tmp_path / "gone", "data.name=folder:gone", "data.image_size=32")
    shown, _ = plots(runs=(*runs, other, gone))
    assert [shown[name].title for name in ("accuracy-cost", "accuracy-cost-2")] == [
        "Accuracy against cost, digits", "Accuracy against cost, fashion-mnist"
    ]  # fmt: skip
    plot = shown["accuracy-cost"]
    (axes,) = plot.figure.axes
    points, average = axes.get_lines()
    assert list(points.get_ydata()) == [90, 91] and list(average.get_ydata()) == [90.5]
    assert [row[:3] for row in plot.table.rows] == [
        ("r0", "cut-mixmo", "90.00"),
        ("r1", "cut-mixmo", "91.00"),
    ]
    assert plot.table.rows[0][5] == "12,345"
    low, high = axes.get_xlim()
    assert high - low >= 0.15 * high  # costs that are the same look so


def test_overheads_and_their_refusals(plots):
    shown, _ = plots(given.step(), given.step(overhead=given.ratio(3.0, "too noisy")), given.inference())
    plot = shown["overheads-training-step"]
    bars = plot.figure.axes[0].patches
    assert [bar.get_width() for bar in bars] == pytest.approx([10, 200])
    assert [bar.get_hatch() for bar in bars] == [None, "////"]
    assert legend_of(plot) == ["cut-mixmo", "refused: not known well"]
    assert labels_of(plot.figure.axes[0]) == ["cut-mixmo, wrn28-2, 0.json", "cut-mixmo, wrn28-2, 1.json"]
    assert [row[4:7] for row in plot.table.rows] == [
        ("+10.0", "+8.0 to +12.0", ""),
        ("+200.0", "+198.0 to +202.0", "too noisy"),
    ]
    inference = shown["overheads-inference"].figure.axes[0]
    assert labels_of(inference) == ["mixvit-embedding, convit,\nbatch 64", "mixvit-embedding, convit,\nbatch 1"]
    # A whisker that is not known well does not decide what is seen.
    shown, _ = plots(
        given.step(overhead=given.ratio(1.01, "too noisy")), given.step("wrn28-10", overhead=given.ratio(1.1))
    )
    assert max(shown["overheads-training-step"].figure.axes[0].get_xlim()) < 13.1


def test_flops_against_time(plots):
    shown, _ = plots(given.step(), given.step("wrn28-10"))
    plot = shown["flops-time"]
    assert legend_of(plot) == [
        "single", "cut-mixmo", "straightforward", "wrn28-2", "wrn28-10", "product: 0.100 TFLOP/s"
    ]  # fmt: skip
    # 2 GFLOP in 100 ms is a fifth of 100 GFLOP/s.
    assert plot.table.rows[0][4:7] == ("2.00", "100 [90.0, 110]", "20")
    line = plot.figure.axes[0].get_lines()[-1]
    assert list(line.get_ydata() / line.get_xdata()) == pytest.approx([10, 10])  # ms a GFLOP


def test_roofline_and_traffic(plots):
    shown, _ = plots(given.kernels(), given.kernels())
    assert [name for name in shown] == ["roofline", "traffic", "roofline-2", "traffic-2"]
    (row,) = shown["roofline"].table.rows  # without products an operator has no place there
    assert row[0].startswith("mask_mix_encode") and row[1:] == ("20.0", "4,000", "10.0")
    assert [row[1:] for row in shown["traffic"].table.rows] == [
        ("0.954", "1,000", "1.00", "2.00"), ("2.86", "2,000", "1.50", "2.00"), ("1.91", "4,000", "0.500", "4.00")
    ]  # fmt: skip
    memory = shown["roofline"].figure.axes[0].get_lines()[1]
    low, ridge, high = memory.get_xdata()
    # The largest case, the 3 MB of both passes of unmix_pool, was copied at 2 GB/s; products reach 100 GFLOP/s.
    assert ridge == pytest.approx(50) and list(memory.get_ydata()) == pytest.approx([2 * low, 100, 100])


def test_training_curves(plots, tmp_path):
    shown, _ = plots(runs=[given.write_run(tmp_path / "run", top1=0.9)])
    (line,) = shown["curves-accuracy"].figure.axes[0].get_lines()
    assert list(line.get_xdata()) == [1, 2, 3] and list(line.get_ydata()) == pytest.approx([70, 80, 90])
    (line,) = shown["curves-loss"].figure.axes[0].get_lines()
    assert list(line.get_ydata()) == [3.0, 1.5, 1.0]
    assert shown["curves-loss"].table.rows == (("run", "3", "1.00", "90.00", "3", "test"),)


def test_calibration_pools_seeds(plots, tmp_path, monkeypatch):
    first = given.write_run(tmp_path / "first", "seed=1")
    other = [
        {"lower": 0.0, "upper": 0.5, "count": 20, "confidence": 0.4, "accuracy": 0.5},
        {"lower": 0.5, "upper": 1.0, "count": 20, "confidence": 0.6, "accuracy": 0.8},
    ]
    monkeypatch.setattr(given, "BINS", other)
    second = given.write_run(tmp_path / "second", "seed=2")
    shown, _ = plots(runs=(first, second))
    # 60 predictions above a half, with (40 * 0.9 + 20 * 0.6) / 60 = 0.8 confidence and 0.8 accuracy; 20 below.
    ((label, ece, confidence, accuracy, count),) = shown["calibration"].table.rows
    assert (label, ece, confidence, accuracy, count) == ("cut-mixmo", "2.50", "70.00", "72.50", "80")
    (marks,) = shown["calibration"].figure.axes[0].collections
    assert marks.get_offsets().tolist() == [pytest.approx([40, 50]), pytest.approx([80, 80])]


def test_scaling_joins_what_differs_in_one_thing_only(plots):
    shown, missing = plots(given.flops(2, 3), given.flops(4, method="cut-mixmo"), given.flops(5, backbone="wrn28-2"))
    assert list(shown) == ["scaling-num-inputs"]
    panels = shown["scaling-num-inputs"].figure.axes
    assert [len(panel.get_lines()) for panel in panels] == [1, 1, 1]
    assert list(panels[0].get_lines()[0].get_xdata()) == [2, 3] and list(panels[0].get_lines()[0].get_ydata()) == [
        2000,
        3000,
    ]
    shown, _ = plots(given.flops(2), given.flops(2, backbone="wrn28-2", batch_size=16), given.flops(2, batch_size=32))
    # Activations depend on the batch, and so the narrow network's are of no line; products do not.
    assert list(shown) == ["scaling-width", "scaling-batch-size"]
    assert [panel.get_ylabel().split("\n")[0] for panel in shown["scaling-width"].figure.axes] == [
        "inference",
        "training step",
    ]
    shown, _ = plots(given.step(), given.step("wrn28-10"), given.step(batch_size=8))
    assert list(shown)[-2:] == ["scaling-width", "scaling-batch-size"]
    assert len(shown["scaling-batch-size"].figure.axes[0].get_lines()) == 3


def test_measured_steps_of_several_m_make_a_line(plots):
    records = [given.step(), given.step()]
    records[1]["settings"]["num_inputs"] = 3
    shown, _ = plots(*records)
    (panel,) = shown["scaling-num-inputs"].figure.axes
    assert panel.get_ylabel().startswith("training step") and list(panel.get_lines()[0].get_xdata()) == [2, 3]


def test_a_backbones_width():
    assert split_width("wrn28-10") == ("wrn28-WIDTH", 10) and split_width("preact-resnet18-3") == (
        "preact-resnet18-WIDTH",
        3,
    )
    assert split_width("convit") == split_width("convit384-5") == ("convit of 5 blocks", 384)
    assert split_width("cait-xs24") == ("cait of 24 blocks", 288)
    with pytest.raises(ValueError, match="'wrn-2' is unknown"):
        split_width("wrn-2")


def test_series_differ_in_colour_and_marker():
    looks = list(styles(map(str, range(66))).values())
    assert len({(look.color, look.marker) for look in looks}) == 66
    assert len({look.color for look in looks[:6]}) == len({look.marker for look in looks[:6]}) == 6
