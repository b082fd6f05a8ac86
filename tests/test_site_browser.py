"""The site in a browser: what is clicked, typed and read off; no errors, nothing wider than a phone, no jumps, in either theme."""

import os
import re
import shutil

import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

from common.provenance import ROOT
from tools.site import __main__ as site

NAMES = (os.environ.get("CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
CHROMIUM, DRIVER = next(filter(None, map(shutil.which, NAMES)), None), shutil.which("chromedriver")
FLAGS = "headless no-sandbox disable-gpu disable-quic no-first-run disable-background-networking disable-component-update"
PATIENCE = 20  # seconds, on a machine with much else to do
PHONE, DESK = (390, 844), (1280, 900)
JUMPS = """const done = arguments[0]; let sum = 0;
new PerformanceObserver(l => l.getEntries().forEach(e => { sum += e.value; })).observe({ type: "layout-shift", buffered: true });
requestAnimationFrame(() => setTimeout(() => done(sum), 50));"""

pytestmark = pytest.mark.slow
if not (CHROMIUM and DRIVER):
    pytest.skip("no Chromium with chromedriver: apt-get install chromium-driver, or CHROMIUM=its path", allow_module_level=True)


class Browser:
    """A headless Chromium at the pages of a site that was built whole."""

    def __init__(self, pages, profile):
        options = webdriver.ChromeOptions()
        options.binary_location = CHROMIUM
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        for flag in (*FLAGS.split(), f"user-data-dir={profile}"):
            options.add_argument(f"--{flag}")
        self.pages, self.driver = pages, webdriver.Chrome(options, webdriver.ChromeService(DRIVER))

    def open(self, page, size=DESK, theme="light"):
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        self.shown_in(theme)
        self.driver.get("about:blank")  # else another #place of the same page would not load it
        self.driver.get(f"file://{self.pages}/{page}")
        return self

    def shown_in(self, theme, media=""):
        told = {"media": media, "features": [{"name": "prefers-color-scheme", "value": theme}]}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", told)

    def js(self, script, *arguments):
        return self.driver.execute_script(f"return {script}", *arguments)

    def all(self, selector):
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def click(self, selector):
        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def press(self, *keys):
        ActionChains(self.driver).send_keys(*keys).perform()

    def wait(self, condition):
        return WebDriverWait(self.driver, PATIENCE, poll_frequency=0.1).until(lambda _: condition())

    def seen(self, selector):
        """Wait until an element is within the window, below the bar."""
        where = "(e => { const b = e.getBoundingClientRect(); return b.bottom > 40 && b.top < innerHeight; })(arguments[0])"
        return self.wait(lambda: any(self.js(where, at) for at in self.all(selector)[:1]))

    def colour(self, selector, what):
        script = "getComputedStyle(document.querySelector(arguments[0]))[arguments[1]].match(/[\\d.]+/g).map(Number)"
        return sum(self.js(script, selector, what)[:3])


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("browser")
    site.build(folder / "site", [])
    browser = Browser(folder / "site", folder / "profile")
    yield browser
    browser.driver.quit()


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_every_page(browser, size):
    """Opens without a word in the console, does not jump, is no wider than the window, and is light or dark as it is asked."""
    for page in sorted(path.name for path in browser.pages.glob("*.html")):
        browser.open(page, size)
        assert browser.driver.execute_async_script(JUMPS) < 0.01, f"{page} jumps"
        for theme in "light", "dark":
            browser.shown_in(theme)
            assert browser.js("document.documentElement.scrollWidth") <= size[0], f"{page} scrolls sideways when {theme}"
            assert (browser.colour("body", "backgroundColor") > browser.colour("body", "color")) == (theme == "light"), page
        assert browser.driver.get_log("browser") == [], page


def test_formulas(browser):
    """sqrt(d_k) is a root, and what is below a letter is lower than it."""
    browser.open("transformer.html")
    root = "document.querySelector('#model math msqrt')"
    assert browser.js(f"{root}.textContent") == "dk" and browser.js(f"{root}.getBoundingClientRect().height") > 8
    low = "[...document.querySelectorAll('msub')].map(e => [...e.children].map(c => c.getBoundingClientRect().bottom))"
    assert all(below > base for base, below in browser.js(low) if base)
    assert browser.js("[...document.querySelectorAll('math')].every(e => e.namespaceURI.endsWith('MathML'))")


def test_a_place_shows_its_lines_and_they_lead_back(browser):
    browser.open("transformer.html").click(".mark[data-key='eq-3']")
    lit = [int(e.get_attribute("data-n")) for e in browser.all("#model .lit")]
    source = (ROOT / "papers/transformer/model.py").read_text().splitlines()
    assert "Eq. (3)" in source[lit[0]] and lit == [*range(lit[0], lit[-1] + 1)] and browser.seen("#model .l.now")
    browser.press("j")  # the next lines that name it, and back
    assert browser.all("#train .l.now") and browser.seen(".l.now")
    browser.press("k")
    assert browser.all("#model .l.now") and browser.seen(".l.now")
    browser.click(f"#model-{lit[0] + 1} a.place[href='#eq-3']")
    assert browser.seen("#eq-3") and browser.js("location.hash") == "#eq-3" and len(browser.all(".mark.on")) == 1
    browser.press(Keys.ESCAPE)
    assert not browser.all(".lit, .now, .on")
    browser.driver.back()  # from the lines to where they were asked for
    assert browser.seen(".mark[data-key='eq-3']")


def test_claims_of_a_table(browser):
    """A table's claims are shown from its place, though the list of them was folded."""
    browser.open("transformer.html")
    assert not browser.all("#claims-table-3 + details")[0].get_property("open")
    browser.click("#table-3 a[href='#claims-table-3']")
    assert browser.seen("#claims-table-3") and browser.all("#claims-table-3 + details tbody tr")[0].is_displayed()


def test_a_chart_is_read(browser):
    """The paper's line lies at the paper's value, and the pointer reads the curve's."""
    browser.open("resnet.html")
    chart = "document.querySelector('.chart:has(path.paper)')"
    y0, y1 = map(float, browser.js(f"{chart}.dataset.range.split(' ')")[2:])
    bottom, top = map(float, browser.js(f"{chart}.dataset.box.split(' ')")[2:])
    at = float(re.search(r" ([\d.]+)H", browser.js(f"{chart}.querySelector('path.paper').getAttribute('d')"))[1])
    assert y0 + (bottom - at) / (bottom - top) * (y1 - y0) == pytest.approx(8.75, abs=0.1)
    assert "8.75%" in browser.js(f"{chart}.querySelector('text.paper').textContent")
    line = browser.all(".chart path.paper")[0]
    browser.js("arguments[0].scrollIntoView({block: 'center'})", line)
    ActionChains(browser.driver).move_to_element(line).perform()
    value, step = re.search(r"≈ ([\d.]+) at step ([\d,.]+)", browser.all(".chart .read text")[0].text).groups()
    assert 7 < float(value) < 40 and 20_000 < float(step.replace(",", "")) < 45_000
    browser.js("document.querySelector('.chart').focus()")
    browser.press(Keys.ARROW_RIGHT)
    assert browser.all(".chart .read text")[0].text != f"≈ {value} at step {step}"


def test_search(browser):
    """Typed after its key, it finds a line of code, which a click opens."""
    browser.open("index.html").press("/", "warmup**-1.5")
    (hit,) = browser.wait(lambda: browser.all("#hits a[href^='transformer.html#model-']"))
    assert [mark.text for mark in hit.find_elements(By.TAG_NAME, "mark")] == ["warmup**-1.5"]
    hit.click()
    assert browser.seen(".l:target") and "warmup**-1.5" in browser.all(".l:target")[0].text


def test_search_from_a_paper(browser):
    browser.open("transformer.html").press("/")
    browser.wait(lambda: "index.html" in browser.driver.current_url)
    browser.press("adagrad")
    assert browser.wait(lambda: browser.all("#hits a[href^='vae.html#']"))


def test_copy(browser):
    """What is copied is the file, and what is selected is code alone."""
    browser.open("transformer.html").click(".copy[data-file='model']")
    browser.wait(lambda: browser.all(".copy")[0].text == "copied")
    browser.js("document.body.append(Object.assign(document.createElement('textarea'), {id: 'pasted'}))")
    browser.click("#pasted")
    ActionChains(browser.driver).key_down(Keys.CONTROL).send_keys("v").key_up(Keys.CONTROL).perform()
    assert browser.js("document.getElementById('pasted').value") == (ROOT / "papers/transformer/model.py").read_text()
    first, last = (browser.all(f"#model .row:nth-child({n}) .l")[0] for n in (2, 3))
    browser.js("arguments[0].scrollIntoView({block: 'center'})", first)
    mouse = ActionChains(browser.driver).move_to_element_with_offset(first, -300, 0).click_and_hold()
    mouse.move_to_element_with_offset(last, 300, 0).release().perform()
    selected = browser.js("getSelection().toString()").splitlines()
    lines = (ROOT / "papers/transformer/model.py").read_text().splitlines()
    assert len(selected) > 6 and set(selected[1:-1]) <= set(lines)


def test_theme_is_kept(browser):
    browser.open("transformer.html").press("t")
    assert browser.colour("body", "backgroundColor") < 200
    browser.open("resnet.html")
    assert browser.colour("body", "backgroundColor") < 200
    browser.click("#theme")
    assert browser.colour("body", "backgroundColor") > 700


def test_print(browser):
    """On paper: dark on white even from the dark theme, nothing to click, pictures and folded tables, code beside notes."""
    browser.open("resnet.html?theme=dark").shown_in("dark", media="print")
    assert browser.colour("body", "backgroundColor") == 765 and not browser.all(".bar")[0].is_displayed()
    assert browser.js("[...document.images].every(i => i.complete && i.naturalWidth)") and browser.all(".prose img")
    folded = browser.all("#results details:not([open]) tbody tr")
    assert folded and all(browser.js("arguments[0].checkVisibility()", row) for row in folded)
    tops = [browser.js(f"document.querySelector('#model .{side}').getBoundingClientRect().top") for side in ("left", "right")]
    assert tops[0] == tops[1]
    assert max(browser.colour(f"#model {of}", "color") for of in (".l", ".k", ".c1", ".nf", ".shape")) < 450
