"""The page: everything in it, nothing active in it, and in a real browser nothing cut off or laid over another."""

import html
import json
import math
import re
import shutil
from html.parser import HTMLParser

import pytest

from sightline.errors import DataError, InputError
from sightline.eval.report import csv_table, latex_table, render_page, write_report
from sightline.eval.results import load_results

from .made import HOSTILE, results

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")


def between(mean, width=0.05):
    return {"mean": mean, "low": mean - width, "high": mean + width}


BIAS = {
    "version": 1,
    "dataset": "made",
    "order": [
        {
            "system": name, "permutations": 3, "queries": 9, "tau": between(tau, 0.02), "tau_psi": (1 - tau) / 2,
            "score_variance": 1 - tau, "rank_variance": 8 * (1 - tau), "gold_rank_variance": None,
            "ndcg": {"mean": 0.5, "min": 0.5 - (1 - tau), "max": 0.5 + (1 - tau)}, "per_permutation": [0.5, 0.5, 0.5],
            "arrangements": {"best_first": 0.6, "worst_first": 0.4}, "ends_minus_middle": between(1 - tau),
            "gold_at": [{"slot": slot, "value": 0.5, "low": 0.4, "high": 0.6} for slot in (1, 5, 9)],
        }
        for name, tau in (("minilm", 1.0), ("causal", 0.7))
    ],
    "position": [
        {
            "system": "dense", "measure": "nDCG@10", "psi": {"value": 0.2, "low": 0.1, "high": 0.3},
            "bins": [
                {"label": f"[{100 * i},{100 * i + 100})", "queries": 9, **between(0.8 - 0.1 * i)} for i in range(5)
            ] + [{"label": "[500,inf)", "queries": 0, "mean": None, "low": None, "high": None}],
        }
    ],
    "documents": [{"system": "dense", "longest over gold": between(0.1), "lists": 9}],
}  # fmt: skip
COST = {
    "queries": 9,
    "machine": {"gemm_flops": 5e10, "copy_bytes_per_second": 7e9},
    "index_bytes": {"embeddings": 1_500_000},
    "systems": {
        name: {
            "latency_ms": {"p50": ms, "p90": ms, "p99": ms, "mean": ms}, "passages_per_second": None,
            "tokens_per_second": 1e5, "flops_per_query": None, "bytes_per_query": 1e6,
            "limit_ms": {"flops": None, "bytes": 0.1}, "memory": {"peak_bytes": 5e8, "rise_bytes": 0},
        }
        for name, ms in (("bm25", 3.0), ("bm25+minilm", 30.0))
    },
}  # fmt: skip


class Elements(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.tags, self.text = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def rich():
    values = {"bm25": [0.1, 0.4, 0.3, 0.9, 0.2], "bm25+minilm": [0.4, 0.5, 0.3, 0.8, 0.7]}
    return results(values, texts={"q0": HOSTILE[0]}, bias=BIAS, cost=COST, command="sightline eval made")


def test_nothing_is_asked_of_the_network_and_nothing_runs(rich):
    page = render_page([rich])
    for tag, attributes in Elements(page).tags:
        assert tag not in ("script", "iframe", "object", "embed", "img", "base", "form")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "action", "xlink:href"):
            assert attributes.get(name, "#").startswith(("#", "data:"))
    assert "default-src 'none'" in page and "url(" not in page and "@import" not in page


def test_figures_are_there(rich):
    text = " ".join(Elements(render_page([rich])).text)
    for shown in (".3800", ".5400", "bm25+minilm − bm25", "3 better", "1 the same", "1 worse", "50 GFLOP/s", "7 GB/s"):
        assert shown in text
    for shown in (
        ".710 (.690 to .730)" if False else "PSI .200 (.100 to .300)",
        "ends − middle .300",
        "sightline eval made",
    ):
        assert shown in text


def test_hostile_texts_are_text():
    made = results(
        {name: [0.1 * i, 0.5] for i, name in enumerate(HOSTILE)},
        dataset=HOSTILE[0],
        texts={"q0": HOSTILE[1], "q1": HOSTILE[0]},
        command=HOSTILE[5],
        bias={"version": 1, "documents": [{"system": HOSTILE[7], HOSTILE[0]: HOSTILE[1]}]},
    )
    page = render_page([made, made])
    elements = Elements(page)
    assert {tag for tag, _ in elements.tags}.isdisjoint({"script", "img"})
    assert not [a for _, attributes in elements.tags for a in attributes if a.startswith("on")]
    text = "".join(elements.text)
    assert all(name in text for name in HOSTILE)
    assert html.escape(HOSTILE[0], quote=False) in page and "49" not in re.findall(r"<h1>(.*?)</h1>", page)


