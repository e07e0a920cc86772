"""The search page in a real browser: type, see, follow, filter, by hand and by key; and nothing in a document runs."""

import contextlib
import json
import re
import shutil
import time

import pytest

from sightline import Index, Searcher
from sightline.serve import create_app

from .conftest import DOCUMENTS, EVIL, serving

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")

from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")


@pytest.fixture(scope="module")
def browser():
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--window-size=1200,900",
        "--force-prefers-reduced-motion",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield chrome
    chrome.quit()


class Page:
    def __init__(self, browser, address):
        self.browser, self.address = browser, address
        browser.get(address)
        self.until(lambda: "documents" in self.element("#about").text)

    def element(self, selector):
        return self.browser.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector):
        return self.browser.find_elements(By.CSS_SELECTOR, selector)

    def until(self, condition):
        gone = (StaleElementReferenceException, NoSuchElementException, IndexError)
        return WebDriverWait(self.browser, 20, 0.05, gone).until(lambda _: condition())

    def ask(self, text):
        """Type, press Enter, and give the titles that come."""
        self.browser.execute_script("document.getElementById('status').textContent = ''")
        box = self.element("#query")
        box.clear()
        box.send_keys(text, Keys.ENTER)
        self.until(lambda: self.element("#status").text or self.element("#message").is_displayed())
        return [title.text for title in self.all(".hit h2")]

    def heat(self, element):
        """How strongly it is tinted, from 0 to 1."""
        return float(self.browser.execute_script("return arguments[0].style.getPropertyValue('--a')", element))

    def press(self, *keys):
        for key in keys:
            self.browser.switch_to.active_element.send_keys(key)

    def current(self):
        return [i for i, hit in enumerate(self.all(".hit")) if hit.get_attribute("aria-current") == "true"]


