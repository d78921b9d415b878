"""Write an evaluation on external photographs: a page in Markdown and in HTML, its pictures, its numbers."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitrine.artifacts import ArtifactError, write_json, write_text
from vitrine.evaluation.external import MAX_NAMED, ExternalEvaluation, Numbers, SystemResult, TaskResult
from vitrine.evaluation.leakage import Twin
from vitrine.inference.wording import CERTAINTIES
from vitrine.labels import CLASS_TASK, display_name
from vitrine.reporting.external_figures import (
    accuracy_picture,
    mistakes_picture,
    printable,
    reliability_picture,
    surest_mistakes,
)
from vitrine.reporting.html import html_page
from vitrine.reporting.templating import percent, render, with_interval

DEFAULT_FOLDER = Path("report/external")
"""The project's folder for evaluations, each in its own subfolder; git tracks all files that show no photographs."""

NUMBERS_FILE = "evaluation.json"
MAX_LABELS = 30
"""Maximum number of unknown labels that the page names, most frequent first."""

UNRELIABLE = CERTAINTIES["unreliable"]


def write_evaluation(found: ExternalEvaluation, folder: Path) -> None:
    """Write report.md, index.html, evaluation.json and pictures to a folder, all or nothing.

    A new folder appears only when complete. In a folder with an older evaluation, files are replaced once all are made,
    evaluation.json last.

    Raises:
        ArtifactError: the folder holds other files.
    """
    check_folder(folder)
    folder = Path(os.path.abspath(folder))
    folder.parent.mkdir(parents=True, exist_ok=True)
    made = folder.with_name(f".{folder.name}-{secrets.token_hex(8)}")
    made.mkdir()
    try:
        _write_files(found, made)
        if folder.is_dir():
            names = sorted((path.name for path in made.iterdir()), key=lambda name: name == NUMBERS_FILE)
            for name in names:
                os.replace(made / name, folder / name)
            for path in folder.glob("mistakes_*.jpg"):  # of systems that were not evaluated this time
                if path.name not in names:
                    path.unlink()
        else:
            os.replace(made, folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def check_folder(folder: Path) -> None:
    """Check that an evaluation can be written there. Raises: ArtifactError: it is a file or holds other files."""
    if folder.exists() and not folder.is_dir():
        raise ArtifactError(f"{folder}: is a file; choose a new folder")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / NUMBERS_FILE).is_file():
        raise ArtifactError(f"{folder}: contains other files; choose a new folder, or one with an older evaluation")


def _write_files(found: ExternalEvaluation, folder: Path) -> None:
    task = _pictured_task(found)
    accuracy_picture(found, folder / "accuracy.png")
    reliability_picture(found, folder / "reliability.png")
    for name in found.systems:
        if surest_mistakes(found, name, task):
            mistakes_picture(found, name, task, folder / f"mistakes_{name}.jpg")
    text = evaluation_markdown(found)
    write_text(folder / "report.md", text)
    write_text(folder / "index.html", html_page(text, folder))
    write_json(folder / NUMBERS_FILE, found.to_json())


def _pictured_task(found: ExternalEvaluation) -> str:
    return CLASS_TASK if CLASS_TASK in found.tasks else found.tasks[0]


def escaped(name: str) -> str:
    """Escape an external name so that Markdown shows it unchanged; tables escape pipes themselves."""
    text = re.sub(r"([\\`*_{}\[\]<>#!&~$])", r"\\\1", printable(name))
    return re.sub(r"^(\s*\d*)([-+.)])", r"\1\\\2", text)  # where it would start a list


def evaluation_markdown(found: ExternalEvaluation) -> str:
    """Return report.md; addresses of pictures are relative to its folder."""
    first, best = _pictured_task(found), found.systems[found.best_on_val]
    near = found.seen_twins(exact=False)
    return render(
        "external.md.j2",
        name=escaped(found.name),
        found=found,
        best=found.best_on_val,
        task=first,
        result=best.tasks[first],
        shift=best.shift,
        scorecard=_scorecard(best, first),
        overconfidence=gap(best.tasks[first].confidence),
        quality={task: _quality(found, task) for task in found.tasks},
        confidence=_confidence(found),
        honesty_header=_honesty(found)[0],
        honesty=_honesty(found)[1],
        shifts=[_shift(name, system) for name, system in found.systems.items()],
        mistaken=[name for name in found.systems if surest_mistakes(found, name, first)],
        per_label={task: _per_label(found, task) for task in found.tasks},
        labels=_labels(found),
        unknown={task: _counted(labels.unknown) for task, labels in found.labels.items() if labels.unknown},
        renamed={
            task: ", ".join(f"{escaped(a)} is {escaped(b)}" for a, b in labels.renamed.items())
            for task, labels in found.labels.items()
            if labels.renamed
        },
        unused=[escaped(name) for name in found.unused_attributes],
        broken=_named([f"{escaped(path)}: {escaped(fault)}" for path, fault in found.broken]),
        exact=_named([_twin(twin) for twin in found.seen_twins(exact=True)]),
        near=_named([_twin(twin) for twin in near]),
        near_scores=_near_scores(found) if near else [],
        own_test=sum(not twin.is_seen and twin.is_exact for twin in found.twins),
        shared=_named([escaped(item) for item in found.shared_items]),
        unreliable=UNRELIABLE,
    )


