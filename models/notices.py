"""What transformers says while it loads a model, and how to have it say less."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

__all__ = ["without_notices"]


@contextlib.contextmanager
def without_notices() -> Iterator[None]:
    """Within the block transformers shows no progress, and warns of no weights that are left out on purpose."""
    from transformers.utils import logging as notices

    level, bars = notices.get_verbosity(), notices.is_progress_bar_enabled()
    notices.set_verbosity_error()
    notices.disable_progress_bar()
    try:
        yield
    finally:
        notices.set_verbosity(level)
        if bars:
            notices.enable_progress_bar()