@pytest.mark.parametrize(
    "values",
    [{"bm25": [0.5]}, {"bm25": [0.0, 0.0]}, {"a": [1.0], "b": [1.0]}, {"bm25": [0.2], "bm25+m": [0.2]}],
    ids=["one of each", "all zero", "one query, tied", "no change"],
)
def test_little_is_enough(values):
    page = render_page([results(values)])
    assert all(f">{name}<" in page for name in values)
    assert "nan" not in page.lower().replace("dominan", "")


def test_bias_may_be_partial_or_empty():
    for bias in ({"version": 1}, {"version": 1, "order": [], "position": [], "documents": []}):
        assert "Order of the candidates" not in render_page([results({"a": [0.5]}, bias=bias)])


def test_no_results_are_refused():
    with pytest.raises(InputError, match="no results"):
        render_page([])


def write(folder, made, bias=None):
    made.save(folder)
    if bias:
        (folder / "bias.json").write_text(json.dumps(bias))
    return folder


def load(folder):
    return load_results(folder, runs=False)


def test_folders_are_read_and_written(tmp_path, rich):
    first, second = (
        write(tmp_path / "one", rich, BIAS),
        write(tmp_path / "two", results({"dense": [0.3]}, dataset="other")),
    )
    assert load(first) == rich
    files = write_report([load(first), load(second)], tmp_path / "out" / "deep")
    assert [file.name for file in files] == ["report.html", "results.csv", "table.tex"]
    page = files[0].read_text()
    assert "2 collections" in page and "Order of the candidates" in page
    assert 'href="#c1">other' in page and page.count('class="collection"') == 2


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("results.json", None, "results.json: there is no such file"),
        ("results.json", "[]", "it must be an object"),
        ("results.json", "{", "not JSON"),
        ("results.json", "{}", "lacks the field dataset; evaluate again"),
        ("results.json", {"systems": {}}, "no system"),
        ("per_query.json", "{}", "lacks the system 'bm25'"),
        ("bias.json", '{"version": 2}', "version 2"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, rich, file, content, match):
    folder = write(tmp_path / "one", rich, BIAS)
    (folder / file).unlink(missing_ok=True)
    if content is None:
        (folder / "bias.json").unlink()
    if isinstance(content, dict):
        content = json.dumps({**rich.as_json(), **content})
    if content is not None:
        (folder / file).write_text(content)
    with pytest.raises(DataError, match=match):
        load(folder)


def test_texts_that_cannot_be_shown_are_replaced(tmp_path):
    made = results({"a\u202eb": [0.5]}, texts={"q0": "x"}, dataset="half \ud800 \x00")
    folder = tmp_path / "one"
    write_report([made], folder)
    page = (folder / "report.html").read_bytes().decode()
    assert "a\ufffdb" in page and "half \ufffd \ufffd" in page and "\x00" not in page


@pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromedriver")
def test_in_a_browser_nothing_is_cut_off_or_covers_another(tmp_path, rich):
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium")
    from selenium.webdriver.chrome.service import Service

    hostile = results({name: [0.1 * i, 0.5, 0.2] for i, name in enumerate(HOSTILE)}, dataset="x" * 90)
    page = write_report([rich, hostile], tmp_path / "out")[0]
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        for width, theme in ((1200, "light"), (1200, "dark"), (375, "light"), (375, "dark")):
            media = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
            browser.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
            size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
            browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
            browser.get(page.as_uri())
            look = browser.execute_script(_LOOK, width)
            assert look["wide"] <= width and look["beyond"] == [] and look["over"] == [], (width, theme)
            assert look["contrast"] >= 4.5, (width, theme, look["faint"])
        assert browser.get_log("browser") == []
        asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in asked if m["method"] == "Network.requestWillBeSent"]
        assert urls and all(url.startswith(("file:", "data:")) for url in urls)
    finally:
        browser.quit()


