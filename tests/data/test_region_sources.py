"""Random-resized crop through every source: the same views, decoded as often and as far as the configuration says."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from sources_here import HAS_DALI, STREAMING
from test_sources import COUNTS, all_pixels, assert_equal, epoch_of, feed_of, opened

from mixfast.data import DataError, ImageSet, SourceOptions, StreamedSet, choose_source, open_images, open_larger
from mixfast.data.pixels import central_square
from mixfast.data.regions import UNIT, draw_regions, span
from mixfast.data.sources import opening
from mixfast.data.sources.interface import Request
from mixfast.training.ranks import Ranks

SIZE = 24
CUT = {"data": {"pad": 0, "crop_area": (0.08, 1.0), "image_size": SIZE}}
FROM_FILES = {"data": {**CUT["data"], "regions": "files"}}


def with_mix(sections: dict, **data: object) -> dict:
    return {"data": {**sections["data"], **data}, "msda": {"kind": "cutmix"}}


@pytest.fixture
def photos(tmp_path: Path) -> Callable[..., Path]:
    """photos(suffix, sides): smooth pictures of several sizes and shapes, their sides within bounds."""

    def make(suffix: str = "png", sides: tuple[int, int] = (40, 90)) -> Path:
        rng = np.random.default_rng(0)
        for folder, count in COUNTS.items():
            (tmp_path / suffix / folder).mkdir(parents=True)
            for number in range(count):
                blocks = Image.fromarray(rng.integers(0, 256, (7, 7, 3)).astype(np.uint8))
                size = tuple(int(side) for side in rng.integers(*sides, 2))
                picture = blocks.resize(size, Image.Resampling.BICUBIC)
                picture.save(tmp_path / suffix / folder / f"{number:02}.{suffix}")
        return tmp_path / suffix

    return make


def views_of(folder: Path, kind: str, sections: dict, ranks: Ranks | None = None, stored: int | None = None) -> list:
    (data,) = opened(folder, kind, ("train",), image_size=SIZE)
    if stored is not None:
        data = open_larger(data, stored)
    return epoch_of(feed_of(data, sections, *([ranks] if ranks else [])))


def levels(data_std: tuple[float, ...], first: list, second: list) -> torch.Tensor:
    """How far the views of two epochs are apart, in levels of 255."""
    apart = torch.stack([(one.images - other.images).abs() for one, other in zip(first, second, strict=True)])
    return apart * 255 * torch.tensor(data_std)[:, None, None]


@pytest.mark.parametrize("views", ["independent", "shared"])
@pytest.mark.parametrize("stored", [None, 36])
def test_regions_of_images_are_the_same_bits_through_torch(photos, views, stored) -> None:
    folder, sections = photos(), with_mix(CUT, views=views)
    for one, other in zip(
        views_of(folder, "torch", sections, stored=stored),
        views_of(folder, "resident", sections, stored=stored),
        strict=True,
    ):
        assert one.images.shape[2:] == (SIZE, SIZE)
        assert_equal(one, other)


@pytest.mark.skipif(not HAS_DALI, reason="NVIDIA DALI is not installed")
@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize(("regions", "most"), [("images", 2), ("files", 6)])
def test_dali_shows_the_same_views_to_a_few_levels(photos, regions, most, suffix) -> None:
    """On smooth pictures; on noise DALI's triangle, a table, is up to 12 levels off where it makes smaller."""
    folder, sections = photos(suffix), with_mix(CUT if regions == "images" else FROM_FILES)
    (data,) = opened(folder, "torch", ("train",), image_size=SIZE)
    apart = levels(data.std, *(views_of(folder, kind, sections) for kind in ("dali", "torch")))
    assert apart.max() <= most and apart.mean() < 0.3


@pytest.mark.parametrize("kind", STREAMING)
def test_regions_of_files_are_those_of_images_with_more_pixels(photos, kind) -> None:
    """The same parts of smooth pictures: only rounding to pixels and sharpness differ, the less the more pixels are stored."""
    folder = photos(sides=(200, 280))
    (data,) = opened(folder, kind, ("train",), image_size=SIZE)
    expected = views_of(folder, kind, with_mix(FROM_FILES))
    means = [
        levels(data.std, expected, views_of(folder, kind, with_mix(CUT), stored=stored)).mean()
        for stored in (None, 200)
    ]
    assert means[1] < 2.5 and means[1] < 0.25 * means[0]


