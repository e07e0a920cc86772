"""Optional dependencies, which are imported where they are used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from .errors import BrokenExtraError, MissingExtraError, SightlineError

__all__ = ["importing"]


@contextlib.contextmanager
def importing(*modules: str, extra: str) -> Iterator[None]:
    """Put this around imports of optional dependencies.

    Args:
        modules: the names of the modules that are imported.
        extra: the extra of Sightline that installs them.

    Raises:
        MissingExtraError: if one of the modules is not installed.
        BrokenExtraError: if they are installed, and an import fails, for example for lack of a module that they need.

    Example:
        >>> with importing("a_module_of_nobody", extra="cpu"):
        ...     import a_module_of_nobody
        Traceback (most recent call last):
        ...
        sightline.errors.MissingExtraError: 'a_module_of_nobody' is not installed; install it with: pip install \
'sightline-search[cpu]'
    """
    try:
        yield
    except SightlineError:
        raise
    except Exception as error:  # versions that do not fit also fail with AttributeError, TypeError or OSError
        if isinstance(error, ModuleNotFoundError):
            for module in modules:
                if f"{module}.".startswith(f"{error.name}."):  # it, or a package that it is in
                    raise MissingExtraError(module, extra) from error
        raise BrokenExtraError(" or ".join(map(repr, modules)), extra, error) from error
