"""The pictures in the documentation: the search page in light and dark, and a search in the terminal.

    python -m sightline.recipes.pictures docs/images --index demo-out/index

They show what the server and the command really answer, so they need the index that ``make demo`` builds. They also
need selenium, Chromium and its driver; with Pillow the files are a third of the size.
"""

from __future__ import annotations

import base64
import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer
from rich.console import Console
from rich.text import Text

from ..cli.console import print_line
from ..errors import InputError, SightlineError
from ..eval.output import make_folder

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

__all__ = ["chromium", "search_page", "terminal"]

_QUESTION = "get results of futures in the order they finish"
_WIDTH, _RESULTS = 960, 2  # of the page: CSS pixels, and the results that the picture shows
_COLUMNS = 100  # of the terminal


@contextlib.contextmanager
def chromium() -> Iterator[Chrome]:
    """A browser without a window, whose profile is new and is removed.

    Raises:
        SightlineError: if selenium, Chromium or its driver is missing.
    """
    try:
        from selenium.webdriver import Chrome, ChromeOptions
        from selenium.webdriver.chrome.service import Service
    except ModuleNotFoundError as error:
        raise SightlineError("pictures need selenium; install it with: pip install selenium") from error
    binary = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        raise SightlineError("pictures need Chromium and chromedriver; install both, and put them on the PATH")
    options = ChromeOptions()
    options.binary_location = binary
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        for argument in ("headless=new", "no-sandbox", "disable-gpu", "hide-scrollbars", f"user-data-dir={profile}"):
            options.add_argument(f"--{argument}")
        browser = Chrome(options=options, service=Service(driver))
        try:
            yield browser
        finally:
            browser.quit()


def search_page(
    browser: Chrome, address: str, question: str, *, dark: bool = False, results: int = _RESULTS, seconds: float = 60
) -> bytes:
    """Photograph the search page, from its top to the end of the last of some results, at twice its size.

    Args:
        browser: of `chromium`.
        address: where the server is, such as ``http://127.0.0.1:8000``.
        question: what to ask.
        dark: in dark colours.
        results: how many results to show.
        seconds: how long to wait for them.

    Returns:
        A PNG.

    Raises:
        InputError: if the page does not show so many results for the question.
    """
    from selenium.common.exceptions import TimeoutException
    from selenium.webdriver.support.ui import WebDriverWait

    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    still = {"name": "prefers-reduced-motion", "value": "reduce"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme, still]})
    screen = {"width": _WIDTH, "height": 800, "deviceScaleFactor": 2, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    try:
        for _ in range(2):  # the first time, much is still loaded
            browser.get(f"{address}/?q={quote(question)}")
            WebDriverWait(browser, seconds).until(lambda _: _bottom(browser, results))
        browser.execute_script("document.activeElement.blur()")  # a caret blinks
        clip = {"x": 0, "y": 0, "width": _WIDTH, "height": _bottom(browser, results), "scale": 1}
        shot = browser.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    except TimeoutException as error:
        raise InputError(f"{address} shows fewer than {results} results for {question!r}") from error
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    return _smaller(base64.b64decode(shot["data"]))


def _bottom(browser: Chrome, results: int) -> float:
    """Where the last result that is shown ends; 0 if it is not there yet."""
    script = (
        "const hit = document.querySelectorAll('.hit')[arguments[0] - 1];"
        "if (!hit || document.body.classList.contains('busy')) return 0;"
        "return Math.floor(hit.getBoundingClientRect().bottom) - 1;"  # without the line below it
    )
    return float(browser.execute_script(script, results))


def _smaller(png: bytes) -> bytes:
    """The picture with 256 colours, which is enough for text on one ground."""
    try:
        from PIL import Image
    except ModuleNotFoundError:
        return png
    file = io.BytesIO()
    # Rare colours count as much as frequent ones: an arrow stays green.
    few = Image.open(io.BytesIO(png)).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    few.save(file, "PNG", optimize=True)
    return file.getvalue()


def terminal(command: str, output: str) -> str:
    """Draw a terminal in which a command was run.

    Args:
        command: as it was typed.
        output: what it printed, with the codes for colours.

    Returns:
        An SVG that loads nothing from elsewhere.
    """
    screen = Console(record=True, width=_COLUMNS, file=io.StringIO(), highlight=False)
    screen.print(Text(f"$ {command}\n"))
    screen.print(Text.from_ansi(output.rstrip()))
    return re.sub(r"@font-face \{.*?\}\s*", "", screen.export_svg(title="sightline", unique_id="terminal"), flags=re.S)


def _sightline(*arguments: str, folder: Path, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "COLUMNS": str(_COLUMNS), "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    command = [sys.executable, "-m", "sightline", *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, **options)


def draw(
    out: Annotated[Path, typer.Argument(help="A folder for the pictures.")],
    index: Annotated[Path, typer.Option(help="The index of the demo.")],
    question: Annotated[str, typer.Option(help="What to ask.")] = _QUESTION,
) -> None:
    """Write search-page.png, search-page-dark.png and terminal.svg."""
    make_folder(out)
    index = index.resolve()
    folder, name = index.parent.parent, str(index.relative_to(index.parent.parent))  # no other folders are shown
    with _sightline("serve", name, "--port", "0", folder=folder) as server, chromium() as browser:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().partition(" ")[0]
            if not address.startswith("http"):
                raise InputError(f"{index} cannot be served; the reason is above")
            for file, dark in (("search-page.png", False), ("search-page-dark.png", True)):
                (out / file).write_bytes(search_page(browser, address, question, dark=dark))
                print_line(f"wrote {out / file}")
        finally:
            server.terminate()
    arguments = ["search", name, question, "--evidence", "-k", "2"]
    with _sightline(*arguments, folder=folder, stderr=subprocess.DEVNULL) as search:
        output, _ = search.communicate()
    typed = " ".join(f'"{argument}"' if " " in argument else argument for argument in ["sightline", *arguments])
    (out / "terminal.svg").write_text(terminal(typed, output), encoding="utf-8")
    print_line(f"wrote {out / 'terminal.svg'}")


if __name__ == "__main__":
    typer.run(draw)