@pytest.fixture
def page(browser, address):
    opened = Page(browser, address)
    yield opened
    said = [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
    assert said == []


@pytest.fixture(scope="module")
def expected(small_index):
    """What the library says, by passages, as the page asks."""

    def search(query):
        with Index.open(small_index) as index:
            return Searcher(index).search(query, 40, evidence="sentence", unit="passage").hits

    return search


def documents(hits):
    return list(dict.fromkeys(hit.id for hit in hits))


def test_typing_and_enter_give_the_librarys_results(page, expected):
    titles = page.ask("what sound do happy cats make")
    hits = expected("what sound do happy cats make")
    first = {hit.id: hit for hit in reversed(hits)}
    assert titles == [first[id].document.title for id in documents(hits)]
    assert titles[0] == "Cats"
    assert [place.text for place in page.all(".place b")] == ["1", "2", "3", "4"]
    shares = [sum(hit.mass for hit in hits if hit.id == id) for id in documents(hits)]
    shown = [float(share.text.split("%")[0]) / 100 for share in page.all(".share")]
    assert shown == pytest.approx(shares, abs=0.006)


def test_results_come_while_one_types(page):
    page.element("#query").send_keys("who barks at strangers")
    page.until(lambda: page.all(".hit h2")[0].text == "Dogs")
    assert "q=who+barks" in page.browser.current_url


def test_the_first_stage_stands_beside_the_rank(page, expected):
    query = "smoke over the volcano"
    page.ask(query)
    hits = expected(query)
    first = {hit.id: hit.first_rank for hit in hits}
    for rank, (id, place) in enumerate(zip(documents(hits), page.all(".move"), strict=True), start=1):
        by = first[id] - rank
        arrow = f"↑ {by}" if by > 0 else f"↓ {-by}" if by < 0 else ""
        ordinal = {1: "1st", 2: "2nd", 3: "3rd"}.get(first[id], f"{first[id]}th")
        assert " ".join(place.text.split()) == f"{arrow} {ordinal} before reranking".strip()


def test_evidence_is_marked_by_its_mass(page, expected):
    query = "what sound do happy cats make"
    page.ask(query)
    best = next(hit for hit in expected(query) if hit.id == "cat")
    masses = {span.text: span.mass for span in best.evidence}
    marks = page.all(".hit")[0].find_elements(By.CSS_SELECTOR, ".excerpt mark")
    heats = {mark.text: page.heat(mark) for mark in marks}
    assert len(heats) >= 2
    top = max(masses.values())
    assert heats == pytest.approx({text: masses[text] / top for text in heats}, abs=0.001)
    assert max(heats, key=heats.get) == "Cats purr when they are content."


def test_the_strip_shows_where_in_the_document_the_attention_fell(page, expected):
    query = "etna volcano smokes"
    page.ask(query)
    hits = [hit for hit in expected(query) if hit.id == "long"]
    length = len(hits[0].document.text)
    strip = page.all(".hit")[0].find_element(By.CSS_SELECTOR, ".strip")
    parts = {span.start: span.mass for hit in hits for span in hit.evidence if span.field == "text"}
    shown = {int(part.get_attribute("data-start")): part for part in strip.find_elements(By.CSS_SELECTOR, "button")}
    assert set(shown) == set(parts) and len(parts) > 20
    hottest = max(parts, key=parts.get)
    assert hits[0].document.text[hottest:].startswith("A volcano called Etna")
    box, part = strip.rect, shown[hottest].rect
    assert (part["x"] - box["x"]) / box["width"] == pytest.approx(hottest / length, abs=0.01)
    assert page.heat(shown[hottest]) == 1.0


def test_following_evidence_opens_the_document_at_the_place(page):
    page.ask("etna volcano smokes")
    hit = page.all(".hit")[0]
    last = hit.find_elements(By.CSS_SELECTOR, ".strip button")[-1]
    page.browser.execute_script("arguments[0].click()", last)
    here = page.until(lambda: hit.find_element(By.CSS_SELECTOR, ".text[data-whole] mark.here"))
    assert here.text == "A volcano called Etna smokes."
    page.until(lambda: page.browser.execute_script(
        "const b = arguments[0].getBoundingClientRect(); return b.top >= 0 && b.bottom <= innerHeight", here
    ))  # fmt: skip
    # The text is whole, and offsets meant characters: it has some beyond the first plane.
    assert hit.find_element(By.CSS_SELECTOR, ".text").text.startswith(
        "Town 0 has a market on day 0, with 🧀 and bread."
    )
    marks = [mark.text for mark in hit.find_elements(By.CSS_SELECTOR, ".text mark")]
    assert all(mark.startswith(("Town", "A volcano")) and mark.endswith(".") for mark in marks)


def test_keys(page):
    page.ask("animals")
    page.press(Keys.ARROW_DOWN)
    assert page.current() == [0]
    page.press("j", "j", Keys.ARROW_DOWN, "j")
    assert page.current() == [3]
    page.press("k")
    assert page.current() == [2]
    page.press(Keys.ENTER)
    page.until(lambda: page.all(".hit")[2].find_element(By.CSS_SELECTOR, ".text[data-whole]"))
    page.press("n")
    page.until(lambda: page.all(".hit")[2].find_element(By.CSS_SELECTOR, "mark.here"))
    page.press(Keys.ESCAPE)
    assert not page.all(".text[data-whole]")
    page.press("/")
    assert page.browser.switch_to.active_element.get_attribute("id") == "query"
    page.press("x/j")
    assert page.element("#query").get_attribute("value").endswith("x/j")


def test_filters_by_hand_and_by_tag(page):
    assert len(page.ask("anything")) == 4
    page.element("#filter").send_keys("year>=1990", Keys.ENTER)
    page.until(lambda: len(page.all(".hit")) == 2)
    tag = next(tag for tag in page.all(".tags button") if tag.text == "lang: it")
    tag.click()
    page.until(lambda: [title.text for title in page.all(".hit h2")] == ["Towns"])
    assert [chip.text.rstrip("×").strip() for chip in page.all(".chip")] == ["year >= 1990", "lang = it"]
    page.browser.refresh()  # the address has it all
    page.until(lambda: [title.text for title in page.all(".hit h2")] == ["Towns"])
    for _ in range(2):
        page.element(".chip").click()
    page.until(lambda: len(page.all(".hit")) == 4)
    page.element("#filter").send_keys("__proto__=1", Keys.ENTER)
    page.until(lambda: "no document has a field '__proto__'" in page.element("#message").text)
    assert not page.all(".hit") and not page.element("#notes").is_displayed()
    page.browser.get_log("browser")  # which notes the refusal
    page.element("#filter").send_keys("nonsense", Keys.ENTER)
    assert "FIELD OPERATOR VALUE" in page.element("#message").text
    assert not page.element("#notes").is_displayed()  # an error is not an answer without hits


def test_the_focus_stays_when_a_key_removes_a_filter(page):
    page.element("#filter").send_keys("lang=en", Keys.ENTER)
    page.element(".chip").send_keys(Keys.ENTER)
    page.until(lambda: not page.all(".chip"))
    assert page.browser.switch_to.active_element.get_attribute("id") == "filter"


@pytest.mark.parametrize(
    ("written", "understood"),
    [
        ("lang=en year>=2000", ["lang = en", "year >= 2000"]),
        ('lang = "en" year == 2010', ["lang = en", "year = 2010"]),
        ('place="a b=c" n<>3', ["place = a b=c", "n != 3"]),
        ("city=New York", ["city = New York"]),
    ],
)
def test_several_filters_in_one_line(page, written, understood):
    page.element("#filter").send_keys(written, Keys.ENTER)
    assert [chip.text.rstrip("×").strip() for chip in page.all(".chip")] == understood


@pytest.mark.parametrize(
    ("written", "said"), [("year>=", "no value"), ("lang=en year>", "no value"), ("year=>3", "no operator"), ("=3", "")]
)
def test_half_a_filter_is_refused_in_words(page, written, said):
    page.element("#filter").send_keys(written, Keys.ENTER)
    assert said in page.element("#message").text and page.element("#message").text
    assert not page.all(".chip") and page.element("#filter").get_attribute("value") == written


def test_escape_clears_the_question_with_its_results(page):
    page.ask("cats")
    page.press(Keys.ESCAPE)
    page.until(lambda: not page.all(".hit") and page.element("#hint").is_displayed())
    assert page.element("#query").get_attribute("value") == "" and "q=" not in page.browser.current_url


def test_the_empty_page_has_examples_from_the_collection(page):
    shown = page.until(lambda: page.all("#examples button"))
    titles = {document.title for document in DOCUMENTS}
    assert 1 <= len(shown) <= 3 and {example.text for example in shown} <= titles
    title = shown[0].text
    shown[0].click()
    page.until(lambda: page.all(".hit"))
    assert page.element("#query").get_attribute("value") == title and not page.element("#hint").is_displayed()
    assert page.element("#legend").is_displayed()


def test_a_document_full_of_markup_stays_text(page):
    titles = page.ask("evil markup stays text")
    assert titles[0] == f"Evil {EVIL}"
    hit = page.all(".hit")[0]
    hit.find_element(By.CSS_SELECTOR, "h2 button").click()
    text = page.until(lambda: hit.find_element(By.CSS_SELECTOR, ".text[data-whole]")).text
    assert text == f"Evil markup: {EVIL} ends here. It stays text."
    assert f"lang: {EVIL}" in [tag.text for tag in hit.find_elements(By.CSS_SELECTOR, ".tags button")]
    hit.find_element(By.CSS_SELECTOR, ".tags button").click()  # and as a filter, and in the address
    page.until(lambda: len(page.all(".hit")) == 1)
    page.browser.refresh()
    page.until(lambda: len(page.all(".hit")) == 1)
    assert page.browser.title == "Sightline"
    assert not page.all("main img, main script, [onerror]")


def test_a_query_full_of_markup_stays_text(page):
    page.browser.get(
        f"{page.address}/?q=%3Cimg%20src%3Dx%20onerror%3D%22document.title%3D1%22%3E&where=lang%3D%22%3Cb%3E%22"
    )
    page.until(lambda: "Nothing found" in page.element("#notes").text)
    assert page.browser.title == "Sightline" and not page.all("main img")


def test_nothing_comes_from_elsewhere(browser, address):
    browser.get_log("performance")
    Page(browser, address).ask("cats")
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = {m["params"]["request"]["url"] for m in events if m["method"] == "Network.requestWillBeSent"}
    assert urls and all(url.startswith((address, "data:")) for url in urls), urls


def test_scripts_of_others_do_not_run(browser, address):
    """What the policy is for: were markup ever to get in, it could do nothing."""
    Page(browser, address)
    browser.execute_script(
        "const s = document.createElement('div'); document.body.append(s);"
        "try { s.innerHTML = '<img src=x onerror=\"document.title=1\">' } catch (e) { window.refused = e.name }"
    )
    time.sleep(0.2)
    assert browser.title == "Sightline" and browser.execute_script("return window.refused") == "TypeError"
    browser.get_log("browser")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_follow_the_system_and_the_button(page, scheme):
    page.browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    page.browser.refresh()

    def lightness():
        colour = page.element("body").value_of_css_property("background-color")
        return sum(int(part) for part in colour.split("(")[1].rstrip(")").split(",")[:3]) / 765

    assert (lightness() > 0.5) == (scheme == "light")
    page.element("#theme").click()
    assert (lightness() > 0.5) == (scheme == "dark")
    page.browser.refresh()
    assert (lightness() > 0.5) == (scheme == "dark")
    page.browser.execute_script("localStorage.clear()")
    page.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def contrast(one, other):
    """The contrast of two opaque colours as CSS writes them, by WCAG 2.2."""

    def luminance(colour):
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_selection_and_the_filter_box_can_be_seen_in_light_and_dark(page):
    page.ask("cats")
    page.press(Keys.ARROW_DOWN)
    look = """
        const style = (selector, part) => getComputedStyle(document.querySelector(selector), part);
        return [style("body").backgroundColor, style(".hit[aria-current]", "::before").backgroundColor,
                style("#filter").borderTopColor];
    """
    themes = set()
    for _ in range(2):
        page.element("#theme").click()
        paper, selection, box = page.browser.execute_script(look)
        themes.add(paper)
        assert contrast(selection, paper) >= 3 and contrast(box, paper) >= 3
    assert len(themes) == 2
    fits = "const box = document.getElementById('filter'); return box.scrollWidth <= box.clientWidth"
    assert page.browser.execute_script(fits)  # so that the example is read whole
    page.browser.execute_script("localStorage.clear()")


def test_highlights_stay_in_a_contrast_theme(page):
    emulate = "Emulation.setEmulatedMedia"
    page.ask("what sound do happy cats make")
    page.press(Keys.ARROW_DOWN)
    look = """
        const style = (selector, part) => getComputedStyle(document.querySelector(selector), part);
        return [style(".excerpt mark").backgroundImage, style(".strip button").backgroundColor,
                style(".hit[aria-current]", "::before").backgroundColor];
    """
    before = page.browser.execute_script(look)
    page.browser.execute_cdp_cmd(emulate, {"features": [{"name": "forced-colors", "value": "active"}]})
    try:
        assert page.browser.execute_script("return matchMedia('(forced-colors: active)').matches")
        assert page.browser.execute_script(look) == before
    finally:
        page.browser.execute_cdp_cmd(emulate, {"features": []})


def test_a_larger_font_of_the_readers_enlarges_all_text(page):
    page.ask("cats")
    selectors = ["body", "#query", "#filter", "#status", ".hit h2", ".text", ".share", ".tags button"]
    look = "return arguments[0].map((s) => parseFloat(getComputedStyle(document.querySelector(s)).fontSize))"
    before = page.browser.execute_script(look, selectors)
    page.browser.execute_script("document.documentElement.style.fontSize = '200%'")
    assert page.browser.execute_script(look, selectors) == pytest.approx([2 * size for size in before])
    assert page.browser.execute_script("return document.documentElement.scrollWidth") <= 1200


def test_a_phone_needs_no_sideways_scrolling(page):
    page.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        page.browser.refresh()
        page.ask("evil markup stays text")
        for hit in page.all(".hit"):
            page.browser.execute_script("arguments[0].click()", hit.find_element(By.CSS_SELECTOR, "h2 button"))
        page.until(lambda: len(page.all(".text[data-whole]")) == 4)
        assert page.browser.execute_script("return document.documentElement.scrollWidth") <= 360
        size = float(page.element(".text").value_of_css_property("font-size").removesuffix("px"))
        assert size >= 16
    finally:
        page.browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@contextlib.contextmanager
def another(browser, app):
    with serving(app) as address:
        yield Page(browser, address)


def test_without_a_reranker_it_is_a_plain_list(browser, small_index):
    with another(browser, create_app(Searcher(small_index, None, first_stage="bm25"))) as page:
        assert page.ask("dogs bark")[0] == "Dogs"
        assert not page.all("mark")


def test_a_server_that_has_gone_is_said_so(browser, small_index):
    with another(browser, create_app(Searcher(small_index))) as page:
        page.ask("cats")
    page.element("#query").send_keys(" and dogs", Keys.ENTER)
    page.until(lambda: "cannot be reached" in page.element("#message").text)
    browser.get_log("browser")


def test_the_relevance_stands_beside_each_result(page, expected):
    query = "what sound do happy cats make"
    page.ask(query)
    hits = expected(query)
    first = {hit.id: hit.relevance for hit in reversed(hits)}
    shown = [relevance.text for relevance in page.all(".relevance")]
    assert all(re.fullmatch(r"relevance \d+(\.\d)?%", text) for text in shown)
    values = [float(text.split()[1].rstrip("%")) / 100 for text in shown]
    assert values == pytest.approx([first[id] for id in documents(hits)], abs=0.006)
    page.element("#legend summary").click()
    assert page.element("#probability").is_displayed()


def test_the_servers_min_score_leaves_a_note_in_place_of_results(browser, small_index):
    with another(browser, create_app(Searcher(small_index), min_score=1.0)) as page:
        page.element("#query").send_keys("cats", Keys.ENTER)
        page.until(lambda: "nothing scored above min_score 1" in page.element("#notes").text)
        assert not page.all(".hit")
        assert page.element("#notes").aria_role == "status"  # so that a screen reader reads it out


def test_a_reranker_without_relevance_shows_none(browser, small_index):
    with another(browser, create_app(Searcher(small_index, "minilm-mass"))) as page:
        assert page.ask("dogs bark")[0] == "Dogs"
        page.element("#legend summary").click()
        assert not page.element("#probability").is_displayed()
        assert not any(relevance.text for relevance in page.all(".relevance"))
