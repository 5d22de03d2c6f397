"""The page in a real browser: no network, no errors, every plot drawn, nothing wider than the screen."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pluriform.report.page import write_report

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
HOSTILE = "</script><script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\"> <b>bold</b>"


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as driver:
        bundled = Path(driver.chromium.executable_path)
        executable = CHROMIUM or (str(bundled) if bundled.exists() else None)
        if executable is None:
            pytest.skip("no Chromium found: install the package chromium, or run `playwright install chromium`")
        opened = driver.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield opened
        opened.close()


class Opened:
    """A page with everything it said and asked for."""

    def __init__(self, browser, path, width, scheme):
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        self.page = self.context.new_page()
        self.said, self.asked = [], []
        self.page.on("console", lambda message: self.said.append((message.type, message.text)))
        self.page.on("pageerror", lambda error: self.said.append(("error", str(error))))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        self.page.wait_for_selector("html[data-drawn=true]", timeout=60_000)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()

    def drawn(self):
        """For every plot: whether its picture is there, traces, and how far it reaches beyond the window."""
        return self.page.evaluate(
            """() => [...document.querySelectorAll(".plot")].map((plot) => ({
                picture: plot.matches(".js-plotly-plot") && plot.querySelectorAll(".main-svg").length > 0,
                traces: (plot.data || []).length,
                marks: plot.querySelectorAll(".scatterlayer .trace path").length,
                beyond: plot.getBoundingClientRect().right - innerWidth,
            }))"""
        )

    def until(self, expression):
        """Wait for it; `wait_for_function` needs eval, which the page's policy forbids."""
        for _ in range(200):
            if self.page.evaluate(expression):
                return
            self.page.wait_for_timeout(50)
        pytest.fail(f"never true: {expression}")

    def background(self):
        return self.page.evaluate("getComputedStyle(document.body).backgroundColor")

    def inks(self):
        """The colours of the axis titles in all plots."""
        return set(self.page.evaluate("[...document.querySelectorAll('.xtitle')].map((t) => getComputedStyle(t).fill)"))


@pytest.fixture(scope="module")
def path(tmp_path_factory, request):
    module = request.getfixturevalue("synthetic")
    results = module.classification() + module.regression()
    return write_report(results, tmp_path_factory.mktemp("report") / "report.html")


@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_plot_is_drawn_offline_without_errors(browser, path, width, scheme):
    with Opened(browser, path, width, scheme) as opened:
        plots = opened.drawn()
        assert len(plots) == 4 + 6 + 4 + 1 + 1 + 6 + 1 + 1 + 3 + 2 + 1
        assert all(plot["picture"] and plot["traces"] and plot["marks"] and plot["beyond"] <= 0 for plot in plots), (
            plots
        )
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.said == []
        assert opened.asked == [path.as_uri()]
        assert (opened.background() == "rgb(255, 255, 255)") is (scheme == "light")
        assert len(opened.inks()) == 1


@pytest.mark.parametrize("width", [390, 1440])
def test_pictures_are_loaded_from_the_page_itself(browser, tmp_path, synthetic, width):
    results = [replace(synthetic.drawer(bool(i)), seed=i, form=f"JEM(seed={i})") for i in range(3)]
    page = write_report(results, tmp_path / "samples.html")
    with Opened(browser, page, width, "dark") as opened:
        images = opened.page.evaluate("[...document.images].map((i) => [i.complete, i.naturalWidth, i.alt.length > 9])")
        assert images == [[True, 1, True]] * 3 * 28
        assert opened.page.locator("#c0-samples .plot").count() == 6
        shown = opened.page.locator("#c0-samples .tile img")
        assert [shown.nth(place).is_visible() for place in (0, 28, 56)] == [True, True, False]
        opened.page.locator("#c0-samples details.album summary").click()
        assert shown.nth(56).is_visible()
        widths = opened.page.evaluate("[...document.querySelectorAll('.tile')].map((t) => t.getBoundingClientRect())")
        assert min(box["width"] for box in widths) > 40
        assert max(box["right"] for box in widths) <= width
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.said == []
        assert opened.asked == [page.as_uri()]


