"""Sightline's errors, imported only when they are raised; see the package's docstring."""

from __future__ import annotations

__all__ = ["backend_error", "input_error"]


def input_error(message: str) -> Exception:
    """An `InputError`."""
    from ..errors import InputError

    return InputError(message)


def backend_error(message: str) -> Exception:
    """A `BackendError`."""
    from ..errors import BackendError

    return BackendError(message)
