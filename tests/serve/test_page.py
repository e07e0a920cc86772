"""The search page in a real browser: type, see, follow, filter, by hand and by key; and nothing in a document runs."""

import contextlib
import io
import json
import re
import shutil
import time

import pytest

from sightline import Index, Searcher
from sightline.errors import InputError
from sightline.recipes.pictures import search_page
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

    def search(query, evidence="sentence"):
        with Index.open(small_index) as index:
            return Searcher(index).search(query, 40, evidence=evidence, unit="passage").hits

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
    places = [" ".join(place.text.split()) for place in page.all(".place")]
    assert len(set(first.values())) == 4 and len(places) == 4
    for rank, (id, place) in enumerate(zip(documents(hits), places, strict=True), start=1):
        by = first[id] - rank
        ordinal = {1: "1st", 2: "2nd", 3: "3rd"}.get(first[id], f"{first[id]}th")
        assert place == f"{rank} {'↑' if by > 0 else '↓'} {abs(by)} from {ordinal}" if by else str(rank)


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


def test_shortcuts_of_one_character_can_be_switched_off_for_good(page):
    page.element("#keys").click()
    page.browser.refresh()
    page.ask("cats")
    page.press(Keys.ARROW_DOWN)
    assert page.current() == [0]
    page.press("j", "n", "o", "/")
    assert page.current() == [0] and not page.all(".hit.whole")
    assert page.browser.switch_to.active_element.get_attribute("id") != "query"
    page.press(Keys.ARROW_DOWN, Keys.ESCAPE, Keys.ESCAPE)  # other keys work, and lead back to the switch
    page.until(lambda: page.element("#hint").is_displayed())
    page.element("#keys").click()
    page.browser.refresh()
    page.ask("cats")
    page.press(Keys.ARROW_DOWN, "j")
    assert page.current() == [1]
    page.press("/")
    assert page.browser.switch_to.active_element.get_attribute("id") == "query"


def test_the_empty_page_has_examples_from_the_collection(page):
    shown = page.until(lambda: page.all("#examples button"))
    texts = [example.text for example in shown]
    assert texts == ["Iron rusts in wet air.", "Dogs bark at strangers.", "Town 0 has a market on day 0,"]
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
    assert page.browser.title == "evil markup stays text – Sightline"
    assert not page.all("main img, main script, [onerror]")


