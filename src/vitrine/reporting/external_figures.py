"""Pictures of an evaluation on external photographs."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import pyplot

from vitrine.artifacts import atomic_path
from vitrine.evaluation.external import ExternalEvaluation
from vitrine.labels import MISSING, display_name
from vitrine.photos import decode_photo
from vitrine.reporting import figures
from vitrine.reporting.figures import COLORS, DPI, FAINT, GridRow, Tile

MAX_MISTAKES = 12
"""Maximum number of photographs in the picture of the surest mistakes."""

TILES_A_ROW = 4
"""Few, so that the picture is readable on a phone."""

MAX_CHARACTERS = 60
"""Maximum length of an external name in a picture or a table; longer ones are truncated."""


def printable(name: str) -> str:
    """Return an external name that is safe to show: one line, no control characters, not too long."""
    text = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    return text if len(text) <= MAX_CHARACTERS else text[: MAX_CHARACTERS - 1] + "…"


def accuracy_picture(found: ExternalEvaluation, path: Path) -> None:
    """Draw the accuracy of every system here and on the project's own test photographs, one panel per task."""
    systems, tasks = list(found.systems), found.tasks
    columns = min(2, len(tasks))
    rows = -(-len(tasks) // columns)
    size = (11, 0.8 + rows * (0.9 + 0.5 * len(systems)))
    figure, grid = pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, sharey=True)
    for axes, task in zip(grid.flat, tasks, strict=False):
        for place, name in enumerate(systems):
            result, color = found.systems[name].tasks[task], COLORS[place % len(COLORS)]
            for scores, offset, face in ((result.scores, -0.14, color), (result.own_test, 0.14, "white")):
                value, low, high = (scores.get(f"accuracy{end}") for end in ("", "_ci_low", "_ci_high"))
                if value is not None and low is not None and high is not None:
                    axes.errorbar(
                        value, place + offset, xerr=[[value - low], [high - value]], fmt="o", color=color,
                        markerfacecolor=face, markersize=7, capsize=3, linewidth=2,
                    )  # fmt: skip
        majority = found.systems[systems[0]].tasks[task].scores["majority_accuracy"]
        axes.axvline(float(majority or 0), color="#7a828c", linestyle=":", linewidth=1.5)
        axes.set(xlim=(0, 1), title=display_name(task), yticks=range(len(systems)), yticklabels=systems)
        axes.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
        axes.grid(axis="x", color=FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
    grid[0, 0].invert_yaxis()
    for axes in grid.flat[len(tasks) :]:
        axes.set_visible(False)
    title = "Accuracy here (filled) and on the project's own test photographs (hollow), 95 % intervals over items;\n"
    title += "dotted: always the most common label of train"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
    pyplot.close(figure)


def reliability_picture(found: ExternalEvaluation, path: Path) -> None:
    """Draw reliability, and accuracy against coverage, of every system and task."""
    reliability, coverage = (
        pd.concat(
            [
                getattr(result, kind).assign(model=name, task=task)
                for name, system in found.systems.items()
                for task, result in system.tasks.items()
            ],
            ignore_index=True,
        )
        for kind in ("reliability", "coverage")
    )
    figures.calibration(reliability, coverage, path)


def surest_mistakes(found: ExternalEvaluation, system: str, task: str) -> list[int]:
    """Return the mistakes that a system is surest of, at most one per item: rows of `photos`, the surest first."""
    probs = found.systems[system].predictions.probs[task]
    codes = found.label_space.encode(found.photos)[task]
    wrong = np.flatnonzero((codes != MISSING) & (probs.argmax(axis=1) != codes))
    wrong = wrong[np.argsort(-probs[wrong].max(axis=1), kind="stable")]
    of_items = found.photos["instance_id"].iloc[wrong]
    return [int(row) for row in wrong[~of_items.duplicated().to_numpy()][:MAX_MISTAKES]]


def mistakes_picture(found: ExternalEvaluation, system: str, task: str, path: Path) -> None:
    """Draw the photographs of `surest_mistakes`, with their labels and predictions."""
    rows, labels = surest_mistakes(found, system, task), found.label_space.labels[task]
    probs = found.systems[system].predictions.probs[task]
    tiles = []
    for row in rows:
        name, best = found.photos["image_path"].iloc[row], int(probs[row].argmax())
        photo = decode_photo(found.folder / name, found.decoding.photo_size_px, found.decoding.max_megapixels)
        lines = [f"{display_name(labels[best])} {100 * probs[row, best]:.0f} %"]
        lines += [f"true: {display_name(found.photos[task].iloc[row])}"]
        tiles.append(Tile(photo, [_plain(line) for line in lines], False))
    grid = [GridRow("", tiles[start : start + TILES_A_ROW]) for start in range(0, len(tiles), TILES_A_ROW)]
    title = f"{system}: most confident mistakes, {display_name(task)}" if tiles else f"{system}: no mistakes"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about letters that the font lacks
        figures.photo_grid(grid, _plain(title), path)


def _plain(text: str) -> str:
    """Return text that matplotlib does not parse as a formula."""
    return re.sub(r"\$", r"\\$", printable(text))
