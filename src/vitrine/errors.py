"""The base class of errors that users can fix, and how scripts exit on them."""

from __future__ import annotations

import sys
from typing import Any


class VitrineError(Exception):
    """Base class of errors whose message says what is wrong, where, and what to do; modules define subclasses."""


def exit_on_error() -> None:
    """Make a script exit on a `VitrineError` with its message and exit code 1, without a traceback."""
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
        if isinstance(error, VitrineError):
            print(f"ERROR: {error}", file=sys.stderr)
        else:
            previous(kind, error, traceback)

    sys.excepthook = hook