def gap(numbers: Numbers, key: str = "overconfidence") -> str:
    """Format how far confidence exceeds accuracy, in points with its interval; empty if it was not measured."""
    value, low, high = (numbers.get(f"{key}{end}") for end in ("", "_ci_low", "_ci_high"))
    if value is None or low is None or high is None:
        return ""
    return f"{100 * value:+.1f} points [{100 * low:+.0f}, {100 * high:+.0f}]"


def _share(value: float | None) -> str:
    return "" if value is None else percent(value)


def _scorecard(system: SystemResult, task: str) -> list[tuple[str, str]]:
    result = system.tasks[task]
    items = f"{result.scores['item_right']} of {result.scores['item_n']}"
    confident = "none"
    if result.confident["n"]:
        confident = f"{_share(result.confident['accuracy'])} of {result.confident['n']}"
    return [
        (f"{display_name(task)} right", with_interval(result.scores, "accuracy")),
        ("items right, views combined", items),
        ("confident answers right", confident),
        ("confidence minus accuracy, points", gap(result.confidence).replace(" points", "")),
        ("far from training", with_interval(system.shift, "far")),
    ]


def _quality(found: ExternalEvaluation, task: str) -> list[list[Any]]:
    rows = []
    for name, system in found.systems.items():
        scores, own = system.tasks[task].scores, system.tasks[task].own_test
        items = f"{scores['item_right']}/{scores['item_n']}, {with_interval(scores, 'item_accuracy')}"
        cells = [with_interval(scores, "accuracy"), items, with_interval(scores, "macro_f1")]
        rows.append([name, *cells, with_interval(own, "accuracy"), scores["n"]])
    majority = found.systems[found.best_on_val].tasks[task].scores
    return [*rows, ["most common label", _share(majority["majority_accuracy"]), "", "", "", majority["n"]]]


def _confidence(found: ExternalEvaluation) -> list[list[Any]]:
    return [
        [
            f"{task}, {name}",
            *(f"{result.calibration[f'{key}_before']:.3f} → {result.calibration[f'{key}_after']:.3f}" for key in KEYS),
            UNRELIABLE if threshold is None else f"{threshold:.2f}",
            _share(result.confident["coverage"]) if threshold is None else with_interval(result.confident, "coverage"),
            result.confident["items"],
            "" if result.confident["accuracy"] is None else with_interval(result.confident, "accuracy"),
        ]
        for task, name, result in _results(found)
        for threshold in (result.confident["threshold"],)
    ]


KEYS = ("nll", "brier", "ece")


def _honesty(found: ExternalEvaluation) -> tuple[list[str], list[list[Any]]]:
    """Return header and rows of the table of confidence and accuracy; unknown labels only if there are any."""
    header = ["task, system", "mean confidence", "accuracy", "confidence minus accuracy", "on own test"]
    rows: list[list[Any]] = [
        [
            f"{task}, {name}",
            _share(result.confidence["mean_confidence"]),
            _share(result.scores["accuracy"]),
            gap(result.confidence),
            gap(result.confidence, "own_test_overconfidence"),
        ]
        for task, name, result in _results(found)
    ]
    if any(result.unknown_labels["n"] for _, _, result in _results(found)):
        header += ["unknown labels", "mean confidence there"]
        for row, (_, _, result) in zip(rows, _results(found), strict=True):
            row += [result.unknown_labels["n"], _share(result.unknown_labels["mean_confidence"])]
    return header, rows


def _results(found: ExternalEvaluation) -> list[tuple[str, str, TaskResult]]:
    return [(task, name, system.tasks[task]) for task in found.tasks for name, system in found.systems.items()]


def _shift(name: str, system: SystemResult) -> list[str]:
    medians = (system.shift["median_cosine"], system.shift["val_median_cosine"])
    return [name, with_interval(system.shift, "far"), *(f"{value:.3f}" for value in medians)]


def _per_label(found: ExternalEvaluation, task: str) -> list[list[Any]]:
    tables = [system.tasks[task].per_label.to_dict("records") for system in found.systems.values()]
    return [
        [escaped(display_name(rows[0]["label"])), rows[0]["n"], *(percent(row["f1"]) for row in rows)]
        for rows in zip(*tables, strict=True)
        if rows[0]["n"] or any(row["precision"] for row in rows)
    ]


def _labels(found: ExternalEvaluation) -> list[list[Any]]:
    return [[task, labels.known, sum(labels.unknown.values()), labels.missing] for task, labels in found.labels.items()]


def _counted(labels: Mapping[str, int]) -> str:
    shown = [f"{escaped(label)} ({num})" for label, num in list(labels.items())[:MAX_LABELS]]
    more = [f"and {len(labels) - MAX_LABELS} more, in {NUMBERS_FILE}"] if len(labels) > MAX_LABELS else []
    return ", ".join([*shown, *more])


def _twin(twin: Twin) -> str:
    bits = f", {twin.distance_bits} bits apart" if not twin.is_exact else ""
    return f"{escaped(twin.image_path)} is {escaped(twin.project_path)} ({twin.split}, {twin.kind}{bits})"


def _named(names: Sequence[str]) -> list[str]:
    more = [f"... and {len(names) - MAX_NAMED} more, in {NUMBERS_FILE}"] if len(names) > MAX_NAMED else []
    return [*names[:MAX_NAMED], *more]


def _near_scores(found: ExternalEvaluation) -> list[list[Any]]:
    return [
        [f"{task}, {name}", result.near_duplicates["n"], with_interval(result.near_duplicates, "accuracy"),
         with_interval(result.scores, "accuracy")]
        for task, name, result in _results(found)
        if result.near_duplicates["n"]
    ]  # fmt: skip
