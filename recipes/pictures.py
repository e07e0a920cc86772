"""The pictures of the README: the search page and the terminal, as they are.

    python -m sightline.recipes.pictures docs/images --index demo-out/index

It serves the index on a free port, asks it in a headless Chromium, and exports what ``sightline search`` prints. It
needs the extras ``serve`` and ``dev``, Chromium and ChromeDriver.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote_plus

import typer
from rich.console import Console
from rich.text import Text

from ..errors import SightlineError
from ..eval.output import make_folder

__all__ = ["page_pictures", "terminal_picture"]

QUESTION = "make a temporary directory that goes away when I am done"
"""What is asked in the pictures."""

app = typer.Typer(add_completion=False)
_SIZES = {
    "search-page": (1180, 800, "light"),
    "search-page-dark": (1180, 800, "dark"),
    "search-page-phone": (390, 844, "light"),
}
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--hide-scrollbars",
    "--force-prefers-reduced-motion",
)


@contextlib.contextmanager
def _served(index: Path) -> Iterator[str]:
    """The address of a server over an index."""
    command = [sys.executable, "-m", "sightline", "serve", str(index), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            found = re.match(r"(http://\S+)", server.stdout.readline())
            if found is None:
                raise SightlineError(f"`{' '.join(command[1:])}` did not start; run it to see why")
            yield found[1]
        finally:
            server.terminate()


def page_pictures(index: Path, out: Path, question: str = QUESTION) -> list[Path]:
    """Photograph the search page after a question: wide in light and dark, and as a phone shows it.

    Args:
        index: the index to search.
        out: folder for the PNG files.
        question: what is asked.

    Returns:
        The files.

    Raises:
        SightlineError: if there is no Chromium or no ChromeDriver, or the server does not start.
    """
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service
    from selenium.webdriver.support.ui import WebDriverWait

    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        raise SightlineError("the search page is photographed by Chromium and ChromeDriver; install both")
    made = []
    with _served(index) as address, tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = browser
        for flag in (*_FLAGS, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        chrome: Any = webdriver.Chrome(options=options, service=Service(driver))
        try:
            for name, (width, height, scheme) in _SIZES.items():
                screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
                chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
                media = {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
                chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
                chrome.get(f"{address}/?q={quote_plus(question)}")
                WebDriverWait(chrome, 60, 0.1).until(lambda page: page.find_elements("css selector", ".hit mark"))
                chrome.execute_script("document.activeElement.blur()")
                time.sleep(0.3)  # the page fades in
                path = out / f"{name}.png"
                chrome.save_screenshot(str(path))
                made.append(path)
        finally:
            chrome.quit()
    return made


def terminal_picture(index: Path, out: Path, question: str = QUESTION) -> Path:
    """Draw what ``sightline search`` prints, as SVG.

    Args:
        index: the index to search.
        out: folder for ``terminal.svg``.
        question: what is asked.

    Raises:
        SightlineError: if the search fails.
    """
    arguments = ["search", str(index), question, "--evidence", "-k", "3"]
    colours = {"FORCE_COLOR": "1", "COLUMNS": "100", "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "sightline", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | colours)
    if done.returncode:
        raise SightlineError(f"the search failed: {done.stderr.strip()[-300:]}")
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "dim"), f'sightline search demo-out/index "{question}" --evidence -k 3\n'))
    console.print(Text.from_ansi(done.stdout))
    path = out / "terminal.svg"
    # Without the web fonts that rich names: no request leaves the reader's machine.
    drawn = re.sub(r"@font-face \{.*?\}\s*", "", console.export_svg(title="sightline"), flags=re.DOTALL)
    path.write_text(drawn.replace("Fira Code,", ""), encoding="utf-8")
    return path


@app.command()
def main(
    out: Annotated[Path, typer.Argument(help="Folder for the pictures.")],
    index: Annotated[Path, typer.Option(help="Index to search, such as that of the demo.")] = Path("demo-out/index"),
    question: Annotated[str, typer.Option(help="What is asked.")] = QUESTION,
) -> None:
    """Make the pictures of the README."""
    make_folder(out)
    for path in (terminal_picture(index, out, question), *page_pictures(index, out, question)):
        print(path)  # noqa: T201


if __name__ == "__main__":
    app()