@pytest.mark.parametrize("kind", STREAMING)
def test_a_resumed_epoch_and_a_single_step_have_the_same_bits(photos, kind) -> None:
    folder = photos()
    for sections in (with_mix(CUT), with_mix(FROM_FILES, views="shared")):
        (data,) = opened(folder, kind, ("train",), image_size=SIZE)
        feed = feed_of(data, sections)
        whole = epoch_of(feed)
        for one, other in zip(epoch_of(feed, first=2), whole[2:], strict=True):
            assert_equal(one, other)
        assert not torch.equal(whole[0].images, whole[1].images)


@pytest.mark.parametrize("sections", [CUT, FROM_FILES], ids=["images", "files"])
@pytest.mark.parametrize("mix", ["none", "cutmix"])
def test_two_processes_make_the_views_of_one(photos, sections, mix, monkeypatch) -> None:
    folder, asked = photos(), []
    sections = {"data": {**sections["data"], "groups": 2}, "msda": {"kind": mix}}
    each = Request.each
    monkeypatch.setattr(Request, "each", lambda request: asked.append(len(request.index)) or each(request))
    whole, *parts = (views_of(folder, "torch", sections, ranks) for ranks in (None, Ranks(0, 2), Ranks(1, 2)))
    for step, batch in enumerate(whole):
        for part in (parts[0][step], parts[1][step]):
            rows = part.rows
            assert torch.equal(part.images[part.index], batch.images[batch.index[rows]])
            assert torch.equal(part.target, batch.target[rows])
    if sections["data"].get("regions") == "files":  # a region for each source of each view that a process makes
        assert asked == [n for count in (16, 8, 8) for n in [count * (1 + (mix == "cutmix"))] * len(whole)]


