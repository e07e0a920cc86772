"""The picture of a terminal: what it showed, in its colours; nothing is loaded from elsewhere."""

import re
import xml.etree.ElementTree as ElementTree

from sightline.recipes.pictures import terminal


def test_a_terminal_is_drawn_as_it_was():
    output = "\x1b[1m  1  \x1b[0mCats\n     \x1b[1;33mCats purr <when> content.\x1b[0m [73%]\n"
    svg = terminal('sightline search animals "happy cats" --evidence', output)
    texts = [
        re.sub(r"\s", " ", "".join(text.itertext()))
        for text in ElementTree.fromstring(svg).iter()
        if text.tag.endswith("text")
    ]
    assert '$ sightline search animals "happy cats" --evidence' in texts
    assert any("Cats purr <when> content." in text for text in texts)
    styles = dict(re.findall(r"\.terminal-(r\d+) \{ (.*?) \}", svg))
    evidence = re.search(r'class="terminal-(r\d+)"[^>]*>Cats&#160;purr', svg)[1]
    plain = re.search(r'class="terminal-(r\d+)"[^>]*>\$', svg)[1]
    assert "bold" in styles[evidence] and styles[evidence] != styles[plain]
    assert "url(" not in re.sub(r"url\(#", "", svg) and "@font-face" not in svg
