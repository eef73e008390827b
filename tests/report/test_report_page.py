"""The files of a report: whole, self-contained, and no others touched."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser

import pytest
import report_inputs as given
from PIL import Image

from mixfast.cli import main


@pytest.fixture
def paths(tmp_path):
    """Inputs that give every kind of plot."""
    records = (given.step(), given.inference(), given.kernels(), given.flops(2, 3))
    files = [given.write(tmp_path / f"{number}.json", record) for number, record in enumerate(records)]
    return [str(path) for path in (*files, given.write_run(tmp_path / "a <run> & more"))]


@pytest.fixture
def one(tmp_path):
    """A record that gives two plots."""
    return str(given.write(tmp_path / "one.json", given.step()))


class References(HTMLParser):
    """Everything that the page would load or lead to, and what its tables say."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.text = ""

    def handle_starttag(self, tag, attributes):
        self.found += [
            value for name, value in attributes if name in ("src", "href", "srcset", "data", "poster", "action")
        ]
        assert tag not in ("script", "iframe", "object", "embed"), tag

    def handle_data(self, data):
        self.text += data


def test_the_page_needs_nothing_beside_itself(paths, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    assert main(["report", *paths, "-o", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "11 plots" in printed and "without" not in printed
    text = (out / "index.html").read_text()
    page = References()
    page.feed(text)
    pictures = [reference for reference in page.found if reference.startswith("data:image/svg+xml;base64,")]
    links = {reference for reference in page.found if not reference.startswith("data:")}
    names = {path.name for path in out.iterdir()}
    assert len(pictures) == 11 and links == names - {"index.html"} and len(names) == 12
    written = re.sub(r"base64,[\w+/=]+", "", text)
    assert "http" not in written.lower() and "@import" not in written and "url(" not in written
    for picture in pictures:
        svg = base64.b64decode(picture.partition(",")[2]).decode()
        # Names of XML's dialects and of licences are no addresses to load from.
        assert not re.search(r"(href|src)=[\"'](?!#)", svg) and "@import" not in svg and "<script" not in svg
    assert "a <run> & more" in page.text  # escaped
    for heading in ("parameters", "95% interval %", "GFLOP/s", "best top-1 %", "mean confidence %"):
        assert heading in page.text


def test_every_plot_is_a_picture_of_its_own(paths, tmp_path):
    out = tmp_path / "out"
    assert main(["report", *paths, "-o", str(out)]) == 0
    pictures = {path.name: Image.open(path) for path in out.glob("*.png")}
    assert len(pictures) == 11
    for name, picture in pictures.items():
        assert picture.width >= 1080 and picture.height >= 300, name
        colours = picture.convert("RGB").getcolors(1 << 24)
        assert len(colours) > 20 and max(count for count, _ in colours) < 0.98 * picture.width * picture.height, name


def test_a_report_says_what_is_missing(tmp_path, capsys):
    file = given.write(tmp_path / "k.json", given.kernels(work=False))
    assert main(["report", str(file), "-o", str(tmp_path / "out")]) == 0
    assert "without: Accuracy against cost, which needs run directories" in " ".join(capsys.readouterr().out.split())
    text = (tmp_path / "out" / "index.html").read_text()
    assert "Not in this report" in text and text.count("<li>") == 7
    assert "<code>mixfast bench step --json FILE</code>" in text


def test_a_run_that_cannot_be_counted_is_named_with_the_reason(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    run = given.write_run(tmp_path / "run", "data.name=folder:gone", "data.image_size=32")
    assert main(["report", str(run), "-o", str(tmp_path / "out")]) == 0
    printed, text = capsys.readouterr().out, (tmp_path / "out" / "index.html").read_text()
    assert "not counted: folder:gone: cut-mixmo: " in printed and "gone" in text.partition("cannot be counted here")[2]


def test_a_second_report_replaces_the_first_and_nothing_else(one, tmp_path):
    out, more = tmp_path / "out", given.write(tmp_path / "more.json", given.kernels())
    assert main(["report", one, str(more), "-o", str(out)]) == 0
    assert (out / "roofline.png").exists()
    (out / "notes.txt").write_text("mine")
    Image.new("RGB", (8, 8)).save(out / "mine.png")
    assert main(["report", one, "-o", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == {
        "index.html",
        "overheads-training-step.png",
        "flops-time.png",
        "notes.txt",
        "mine.png",
    }


@pytest.mark.parametrize("name", ["index.html", "overheads-training-step.png"])
def test_what_another_program_wrote_is_not_replaced(one, tmp_path, capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "1000")
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text("mine")
    assert main(["report", one, "-o", str(out)]) == 2
    assert f"--out {out} holds a {name} that mixfast report did not write" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == [name] and (out / name).read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_named(one, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    (tmp_path / "file").write_text("")
    assert main(["report", one, "-o", str(tmp_path / "file" / "out")]) == 2
    assert f"--out {tmp_path / 'file' / 'out'} cannot be written" in capsys.readouterr().err
    assert main(["report", one, "-o", str(tmp_path / "file")]) == 2


def test_an_interrupted_report_leaves_whole_files(one, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert main(["report", one, "-o", str(out)]) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr("mixfast.report.writing.page", lambda *_: (_ for _ in ()).throw(OSError("no space")))
    assert main(["report", one, "-o", str(out)]) == 2
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before  # a plot is the same bytes each time
    assert all(Image.open(io.BytesIO(content)).size for name, content in before.items() if name.endswith(".png"))