def test_a_query_full_of_markup_stays_text(page):
    page.browser.get(
        f"{page.address}/?q=%3Cimg%20src%3Dx%20onerror%3D%22document.title%3D1%22%3E&where=lang%3D%22%3Cb%3E%22"
    )
    page.until(lambda: "Nothing found" in page.element("#notes").text)
    assert page.browser.title == '<img src=x onerror="document.title=1"> – Sightline' and not page.all("main img")


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
    room, example = page.browser.execute_script("""
        const box = document.getElementById("filter"), style = getComputedStyle(box);
        const pen = document.createElement("canvas").getContext("2d");
        pen.font = style.font;
        return [box.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight),
                pen.measureText(box.placeholder).width];
    """)
    assert example <= room
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
        colours = {page.element(one).value_of_css_property("color") for one in (".excerpt mark", "#status")}
        assert len(colours) == 1  # the theme's own, whatever ground it has
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
        "Emulation.setDeviceMetricsOverride", {"width": 320, "height": 640, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        page.browser.refresh()
        page.ask("evil markup stays text")
        for hit in page.all(".hit"):
            page.browser.execute_script("arguments[0].click()", hit.find_element(By.CSS_SELECTOR, "h2 button"))
        page.until(lambda: len(page.all(".text[data-whole]")) == 4)
        assert page.browser.execute_script("return document.documentElement.scrollWidth") <= 320
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


def test_an_index_that_fails_is_told_when_the_page_opens(browser, small_index):
    app = create_app(Searcher(small_index))
    with another(browser, app) as page:
        app.state.service.problem, app.state.service._count_again = "the disk is gone", float("inf")
        browser.refresh()
        page.until(lambda: page.element("#message").text == "The index cannot be searched: the disk is gone")
        assert page.element("#about").text == "4 documents"
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


# -- as people use it --------------------------------------------------------------------------------------------------


def stub(page, *answers):
    """Answer the page's next calls of ``fetch``: with JSON, maybe after a delay; None is a server that is gone."""
    page.browser.execute_script(
        """
        window.asked = [];
        const answers = arguments[0];
        window.fetch = async (path, options) => {
          const next = answers.length > 1 ? answers.shift() : answers[0];
          asked.push(options?.body ? JSON.parse(options.body) : path);
          await new Promise((done) => setTimeout(done, next?.delay ?? 0));
          if (next === null) throw new TypeError("gone");
          return { ok: !next.error, status: next.error ? 500 : 200, json: async () => next };
        };
        """,
        list(answers),
    )


def hit(id, **fields):
    """A hit as the server sends it."""
    text = fields.get("text", "A lamp.")
    span = {"start": 0, "end": len(text), "mass": 0.1, "text": text, "field": "text"}
    rest = {"title": id, "start": 0, "end": len(text), "length": len(text), "metadata": {}, "first_rank": 1}
    scores = {"rank": 1, "score": -1.0, "relevance": 0.5, "first_score": 1.0, "mass": 0.1}
    return {"id": id, "text": text, **rest, **scores, "evidence": [span] if text else [], **fields}


def found(*hits, **fields):
    rest = {"query": "x", "passages": 40, "reranker": "minilm", "truncated": 0, "warnings": []}
    return {"hits": list(hits), **rest, **fields}


def titles(page):
    return [title.text for title in page.all(".hit h2")]


def test_back_and_forward_go_through_the_searches(page):
    page.ask("who barks at strangers")
    page.ask("what sound do happy cats make")
    assert page.browser.title == "what sound do happy cats make – Sightline"
    page.element("#filter").send_keys("lang=it", Keys.ENTER)
    page.until(lambda: titles(page) == ["Towns"])
    page.browser.back()
    page.until(lambda: titles(page)[0] == "Cats" and not page.all(".chip"))
    page.browser.back()
    page.until(lambda: titles(page)[0] == "Dogs")
    assert page.element("#query").get_attribute("value") == "who barks at strangers"
    page.browser.back()
    page.until(lambda: page.element("#hint").is_displayed() and not page.all(".hit"))
    page.browser.forward()
    page.until(lambda: titles(page)[0] == "Dogs")


def test_what_is_typed_in_one_go_is_one_place_to_go_back_to(page):
    page.ask("who barks at strangers")
    for part in ("smoke over", " the volcano"):
        page.browser.execute_script("document.getElementById('query').select()" if part[0] != " " else "")
        page.element("#query").send_keys(part)
        page.until(lambda part=part: part.split()[-1] in page.browser.current_url)
    page.until(lambda: titles(page)[0] == "Towns")
    page.browser.back()
    page.until(lambda: titles(page)[0] == "Dogs")


def test_words_can_be_marked_in_place_of_sentences(page, expected):
    query = "what sound do happy cats make"
    page.ask(query)
    page.element("#grain").click()
    page.until(lambda: "marks=words" in page.browser.current_url and "Cats" in [m.text for m in page.all("mark")])
    excerpt = page.element(".hit .excerpt")
    assert excerpt.text == DOCUMENTS[0].text
    best = next(hit for hit in expected(query, "token") if hit.id == "cat")
    most = max(span.mass for span in best.evidence)
    words = {s.start: (s.text, pytest.approx(s.mass / most, abs=0.001)) for s in best.evidence if s.field == "text"}
    marks = excerpt.find_elements(By.CSS_SELECTOR, "mark")
    shown = {int(mark.get_attribute("data-start")): (mark.text, page.heat(mark)) for mark in marks}
    assert shown == {start: words[start] for start in shown}
    assert set(shown) == {s.start for s in best.evidence if s.field == "text" and s.mass / most > 0.1}
    page.browser.refresh()
    page.until(lambda: page.all(".hit mark"))
    assert page.element("#grain").get_attribute("aria-pressed") == "true"
    page.element("#grain").click()
    page.until(lambda: "Cats purr when they are content." in [mark.text for mark in page.all("mark")])
    assert "marks=" not in page.browser.current_url


def test_a_long_document_is_walked_through_and_closed_where_one_reads(page):
    page.ask("etna volcano smokes")
    page.element(".hit h2 button").click()
    onward, close = page.until(lambda: page.all(".tools button"))
    onward.click()
    here = page.until(lambda: page.element("mark.here"))
    assert here.text == "A volcano called Etna smokes."
    onward.click()
    page.until(lambda: page.element("mark.here").text != here.text)
    page.press("N")
    page.until(lambda: page.element("mark.here").text == here.text)
    close.click()
    page.until(lambda: not page.all(".text[data-whole]"))
    top = page.browser.execute_script("return document.querySelector('.hit').getBoundingClientRect().top")
    assert 0 <= top < 900 and not page.all(".tools")


def test_a_document_with_many_passages_leaves_room_for_others(page):
    crowd = [hit("long") for _ in range(40)]
    stub(page, found(*crowd), found(*crowd, *(hit(f"other {i}") for i in range(12))))
    page.element("#query").send_keys("lamp", Keys.ENTER)
    page.until(lambda: len(page.all(".hit")) == 10)
    assert [request["k"] for request in page.browser.execute_script("return asked")] == [40, 160]
    assert page.element("#more").is_displayed()


def test_more_results_leave_an_open_document_open(page):
    hits = [hit(f"document {i}") for i in range(25)]
    stub(page, found(*hits))
    page.element("#query").send_keys("lamp", Keys.ENTER)
    page.until(lambda: len(page.all(".hit")) == 10)
    stub(page, {"id": "document 3", "title": "", "text": "A lamp. And more.", "metadata": {}})
    page.all(".hit h2 button")[3].click()
    page.until(lambda: page.all(".text[data-whole]"))
    stub(page, found(*hits))
    page.element("#more").click()
    page.until(lambda: len(page.all(".hit")) == 20)
    assert page.element(".text[data-whole]").text == "A lamp. And more."
    assert page.current() == [10]  # the first new one, so that keys go on from there


def test_a_slow_answer_is_waited_for_in_words(page):
    stub(page, {**found(hit("slow")), "delay": 900})
    page.element("#query").send_keys("lamp", Keys.ENTER)
    page.until(lambda: page.element("#status").text == "Searching…")
    page.until(lambda: titles(page) == ["slow"] and page.element("#status").text.startswith("40 passages"))


def test_a_server_that_is_back_is_found(page):
    stub(page, None)
    page.browser.execute_script("health = null")
    page.element("#query").send_keys("lamp", Keys.ENTER)
    page.until(lambda: "cannot be reached" in page.element("#message").text)
    stub(page, {"evidence": False}, found(hit("back")))
    page.element("#query").send_keys(Keys.ENTER)
    page.until(lambda: titles(page) == ["back"] and not page.element("#message").is_displayed())


def test_an_error_is_seen_wherever_one_has_scrolled_to(page):
    stub(page, found(*(hit(f"document {i}") for i in range(10))))
    page.element("#query").send_keys("lamp", Keys.ENTER)
    page.until(lambda: len(page.all(".hit")) == 10)
    stub(page, {"error": {"message": "there is no document 'document 9'"}})
    page.all(".hit h2 button")[9].click()
    page.until(lambda: page.element("#message").text == "there is no document 'document 9'")
    place = page.browser.execute_script("return document.getElementById('message').getBoundingClientRect().top")
    assert 0 <= place < 100 and page.browser.execute_script("return scrollY") > 0
    assert page.all(".hit h2 button")[9].get_attribute("aria-expanded") == "false"


@pytest.mark.parametrize(
    ("relevance", "warned"), [([0.004, 0.003], True), ([0.3, 0.001], False), ([None], False), ([], False)]
)
def test_results_that_answer_nothing_come_with_a_warning(page, relevance, warned):
    hits = [hit(f"document {i}", relevance=p) for i, p in enumerate(relevance)]
    stub(page, found(*({k: v for k, v in one.items() if v is not None} for one in hits)))
    page.element("#query").send_keys("zzz", Keys.ENTER)
    page.until(lambda: len(page.all(".hit")) == len(hits) and "busy" not in page.element("body").get_attribute("class"))
    said = "The best relevance is 0.4%: these documents probably do not answer your question."
    assert page.element("#notes").text == (said if warned else "")


def test_texts_of_all_kinds_are_laid_out(page):
    hebrew, code = "המגדלור והשומר", "def light(lamp):\n    lamp.on()"
    long = "Donaudampfschifffahrtsgesellschaft" * 12
    hits = [hit(hebrew, text=hebrew), hit("code", text=code), hit("empty", text=""), hit("id only", title="")]
    hits += [hit("words", text="lamps and more " * 99, evidence=[])]
    hits += [hit(long, text=f"{long}.", metadata={long: long, "nested": {"a": 1}}, first_rank=1234)]
    stub(page, found(*hits))
    page.element("#query").send_keys(hebrew, Keys.ENTER)
    page.until(lambda: len(page.all(".hit")) == 6)
    assert titles(page) == [hebrew, "code", "empty", "id only", "words", long]
    cut = page.all(".excerpt")[4].text
    assert 400 < len(cut) < 500 and cut.split()[-2] in ("lamps", "and", "more") and cut.endswith(" …")
    rtl = "return [...document.querySelectorAll(arguments[0])].map((e) => getComputedStyle(e).direction)"
    for selector in ("h2", ".excerpt"):
        assert page.browser.execute_script(rtl, f".hit {selector}") == ["rtl", *5 * ["ltr"]]
    assert page.browser.execute_script(rtl, "#query") == ["rtl"]
    assert page.browser.execute_script("return document.documentElement.scrollWidth") <= 1200
    stub(page, {"id": "code", "title": "", "text": code, "metadata": {}})
    page.all(".hit h2 button")[1].click()
    assert page.until(lambda: page.element(".text[data-whole]")).text == code  # with its indentation


def test_everything_has_a_name_and_a_place(page):
    page.ask("what sound do happy cats make")
    page.element(".hit h2 button").click()
    page.until(lambda: page.all(".tools"))
    for element in page.all("button, input, summary, ol, [role=group]"):
        assert not element.is_displayed() or element.accessible_name, element.get_attribute("outerHTML")
    assert [len(page.all(one)) for one in ("h1", "main", "header", "form[role=search]")] == [1, 1, 1, 1]
    levels = page.browser.execute_script(
        "return [...document.querySelectorAll('h1, h2, h3, h4')].map((heading) => heading.tagName)"
    )
    assert levels == ["H1", *4 * ["H2"]]


def test_tab_goes_from_the_question_to_the_answers(page):
    page.ask("what sound do happy cats make")
    page.element("#query").click()
    order = []
    for _ in range(6):
        page.press(Keys.TAB)
        focused = page.browser.switch_to.active_element
        order.append(focused.accessible_name)
    assert order == [
        "Clear the query",
        "Filter by metadata",
        "Mark words",
        "What do the numbers mean?",
        "Cats",
        "lang: en",
    ]
    assert page.current() == [0]


def test_the_picture_of_the_documentation_ends_below_a_result(browser, address):
    image = pytest.importorskip("PIL.Image", reason="needs Pillow")
    shots = []
    for dark in (False, True):
        png = search_page(browser, address, "what sound do happy cats make", dark=dark, results=2)
        shots.append(image.open(io.BytesIO(png)).convert("RGB"))
    assert shots[0].size == shots[1].size and shots[0].width == 2 * 960 and 800 < shots[0].height < 1600
    light, dark = (sum(shot.getpixel((5, shot.height - 5))) for shot in shots)
    assert light > 600 > 200 > dark
    with pytest.raises(InputError, match="fewer than 9 results"):
        search_page(browser, address, "cats", results=9, seconds=1)