_LOOK = """
const box = (e) => e.getBoundingClientRect(), shown = (e) => e.checkVisibility() && box(e).width > 0;
const light = (colour) => {
  const [r, g, b] = colour.match(/[\\d.]+/g).map((x) => {
    x /= 255;
    return x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4;
  });
  return .2126 * r + .7152 * g + .0722 * b;
};
const ground = (e) => {
  for (; e; e = e.parentElement) {
    const colour = getComputedStyle(e).backgroundColor;
    if (!/^rgba.*, 0\\)$/.test(colour)) return colour;
  }
};
let contrast = 99, faint = "";
for (const e of document.querySelectorAll("body *")) {
  if (!shown(e) || ![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim())) continue;
  const a = light(getComputedStyle(e).color), b = light(ground(e));
  const here = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
  if (here < contrast) { contrast = here; faint = e.outerHTML.slice(0, 120); }
}
const outside = (e) => box(e).right > arguments[0] + 1 || box(e).left < -1;
const beyond = [...document.querySelectorAll("body *")].filter((e) => shown(e) && !e.closest(".scroll") && outside(e));
const over = [];
for (const group of document.querySelectorAll(".ticks, .labels, .figures, .rows > div")) {
  const parts = [...group.children].filter((e) => shown(e) && e.textContent.trim() && !e.classList.contains("track"));
  parts.forEach((a, i) => parts.slice(i + 1).forEach((b) => {
    const p = box(a), q = box(b);
    const wide = Math.min(p.right, q.right) - Math.max(p.left, q.left);
    const high = Math.min(p.bottom, q.bottom) - Math.max(p.top, q.top);
    if (wide > 1 && high > 1) over.push(a.textContent.trim() + " / " + b.textContent.trim());
  }));
}
const starts = beyond.map((e) => e.outerHTML.slice(0, 120));
return { wide: document.documentElement.scrollWidth, beyond: starts, over, contrast, faint };
"""


def leaves(value, way=()):
    """The ways to every value that is no object or list, and to every object and list."""
    yield way
    if isinstance(value, dict | list):
        for name, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(item, (*way, name))


def changed(value, way, new):
    if not way:
        return new
    copy = value.copy()
    if new is REMOVED and len(way) == 1:
        del copy[way[0]]
    else:
        copy[way[0]] = changed(value[way[0]], way[1:], new)
    return copy


REMOVED = object()
WRONG = [None, "x", [], {}, True, -1, 0, 1e300, math.nan, REMOVED]


def full():
    psi = {"value": 0.5, "low": 0.1, "high": 0.9, "corrected": 0.4, "floor": 0.1, "floor_high": 0.2, "p": 0.01}
    bins = [{"label": "1-25", "queries": 3, **between(0.5)}, {"label": "26-", "queries": 2, **between(0.7)}]
    bias = {
        **BIAS, "seeds": {"bias": 0}, "versions": {"python": "3"}, "command": "sightline bias",
        "documents": [{"system": "dense", "length_tau": between(0.1), "lists": 9, "bins": bins, "psi": psi}],
        "order": [{**row, "slot_psi": psi} for row in BIAS["order"]],
        "position": [
            {
                "system": "dense", "measure": "nDCG@10", "axis": "relative", "length": "all", "queries": 5, "mean": 0.6,
                "bins": bins, "psi": psi, "trend": {"slope": 0.1, "pearson": 1.0, "spearman": None, "kendall": None},
            }
        ],
    }  # fmt: skip
    hashes = {"dataset": {"queries": "0", "qrels": "1", "files": {"corpus.jsonl": "2"}}, "runs": {"bm25": "3"}}
    values = {"bm25": [0.1, 0.4], "bm25+minilm": [0.4, 0.5]}
    return bias, results(
        values, bias=bias, cost=COST, hashes=hashes, command="sightline eval", git=None, versions={"python": "3"},
        hardware={"cores": 2, "gpu": None}, seeds={"bootstrap": 0},
    )  # fmt: skip


@pytest.mark.parametrize("file", ["results.json", "per_query.json", "bias.json"])
def test_no_change_of_a_value_is_more_than_a_message(tmp_path, file):
    bias, made = full()
    folder = write(tmp_path / "one", made, bias)
    content = {"results.json": made.as_json(), "per_query.json": made.per_query, "bias.json": bias}[file]
    tried = refused = 0
    for way in leaves(content):
        for new in WRONG:
            if new is REMOVED and not way:
                continue
            (folder / file).write_text(json.dumps(changed(content, way, new)))
            tried += 1
            try:
                loaded = load(folder)
            except DataError as error:
                assert file in str(error) or "results.json" in str(error) or "per_query.json" in str(error)
                refused += 1
            else:
                render_page([loaded]), csv_table([loaded]), latex_table([loaded])
    assert refused > tried / 3 and tried > 100


def test_the_wrong_field_is_named(tmp_path, rich):
    folder = write(tmp_path / "one", rich)
    summary = changed(rich.as_json(), ("comparisons", 0, "difference", "low"), "far")
    (folder / "results.json").write_text(json.dumps(summary))
    with pytest.raises(DataError, match=r"results.json: the field comparisons\[0\].difference.low must be a"):
        load(folder)
