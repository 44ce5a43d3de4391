"""The page of `nodebudget report` in a real browser: headless Chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from pages import real_files

from nodebudget import Calibration
from nodebudget.cli import main

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install playwright")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
HOSTILE = "<script>document.title='taken'</script><img src=http://localhost:9/x onerror=alert(1)>"

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium")

#: Screens: width, height, colour scheme.
SCREENS = {
    "desktop, light": (1280, 900, "light"),
    "desktop, dark": (1280, 900, "dark"),
    "phone, light": (390, 844, "light"),
    "phone, dark": (390, 844, "dark"),
    "small phone": (320, 568, "light"),
}

#: The least contrast of texts against what is behind them (WCAG 2.2, 1.4.3), worked out by its formula.
CONTRASTS = """() => {
  const channels = text => (text.match(/[\\d.]+/g) || []).map(Number);
  const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const found = channels(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] > 0) return found;
    }
    return null;
  };
  const found = [];
  for (const element of document.querySelectorAll('body *')) {
    const own = [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !element.getClientRects().length || element.tagName === 'title') continue;
    const style = getComputedStyle(element);
    const text = channels(element.namespaceURI.endsWith('svg') ? style.fill : style.color);
    const [high, low] = [luminance(text), luminance(behind(element))].sort((a, b) => b - a);
    found.push([(high + 0.05) / (low + 0.05), element.tagName + '.' + (element.getAttribute('class') || '')]);
  }
  return found;
}"""

#: Texts of visible pictures that are cut off, and neighbouring marks of an axis that run into each other.
CROWDED = """() => {
  const found = [];
  for (const svg of document.querySelectorAll('svg.chart')) {
    const frame = svg.getBoundingClientRect();
    if (!frame.width) continue;
    const boxes = [...svg.querySelectorAll('text')].map(text => [text.textContent, text.getBoundingClientRect()]);
    for (const [text, box] of boxes) {
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.top < frame.top - 1
        || box.bottom > frame.bottom + 1) found.push('cut off: ' + text);
    }
    boxes.forEach(([text, a], i) => boxes.slice(i + 1).forEach(([other, b]) => {
      const wide = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const high = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (wide > 1 && high > 4) found.push(`${text} over ${other}`);
    }));
  }
  return found;
}"""


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return real_files(tmp_path_factory.mktemp("records"))


@pytest.fixture(scope="module")
def page_file(files):
    target = files["run"].with_name("report.html")
    done = CliRunner().invoke(main, ["report", *map(str, files.values()), "-o", str(target)])
    assert done.exit_code == 0, done.output
    return target


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=list(FLAGS))
        yield opened
        opened.close()


@pytest.fixture
def visit(browser):
    """Return what opens a file on a screen, as a page that keeps what the browser said and asked for."""
    opened = []

    def go(path: Path, screen: str = "desktop, light"):
        width, height, scheme = SCREENS[screen]
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        opened.append(page)
        page.said, page.asked, page.refused = [], [], []
        page.on("console", lambda message: page.said.append(message.text))
        page.on("pageerror", lambda error: page.said.append(str(error)))
        page.on("dialog", lambda dialog: page.said.append(dialog.message) or dialog.dismiss())
        page.on("request", lambda request: page.asked.append(request.url))
        page.on("requestfailed", lambda request: page.refused.append((request.url, request.failure)))
        page.goto(path.as_uri(), wait_until="load")
        return page

    yield go
    for page in opened:
        page.close()


@pytest.mark.parametrize("screen", SCREENS)
def test_it_is_whole_silent_and_alone(page_file, visit, screen):
    page = visit(page_file, screen)
    assert page.said == []
    assert page.asked == [page_file.as_uri()]
    assert "Training memory: LineGraphNet on " in page.title()
    assert page.locator("section").count() == 7
    texts = page.locator("h2").all_inner_texts()
    assert texts[:4] == ["In short", "calibration.json", "sizes.npz", "plan.json"]
    for words in (
        "Measured against predicted peak",
        "Predicted bytes per batch: fixed against budget",
        "Memory over the run",
        "Events",
    ):
        assert page.get_by_text(words, exact=True).first.is_visible()
    assert page.locator("svg.chart:visible").count() >= 6


@pytest.mark.parametrize("screen", SCREENS)
def test_it_fits_the_screen(page_file, visit, screen):
    page = visit(page_file, screen)
    page.locator("details").evaluate_all("all => all.forEach(one => one.open = true)")
    width = SCREENS[screen][0]
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Tables that are too wide scroll in boxes of their own, which the keyboard reaches.
    for table in page.locator("table").all():
        box = table.locator("xpath=..")
        assert box.bounding_box()["width"] <= width
        assert box.get_attribute("tabindex") == "0"
    if width < 400:
        wide = page.evaluate(
            "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length"
        )
        assert wide > 0
    assert page.evaluate(CROWDED) == []


@pytest.mark.parametrize("screen", SCREENS)
def test_texts_can_be_read(page_file, visit, screen):
    page = visit(page_file, screen)
    found = page.evaluate(CONTRASTS)
    assert len(found) > 200
    assert [entry for entry in found if entry[0] < 4.5] == []
    shown = page.evaluate("Math.min(...[...document.querySelectorAll('body *')].filter(e => e.getClientRects().length)"
                          ".map(e => parseFloat(getComputedStyle(e).fontSize)))")  # fmt: skip
    assert shown >= 11


def test_light_and_dark_differ(page_file, visit):
    colours = [
        visit(page_file, screen).evaluate(
            "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.querySelector("
            "'.line.measured')).stroke]"
        )
        for screen in ("desktop, light", "desktop, dark")
    ]
    assert colours[0][0] != colours[1][0]
    assert colours[0][1] != colours[1][1]


def test_what_was_measured_is_where_it_was_measured(page_file, files, visit):
    """Dots of the first picture are at their predicted and measured bytes: read back from the screen."""
    page = visit(page_file)
    known = Calibration.load(files["calibration"])
    held = [entry for entry in known.observations if entry.role == "holdout"]
    dots = page.evaluate(
        "[...document.querySelectorAll('figure')[0].querySelectorAll('svg.chart circle.heldout')].map(dot => {"
        "const box = dot.getBoundingClientRect(); return [box.x + box.width / 2, box.y + box.height / 2] })"
    )
    assert len(dots) == len(held)
    (x0, y0), (x1, y1) = dots[0], dots[-1]
    predicted = [known.predict_bytes(**entry.sizes) for entry in (held[0], held[-1])]
    across, up = (x1 - x0) / (predicted[1] - predicted[0]), (y0 - y1) / (held[-1].peak - held[0].peak)
    assert across > 0
    assert up > 0
    for (x, y), entry in zip(dots, held, strict=True):
        assert x - x0 == pytest.approx(across * (known.predict_bytes(**entry.sizes) - predicted[0]), abs=1)
        assert y0 - y == pytest.approx(up * (entry.peak - held[0].peak), abs=1)


def test_advice_leads_to_what_it_is_about(page_file, visit):
    page = visit(page_file)
    levels = page.locator(".advice li").evaluate_all("items => items.map(item => item.className)")
    assert levels[:2] == ["bad", "bad"]
    assert "good" in levels
    texts = page.locator(".advice").inner_text()
    assert "ran out of memory" in texts
    assert "Possible leak: memory allocated between steps grew by" in texts
    page.locator(".advice li.bad a", has_text="leak.jsonl").click()
    leak = page.locator("section", has=page.locator("h2", has_text="leak.jsonl"))
    assert leak.evaluate("element => element.getBoundingClientRect().top") < 5
    assert leak.locator("svg.chart:visible path.event.warning").count() == 1


def test_the_keyboard_opens_all_measured_steps(page_file, visit):
    page = visit(page_file, "phone, light")
    summary = page.locator("summary", has_text="measured steps")
    table = summary.locator("xpath=..").locator("table")
    assert not table.is_visible()
    summary.focus()
    page.keyboard.press("Enter")
    assert table.is_visible()
    assert table.locator("tbody tr").count() == 12


def test_what_is_hostile_is_a_text(files, visit, tmp_path):
    text = files["run"].read_text()
    name = HOSTILE.replace("/", "")
    (tmp_path / f"{name}.jsonl").write_text(text.replace('"name":"LineGraphNet"', f'"name":"{HOSTILE}"', 1))
    target = tmp_path / "report.html"
    done = CliRunner().invoke(main, ["report", str(tmp_path / f"{name}.jsonl"), "-o", str(target), "--title", HOSTILE])
    assert done.exit_code == 0, done.output
    page = visit(target)
    assert page.title() == HOSTILE
    assert page.locator("script, img, iframe, object").count() == 0
    assert page.said == []
    assert page.asked == [target.as_uri()]
    assert page.get_by_text(HOSTILE).first.is_visible()


def test_no_script_would_run_if_there_were_one(page_file, visit, tmp_path):
    """The page's own policy forbids scripts and loads, should an escape ever be missed."""
    target = tmp_path / "injected.html"
    target.write_text(page_file.read_text().replace("<main>", f"<main>{HOSTILE}"))
    page = visit(target)
    assert page.title() != "taken"
    assert any("Content Security Policy" in said for said in page.said)
    assert page.refused == [("http://localhost:9/x", "csp")]
