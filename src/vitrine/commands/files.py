"""List the photographs given as arguments: files, folders, patterns, and paths on standard input."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Sequence
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from vitrine.commands.session import session

Named = tuple[str, str | None]
"""A file as the user would name it, and its fault, or None if none is known."""


def find_photos(arguments: Sequence[Path], recursive: bool) -> tuple[list[str], list[tuple[str, str]]]:
    """List the files given as arguments, in order and without duplicates.

    A folder stands for all its files, with any suffix, whose names do not start with a dot.

    Args:
        arguments: files, folders, patterns such as `photos/*.jpg`, or `-` for paths on standard input, one per line.
        recursive: include subfolders.

    Returns:
        files as named from the working folder, and (name, fault) of everything that is not a readable file
    """
    found: dict[str, str | None] = {}
    for argument in arguments:
        lines = (
            (os.fsdecode(line).rstrip("\r\n") for line in sys.stdin.buffer) if str(argument) == "-" else [str(argument)]
        )
        for name in lines:
            found.update(_expand(name, recursive) if name.strip() else ())
    files = [name for name, fault in found.items() if fault is None]
    return files, [(name, fault) for name, fault in found.items() if fault is not None]


def file_fault(name: str) -> str | None:
    """Return why a path cannot be a photograph, without reading it; None if no fault is known."""
    return next((fault for _, fault in _check(name, allow_folder=False)), None)


def _expand(name: str, recursive: bool) -> Iterator[Named]:
    if has_magic(name) and not os.path.lexists(session().from_here(name)):
        matches = sorted(glob(name, root_dir=session().here, recursive=True))
        if not matches:
            yield name, "matches no files"
        for match in matches:
            yield from _check(match, allow_folder=True, recursive=recursive)
    else:
        yield from _check(name, allow_folder=True, recursive=recursive)


def _check(name: str, allow_folder: bool, recursive: bool = False) -> Iterator[Named]:
    path = session().from_here(name)
    try:
        name.encode()
        mode = path.stat().st_mode
    except UnicodeEncodeError:
        yield name, "its name is not valid UTF-8; rename it"
    except FileNotFoundError:
        yield name, "is a broken symbolic link" if path.is_symlink() else "not found"
    except (OSError, ValueError) as error:
        yield name, _reason(error)
    else:
        if stat.S_ISDIR(mode):
            yield from _folder(name, recursive) if allow_folder else [(name, "is a folder")]
        elif stat.S_ISREG(mode):
            yield str(Path(name)), None if os.access(path, os.R_OK) else "Permission denied"
        else:
            yield name, "is not a regular file"


def _folder(name: str, recursive: bool) -> Iterator[Named]:
    try:
        with os.scandir(session().from_here(name)) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError as error:
        yield name, _reason(error)
        return
    for entry in listed:
        child = str(Path(name) / entry.name)
        if entry.name.startswith("."):
            continue
        if not _is_folder(entry):
            yield from _check(child, allow_folder=False)
        elif recursive and not entry.is_symlink():
            yield from _folder(child, recursive)


def _is_folder(entry: os.DirEntry[Any]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
