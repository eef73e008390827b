"""``mixfast data show``: the picture has what the batch has, from real command lines; wrong arguments are named."""

from __future__ import annotations

import pytest
import torch
from small_runs import SMALL
from test_views import METHODS_WITH_MIX, feed_of, random_set

from mixfast import cli
from mixfast.methods import Moment
from mixfast.training.contact_sheet import draw_contact_sheet

SHOW = ("data", "show", "quickstart", *SMALL)


def test_inputs_shares_and_labels_are_those_of_the_batch() -> None:
    data = random_set()
    feed = feed_of(data, {"method": METHODS_WITH_MIX["cut-mixmo"]}, {"msda": {"kind": "cutmix", "probability": 1.0}})
    batch = feed.batch(feed.plan(1), 0, Moment(1, 5)).some(torch.tensor([0, 3]))
    figure = draw_contact_sheet(batch, data, "a title")
    assert len(figure.axes) == 2 * 4
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (data.mean, data.std))
    for row in range(2):
        inputs = [figure.axes[4 * row + place] for place in range(2)]
        for place, axes in enumerate(inputs):
            shown = torch.from_numpy(axes.images[0].get_array().data)
            expected = (batch.images[batch.index[row, place]] * std + mean).clamp(0, 1)
            torch.testing.assert_close(shown, expected.permute(1, 2, 0).squeeze(2))
            first, second = (data.classes[int(labels[row, place])] for labels in (batch.target, batch.other))
            share = float(batch.share[row, place])
            assert axes.get_title().startswith(f"{share:.2f} {first}, {1 - share:.2f} {second}")
            assert axes.get_title().endswith(f"loss x {float(batch.weight[row, place]):.2f}")
        zone = torch.from_numpy(figure.axes[4 * row + 2].images[0].get_array().data)
        assert torch.equal(zone, batch.mixing.weights()[row, 0])


SINGLE = ("method.name=single", "method.num_inputs=1", "method.alpha=null", "method.probability=0.5")


CUT = ("data.pad=0", "data.crop_area=[0.3, 1]", "data.image_size=8", "data.stored_size=12")


@pytest.mark.parametrize("settings", [(), ("method.num_inputs=3",), SINGLE, CUT])
def test_the_command_writes_a_picture(settings, tmp_path, capsys) -> None:
    out = tmp_path / "sheet.png"
    assert cli.main([*SHOW, *settings, "--samples", "3", "--epoch", "2", "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG") and str(out) in capsys.readouterr().out.replace("\n", "")
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--epoch", "4"), "--epoch is 4, expected a number from 1 to 3"),
        (("--samples", "0"), "--samples is 0, expected a number from 1 to"),
        (("--out", "no/such/folder/x.png"), "--out is no/such/folder/x.png"),
    ],
)
def test_wrong_arguments_are_named_before_any_work(arguments, message, capsys) -> None:
    assert cli.main([*SHOW, *arguments]) != 0
    assert message in capsys.readouterr().err.replace("\n", " ")
