"""Shared by all commands: the project, the working folder, verbosity, and error handling."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from typer.core import TyperGroup

from vitrine.errors import VitrineError

if TYPE_CHECKING:
    from vitrine.inference.predictor import Predictor

PARAMS = "params.yaml"
MAIN_PIPELINE = re.compile(r"^serving:", re.MULTILINE)
"""A section of the project's params.yaml, which those of the pipelines in its subfolders do not have."""


class ProjectError(VitrineError):
    """A folder is not a project, or a path is not of the kind that a command needs."""


@dataclass
class Session:
    """State of one run of the command.

    Attributes:
        here: the working folder; paths that the user types are relative to it
        project: current folder of the process while a command runs
        as_records: errors are printed as JSON, one per line
    """

    here: Path
    project: Path
    quiet: bool = False
    verbose: bool = False
    as_records: bool = False

    def from_here(self, path: Path | str) -> Path:
        """Convert a path typed by the user to one that opens from the project."""
        return Path(path) if self.here == self.project else self.here / path

    def to_here(self, path: Path) -> str:
        """Convert a path of the project to one that opens from the working folder."""
        return str(path) if self.here == self.project or path.is_absolute() else os.path.relpath(path, self.here)

    def in_project(self, path: Path | str) -> Path:
        """Return a path typed by the user relative to the project if it is inside, else absolute."""
        absolute = Path(os.path.abspath(self.here / path))
        return absolute.relative_to(self.project) if absolute.is_relative_to(self.project) else absolute


_session = Session(Path(), Path())


def session() -> Session:
    """Return the state of the running command."""
    return _session


@contextmanager
def open_session(folder: Path | None) -> Iterator[Session]:
    """Make a project the current folder while a command runs.

    Args:
        folder: the project's folder; without it, the nearest one at or above the current folder.

    Raises:
        ProjectError: the given folder does not contain params.yaml.
    """
    global _session
    here = Path.cwd()
    _session = Session(here, here)
    if folder is None:
        project = next((each for each in (here, *here.parents) if _is_project(each)), here)
    elif not (folder / PARAMS).is_file():
        raise ProjectError(f"{folder}: does not contain {PARAMS}. Choose the folder of a project")
    else:
        project = folder.resolve()
    _session = Session(here, project)
    with chdir(project):
        yield _session


def _is_project(folder: Path) -> bool:
    try:
        return bool(MAIN_PIPELINE.search((folder / PARAMS).read_text(encoding="utf-8")))
    except (OSError, UnicodeDecodeError):
        return False


# -- messages -----------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """Print a note on standard error, unless the user wants quiet."""
    if not _session.quiet:
        Console(stderr=True, soft_wrap=True).print(text, markup=False, highlight=False)


def say_more(text: str) -> None:
    """Print a note on standard error if the user wants details."""
    if _session.verbose:
        say(text)


def skip(name: str, fault: str) -> None:
    """Report a file that cannot be read on standard error."""
    _complain(f"Skipped {name}: {fault}", {"error": fault, "image_path": name})


def fail(error: Exception) -> typer.Exit:
    """Print an error's message, and return an exit with code 2."""
    message = str(error)
    if isinstance(error, OSError) and error.strerror:
        message = ": ".join(part for part in (_names(error), error.strerror) if part)
    has_paths = isinstance(error, (VitrineError, OSError)) and not isinstance(error, ProjectError)
    if has_paths and not message.startswith(os.sep):
        message += _where()
    if _session.verbose:
        traceback.print_exception(error)
    _complain(f"ERROR: {message}", {"error": message, "image_path": None})
    return typer.Exit(2)


def _where() -> str:
    """Return a note on the folder that paths in a message are relative to, unless it is the working folder."""
    if _session.here != _session.project:
        return f" (in the project {_session.project})"
    is_project = (_session.project / PARAMS).is_file()
    return "" if is_project else " (this is not a project; choose one with --project DIR)"


def _names(error: OSError) -> str:
    return " and ".join(str(name) for name in (error.filename, error.filename2) if name is not None)


def _complain(text: str, record: dict[str, Any]) -> None:
    if _session.as_records:
        print(json.dumps(record, ensure_ascii=False), file=sys.stderr)
    else:
        Console(stderr=True, soft_wrap=True).print(text, style="red", markup=False, highlight=False)


class Commands(TyperGroup):
    """Command group that prints only the message of errors of the project or the file system."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except VitrineError as error:
            raise fail(error) from None
        except (OSError, UnicodeError) as error:
            if getattr(error, "errno", None) == errno.EPIPE:  # the reader has closed the pipe
                raise
            raise fail(error) from None


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun, such as "1 photograph" or "3 classes"."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


# -- options ------------------------------------------------------------------------------------------------------


class Format(StrEnum):
    """How predictions and hits are printed."""

    table = "table"
    json = "json"
    jsonl = "jsonl"
    csv = "csv"


def _set_quiet(wanted: bool) -> bool:
    _session.quiet |= wanted
    return wanted


def _set_verbose(wanted: bool) -> bool:
    _session.verbose |= wanted
    return wanted


def _set_format(chosen: Format) -> Format:
    _session.as_records = chosen in (Format.json, Format.jsonl)
    return chosen


APP: dict[str, Any] = {
    "no_args_is_help": True,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"]},
}
Quiet = Annotated[
    bool,
    typer.Option("--quiet", "-q", callback=_set_quiet, help="Print results and errors only, no notes."),
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", callback=_set_verbose, help="Report what is loaded, and print tracebacks."),
]
OutputFormat = Annotated[
    Format, typer.Option("--format", callback=_set_format, help="Output format; docs/schema.json describes the JSON.")
]
Model = Annotated[str, typer.Option(help="efficientnet, deit, mobilevit or ensemble: a system built by `dvc repro`.")]
IndexFolder = Annotated[Path | None, typer.Option("--index", help="Folder of the index. Default: index/MODEL.")]


def load_predictor(model: str) -> Predictor:
    from vitrine.inference.predictor import Predictor
    from vitrine.inference.runtimes import ServingParams
    from vitrine.params import read_section

    predictor = Predictor.load(model, backend=read_section("serving", ServingParams).backend)
    say_more(f"Project {_session.project}, model {predictor.name}, computed with {predictor.runtime.name}.")
    return predictor
