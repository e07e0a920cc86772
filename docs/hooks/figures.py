"""Fills the measured figures into the pages that show them."""

from sightline.recipes.figures import load_figures
from sightline.recipes.pages import Pages

_pages: list[Pages] = []


def on_pre_build(**_: object) -> None:
    """Load the figures anew before each build."""
    _pages[:] = [Pages(*load_figures())]


def on_page_markdown(markdown: str, **_: object) -> str:
    """Replace the expressions of a page, if it has any."""
    return _pages[0].render(markdown) if "{{" in markdown else markdown
