"""Print predictions and hits as tables, JSON, JSON Lines and CSV."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from vitrine.commands.session import Format, counted

if TYPE_CHECKING:
    from vitrine.retrieval.index import Hit, SearchResult

UNBOUNDED = 10_000
"""Line width if no limit is known: output to a file or a pipe is never truncated."""

LEAST_WHY = 24
"""Least width of the reasons of a hit next to its path, in characters; with less room, they go below it."""

PLAIN: dict[str, Any] = {"box": None, "pad_edge": False}
PREDICTION_COLUMNS = (
    "image_path", "answer", "refused", "novelty", "task", "certainty", "rank", "label", "probability", "model",
    "backend",
)  # fmt: skip
HIT_COLUMNS = (
    "image_path", "file", "instance_id", "row", "score", "is_match", "similarity", "matches",
)  # fmt: skip


def width() -> int:
    """Return the width of the terminal, or the value of COLUMNS; without either, there is no limit."""
    return Console().width if sys.stdout.isatty() or os.environ.get("COLUMNS") else UNBOUNDED


def show(renderable: RenderableType, at_least: int = 0) -> None:
    """Print a table or a text without Rich's trailing spaces."""
    console = Console(width=max(width(), at_least), highlight=False)
    if console.is_terminal:
        console.print(renderable)
        return
    with console.capture() as capture:
        console.print(renderable)
    print("\n".join(line.rstrip() for line in capture.get().splitlines()))


def abbreviate(text: str, length: int) -> str:
    """Shorten a text in its middle, as both ends of a metric's name are informative."""
    if len(text) <= length:
        return text
    head = max(length - 1, 1) // 2
    return f"{text[:head]}…{text[len(text) - max(length - 1 - head, 0) :]}"


def print_json(document: Any) -> None:
    print(json.dumps(document, indent=2, ensure_ascii=False))


def print_json_lines(records: Iterable[Mapping[str, Any]]) -> None:
    for record in records:
        print(json.dumps(record, ensure_ascii=False), flush=True)


def print_csv(rows: Iterable[Mapping[str, Any]], columns: Sequence[str], header: bool = True) -> None:
    writer = csv.DictWriter(sys.stdout, columns, lineterminator="\n")
    if header:
        writer.writeheader()
    writer.writerows(rows)


# -- predictions --------------------------------------------------------------------------------------------------


def print_answers(records: Sequence[Mapping[str, Any]], layout: Format, first: bool) -> None:
    """Print a batch of prediction records as a table, as JSON Lines or as CSV.

    Args:
        first: whether this is the first batch, which starts with a header (CSV) or without an empty line (table).
    """
    if layout is Format.csv:
        print_csv([row for record in records for row in _label_rows(record)], PREDICTION_COLUMNS, first)
    elif layout is Format.jsonl:
        print_json_lines(records)
    else:
        for number, record in enumerate(records):
            if number or not first:
                print()
            _print_answer(record)


def _label_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    known = {name: record[name] for name in ("image_path", "answer", "model", "backend")}
    novelty = record["novelty"] or {}
    known |= {"refused": novelty.get("refused"), "novelty": novelty.get("score")}
    return [
        {**known, "task": task, "certainty": prediction["certainty"], "rank": rank, **label}
        for task, prediction in record["tasks"].items()
        for rank, label in enumerate(prediction["labels"], start=1)
    ]


def _print_answer(record: Mapping[str, Any]) -> None:
    from vitrine.inference.wording import explanation
    from vitrine.labels import display_name

    Console(soft_wrap=True).print(record["image_path"], style="dim", markup=False, highlight=False)
    show(_indented(Text(record["answer"], style="bold"), 2))
    show(_indented(Text(explanation(record)), 2))
    if "clip" in record:
        from vitrine.inference.video import clip_sentence

        show(_indented(Text(clip_sentence(record["clip"])), 2))
    table = Table(show_header=False, **PLAIN)
    for task, prediction in record["tasks"].items():
        best, *others = (f"{display_name(label['label'])} {label['probability']:.0%}" for label in prediction["labels"])
        table.add_row(display_name(task), best, Text(", ".join(others), style="dim"))
    show(_indented(table, 4))


def _indented(renderable: RenderableType, num: int) -> Padding:
    return Padding(renderable, (0, 0, 0, num), expand=False)


# -- hits ---------------------------------------------------------------------------------------------------------


def print_result(result: SearchResult, files: Sequence[str | None], sought: str, noun: str, layout: Format) -> None:
    """Print hits; before a table, print the number of matches.

    Args:
        files: path of each hit's photograph from the working folder; None if it is missing.
        sought: description of the query.
        noun: `photograph`, or `item` if the search was by item.
    """
    rows = [
        {
            **{name: getattr(hit, name) for name in HIT_COLUMNS if name not in ("file", "matches")},
            "file": file,
            "score": round(hit.score, 6),
            "similarity": None if hit.similarity is None else round(hit.similarity, 6),
            "matches": "; ".join(f"{'' if m.wanted else 'not '}{m.label} {m.probability:.4f}" for m in hit.matches),
        }
        for hit, file in zip(result.hits, files, strict=True)
    ]
    if layout is Format.csv:
        print_csv(rows, HIT_COLUMNS)
    elif result.hits:
        verb = "matches" if result.num_matches == 1 else "match"
        sentence = f"{counted(result.num_matches, noun)} {verb} {sought}."
        show(Text(sentence if result.num_matches else "No confident match; closest:"))
        _print_hits(result.hits, [file or hit.image_path for hit, file in zip(result.hits, files, strict=True)])


def _print_hits(hits: Sequence[Hit], paths: Sequence[str]) -> None:
    """Print a table that never truncates paths, so that they can be copied; reasons go below if they do not fit."""
    reasons = [", ".join(_reasons(hit)) for hit in hits]
    longest = max(map(len, paths))
    others = len("match  score  ") + 2
    below = width() - others - longest < min(LEAST_WHY, max(map(len, reasons)))
    table = Table("match", "score", Column("photograph", no_wrap=not below, min_width=longest), **PLAIN)
    if not below:
        table.add_column("why")
    for hit, path, why in zip(hits, paths, reasons, strict=True):
        cells = [f"{path}\n  {why}"] if below else [path, why]
        table.add_row("yes" if hit.is_match else "", f"{hit.score:.3f}", *map(Text, cells))
    show(table, at_least=others + longest)


def _reasons(hit: Hit) -> list[str]:
    from vitrine.labels import display_name

    why = [f"{'' if m.wanted else 'not '}{display_name(m.label)} {m.probability:.0%}" for m in hit.matches]
    return why if hit.similarity is None else [*why, f"similarity {hit.similarity:.0%}"]
