"""The base of all errors that users cause and can mend, and how scripts end on them."""

from __future__ import annotations

import sys
from typing import Any


class VitrineError(Exception):
    """A fault whose message says what is wrong, where, and what to do. Each module that finds faults has its own."""


def exit_on_error() -> None:
    """Let such an error end a script with its message alone, without a traceback, and exit code 1."""
    previous = sys.excepthook

    def hook(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
        if isinstance(error, VitrineError):
            print(f"ERROR: {error}", file=sys.stderr)
        else:
            previous(kind, error, traceback)

    sys.excepthook = hook