@pytest.mark.parametrize("width", [390, 1440])
def test_attacked_samples_stand_in_rows_of_four(browser, tmp_path, synthetic, width):
    results = [replace(synthetic.attacked(), seed=i, form=f"Training(seed={i})") for i in range(3)]
    page = write_report(results, tmp_path / "attacked.html")
    with Opened(browser, page, width, "dark") as opened:
        section = opened.page.locator("#c0-adversarial")
        assert section.locator(".plots").count() == 0
        assert [section.locator("figure img").nth(place).is_visible() for place in (0, 20, 40)] == [True, True, False]
        boxes = opened.page.evaluate(
            """[...document.querySelectorAll('#c0-adversarial .tile')].slice(0, 20).map((t) => {
                const box = t.getBoundingClientRect();
                return [Math.round(box.top), box.width, box.right];
            })"""
        )
        rows = [[box[0] for box in boxes[start : start + 4]] for start in range(0, 20, 4)]
        assert all(len(set(row)) == 1 for row in rows)
        assert (rows[0] == rows[3]) is (width == 1440)  # The second half stands beside the first, or below it.
        assert min(box[1] for box in boxes) > 70
        assert max(box[2] for box in boxes) <= width
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= width
        assert opened.said == []


def test_the_theme_button_changes_page_and_plots(browser, path):
    with Opened(browser, path, 1440, "light") as opened:
        light, ink = opened.background(), opened.inks()
        opened.page.click("#theme")
        opened.until("document.documentElement.dataset.theme === 'dark'")
        opened.until(
            f"[...document.querySelectorAll('.xtitle')].every((t) => getComputedStyle(t).fill !== '{ink.pop()}')"
        )
        assert opened.background() != light
        assert len(opened.inks()) == 1
        opened.page.reload()
        opened.page.wait_for_selector("html[data-drawn=true]")
        assert opened.background() != light
        assert opened.said == []


def test_buttons_switch_the_plots_and_say_so(browser, path):
    with Opened(browser, path, 1440, "light") as opened:
        section = opened.page.locator("#c0-outliers")
        assert section.locator(".plot").count() == 4
        section.get_by_role("button", name="mutual information").click()
        opened.until("document.querySelectorAll('#c0-outliers .main-svg').length > 0")
        assert section.locator("figcaption").all_inner_texts() == ["DeepEnsemble"]
        pressed = section.locator("button[aria-pressed=true]").all_inner_texts()
        assert pressed == ["mnist", "mutual information"]
        cost = opened.page.locator("#c0-cost")
        cost.get_by_role("button", name="Parameters").click()
        opened.until("document.querySelector('#c0-cost .xtitle')?.textContent === 'Parameters'")
        assert opened.said == []


def test_plots_follow_the_window(browser, path):
    with Opened(browser, path, 1440, "light") as opened:
        opened.page.set_viewport_size({"width": 390, "height": 800})
        opened.until("document.querySelector('#c0-cost .main-svg').getBoundingClientRect().width < 390")
        opened.page.wait_for_timeout(500)
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390


def test_the_download_gives_the_results_back(browser, path, synthetic):
    import json

    with Opened(browser, path, 1440, "light") as opened:
        with opened.page.expect_download() as download:
            opened.page.click("a[download]")
        value = json.loads(Path(download.value.path()).read_text())
        assert [item["form"] for item in value] == [r.form for r in synthetic.classification() + synthetic.regression()]
        assert opened.said == []


def test_hostile_names_are_shown_and_do_nothing(browser, tmp_path, synthetic):
    first, *others = synthetic.classification()
    evil = replace(first, form=HOSTILE, network=HOSTILE, data={**first.data, "name": HOSTILE})
    results = [evil, *(replace(r, data=evil.data) for r in others)]
    with Opened(browser, write_report(results, tmp_path / "evil.html"), 390, "dark") as opened:
        assert opened.page.title().endswith("pluriform")
        assert opened.page.locator("img").count() == 0
        assert opened.page.evaluate("document.documentElement.scrollWidth") <= 390
        assert opened.page.locator("svg b").count() == 0
        assert opened.said == []
        assert len(opened.asked) == 1
