"""The page in a real browser, on a phone, a tablet and a desk."""

from __future__ import annotations

import chromium
import pytest
import report_inputs as given

from mixfast.cli import main

pytestmark = pytest.mark.skipif(
    chromium.PROGRAM is None, reason="no Chromium here to show the page (apt-get install chromium)"
)
WIDTHS = (400, 900, 1600)
# Every figure decoded and of a size that can be read; how wide the page is; what sticks out of the window.
LOOK = """(async () => {
  await Promise.all([...document.images].map(image => image.decode()));
  const boxes = [...document.images].map(image => {
    const box = image.getBoundingClientRect();
    return [image.naturalWidth, box.width, box.height, image.checkVisibility()];
  });
  const out = [...document.querySelectorAll('h1, h2, p, li, figure, figcaption, .numbers')]
    .filter(element => element.getBoundingClientRect().right > innerWidth + 0.5).map(element => element.outerHTML.slice(0, 80));
  return {boxes, out, page: document.documentElement.scrollWidth, window: innerWidth};
})()"""


@pytest.fixture(scope="module")
def browser():
    browser = chromium.Chromium()
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    records = (given.step(), given.step("wrn28-10"), given.inference(), given.kernels(), given.flops(2, 3))
    files = [given.write(folder / f"{number}.json", record) for number, record in enumerate(records)]
    runs = [given.write_run(folder / f"{'a-long-name-' * 8}{seed}", f"seed={seed}") for seed in (0, 1)]
    assert main(["report", *map(str, (*files, *runs)), "-o", str(folder / "out")]) == 0
    return folder / "out" / "index.html"


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_fits_and_says_nothing_to_the_console(browser, page, width):
    browser.open(page, width)
    seen = browser.evaluate(LOOK)
    assert browser.complaints == []
    assert seen["window"] == width and seen["page"] <= width and seen["out"] == []
    assert len(seen["boxes"]) == 12
    for natural, shown, height, visible in seen["boxes"]:
        assert natural > 0 and visible and 0.9 * min(width, 600) <= shown <= width and height > 100
    assert all(url.startswith(("file:", "data:")) for url in browser.requests)


def test_a_page_that_is_wrong_would_be_noticed(browser, page, tmp_path):
    wrong = tmp_path / "wrong.html"
    flaws = (
        "<div style='width: 3000px'>wide</div><img src='gone.png'>"
        "<script>console.error('said'); setTimeout(() => { throw new Error('thrown') })</script>"
    )
    wrong.write_text(page.read_text().replace("</body>", f"{flaws}</body>"))
    browser.open(wrong, 400)
    assert browser.evaluate("document.documentElement.scrollWidth") >= 3000
    browser.evaluate("new Promise(done => setTimeout(done, 50))")
    said = " ".join(browser.complaints)
    assert "said" in said and "Uncaught" in said and "ERR_FILE_NOT_FOUND" in said
