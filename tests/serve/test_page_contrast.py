"""The search page's colours: every text can be read on what it stands on, in light and in dark."""

import itertools
import re
from importlib import resources

import pytest

PAGE = resources.files("sightline.serve").joinpath("page.html").read_text(encoding="utf-8")
THEMES = {"light": r":root \{(.*?)\}", "dark": r':root\[data-theme="dark"\] \{(.*?)\}'}
TEXT = 4.5  # WCAG 2.2, 1.4.3
GRAPHICS = 3.0  # 1.4.11


def colours(theme):
    block = re.search(THEMES[theme], PAGE, re.DOTALL)[1]
    pairs = dict(re.findall(r"--([a-z]+): (#[0-9a-f]{6}|\d+%)", block))
    found = {n: [int(v[i : i + 2], 16) / 255 for i in (1, 3, 5)] for n, v in pairs.items() if v[0] == "#"}
    return found, int(pairs["most"].rstrip("%")) / 100


def over(paint, share, ground):
    return [share * a + (1 - share) * b for a, b in zip(paint, ground, strict=True)]


def contrast(a, b):
    def luminance(colour):
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", THEMES)
def test_text_can_be_read(theme):
    c, most = colours(theme)
    for ground in ("paper", "raised"):
        for text in ("ink", "soft", "bad", "up", "down"):
            assert contrast(c[text], c[ground]) >= TEXT, (text, ground)
    assert contrast(c["ink"], over(c["heat"], most, c["paper"])) >= TEXT  # on the strongest highlight
    assert contrast(c["focus"], c["paper"]) >= GRAPHICS


@pytest.mark.parametrize("theme", THEMES)
def test_highlights_can_be_told_apart(theme):
    c, most = colours(theme)
    strengths = [contrast(over(c["heat"], share * most, c["paper"]), c["paper"]) for share in (0, 0.25, 0.5, 1)]
    assert all(b / a > 1.05 for a, b in itertools.pairwise(strengths)), strengths
    assert contrast(c["heat"], c["line"]) > 1.5  # of the strip, on its ground


def test_no_text_is_made_fainter_than_its_colour():
    rules = re.findall(r"([^{}\n]+)\{([^{}]*)\}", re.search(r"<style>(.*?)</style>", PAGE, re.DOTALL)[1])
    faint = [s.strip() for s, body in rules if re.search(r"(?<!-)opacity: (0?\.\d|0)", body)]
    assert faint == ["#wait", ".busy #results", "from"]