@pytest.mark.parametrize("suffix", ["png", "jpg"])
@pytest.mark.parametrize("kind", STREAMING)
def test_a_region_that_needs_no_resizing_is_the_very_pixels(kind, suffix, tmp_path, random_pixels) -> None:
    """Of noise in files of any shape, so that a row or a column off would show; colours of a JPEG are those of the whole file."""
    for number, (height, width) in enumerate(((40, 40), (40, 61), (84, 41), (39, 40), (57, 90))):
        for split in ("train", "test"):
            for label in "ab":
                (tmp_path / split / label).mkdir(parents=True, exist_ok=True)
                picture = Image.fromarray(random_pixels(height, width, seed=number))
                picture.save(tmp_path / split / label / f"{number}.{suffix}")
    (data,) = opened(tmp_path, kind, ("train",), image_size=16)
    rounding = 2 if (kind, suffix) == ("dali", "jpg") else 0
    files = [np.array(Image.open(file)) for file in data.files]
    sides = torch.tensor([min(file.shape[:2]) for file in files])

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(seed=st.integers(0, 1000))
    def check(seed: int) -> None:
        places = torch.randint(UNIT, (len(files), 2), generator=torch.Generator().manual_seed(seed))
        shares = (16 * UNIT // sides + 1)[:, None].expand(-1, 2)
        asked = Request(torch.arange(len(files)), torch.cat([places, shares], 1))
        (pixels,) = data.stream(lambda step: asked, range(1), len(files))
        assert pixels.index is None
        for got, file, region in zip(pixels.images, files, asked.each(), strict=True):
            left, top, side = central_square(file.shape[1], file.shape[0])
            (row, height), (column, width) = (span(16 * UNIT // side + 1, place, side) for place in region.region[:2])
            assert height == width == 16
            top, left = top + row, left + column
            expected = file[top : top + 16, left : left + 16].astype(int)
            assert np.abs(got.permute(1, 2, 0).numpy() - expected).max() <= rounding

    check()


@pytest.mark.parametrize("kind", STREAMING)
def test_regions_of_unusual_files(kind, tmp_path, random_pixels) -> None:
    """Turned by EXIF, GIF, CMYK, grey, palette: upright and in colour, the region is cut where it is in any other file."""
    smooth = Image.fromarray(random_pixels(4, 4)).resize((60, 40), Image.Resampling.BICUBIC)
    turned = Image.Exif()
    turned[0x112] = 6
    for split in ("train", "test"):
        for label in "ab":
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            smooth.save(folder / "0.jpg", quality=95, exif=turned)
            smooth.convert("P").save(folder / "1.gif")
            smooth.convert("CMYK").save(folder / "2.jpg", quality=95)
            smooth.convert("L").save(folder / "3.png")
            smooth.convert("P").save(folder / "4.png")
    (data,) = opened(tmp_path, kind, ("train",), image_size=16)
    regions = draw_regions(10, (0.1, 1.0), (1, 1), generator=torch.Generator().manual_seed(3))
    (pixels,) = data.stream(lambda step: Request(torch.arange(10), regions), range(1), 10)
    for place, file in enumerate(data.files):
        upright = smooth.transpose(Image.Transpose.ROTATE_270) if file.endswith("0.jpg") else smooth
        expected = upright.convert("L").convert("RGB") if file.endswith("3.png") else upright
        left, top, side = central_square(*upright.size)
        (row, height), (column, width) = (
            span(int(regions[place, 2 + k]), int(regions[place, k]), side) for k in (0, 1)
        )
        box = (left + column, top + row, left + column + width, top + row + height)
        expected = np.array(expected.crop(box).resize((16, 16), Image.Resampling.BILINEAR), dtype=int)
        apart = np.abs(pixels.images[place].permute(1, 2, 0).numpy() - expected)
        assert apart.mean() < (10 if file.endswith(("gif", "4.png")) else 3), file


def test_a_set_of_larger_images_keeps_its_statistics_and_what_is_seen(photos) -> None:
    folder = photos()
    for kind, sort in (("resident", ImageSet), ("torch", StreamedSet)):
        (plain,) = opened(folder, kind, ("train",), image_size=SIZE)
        larger = open_larger(plain, 48)
        assert isinstance(larger, sort)
        assert larger.shape == (17, 3, 48, 48) and larger.image_shape == plain.image_shape == (SIZE, SIZE)
        assert (larger.mean, larger.std) == (plain.mean, plain.std) and torch.equal(larger.labels, plain.labels)
        part = larger.subset(torch.arange(3), "train")
        assert part.image_shape == (SIZE, SIZE) and part.shape == (3, 3, 48, 48)
    assert torch.equal(
        all_pixels(larger), open_larger(opened(folder, "resident", ("train",), image_size=SIZE)[0], 48).images
    )


def test_auto_counts_what_is_stored_and_never_cuts_files_from_memory(photos, monkeypatch) -> None:
    name, splits = f"folder:{photos()}", ("train", "test")
    needed = (17 + 5) * SIZE**2 * 3 + 17 * 48**2 * 3
    arguments = {"device": torch.device("cpu"), "image_size": SIZE, "stored_size": 48}
    for free, expected in ((needed, True), (needed - 1, False)):
        monkeypatch.setattr(opening, "available_memory", lambda free=free: free)
        chosen = choose_source(name, splits, options=SourceOptions(resident_share=1.0), **arguments)
        assert (chosen == "resident") is expected
    monkeypatch.setattr(opening, "available_memory", lambda: 10**12)
    assert choose_source(name, splits, options=SourceOptions(from_files=True), **arguments) == STREAMING[-1]


def test_arrays_have_no_files_to_cut() -> None:
    with pytest.raises(DataError, match="set data.source=resident and data.regions=images"):
        open_images("digits", ("train",), options=SourceOptions(from_files=True))


@pytest.mark.parametrize("kind", STREAMING)
def test_a_file_that_breaks_is_named_by_its_region_too(kind, photos) -> None:
    folder = photos()
    (data,) = opened(folder, kind, ("train",), image_size=SIZE)
    (folder / "train/dog/05.png").write_bytes(b"not an image at all")
    with pytest.raises(DataError, match=r"train\).*cannot decode .*dog/05.png"):
        epoch_of(feed_of(data, FROM_FILES))
