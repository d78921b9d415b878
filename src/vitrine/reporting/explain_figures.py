"""The picture of heat maps: photographs predicted correctly and incorrectly, by task and system."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import pyplot
from numpy.typing import NDArray

from vitrine.artifacts import atomic_path
from vitrine.inference.heatmaps import colorize, overlay
from vitrine.labels import MISSING, LabelSpace, display_name
from vitrine.reporting.figures import BAD, DPI, FAINT, GOOD, INK

JPEG_QUALITY = 80
CELL, GAP, LEFT, TOP, TEXT, BOTTOM = 1.3, 0.1, 1.62, 0.98, 0.34, 0.42
"""In inches: picture side, gap between pictures, text column, heading, caption below a picture, legend."""


@dataclass(frozen=True)
class Cell:
    """A system's prediction of a photograph. Attributes: heatmap: (height, width), None if it is not shown."""

    label: str
    probability: float
    right: bool
    heatmap: NDArray[np.floating] | None


@dataclass(frozen=True)
class ExampleRow:
    """One photograph and task. Shape: photo: (height, width, channels)."""

    task: str
    label: str
    photo: NDArray[np.uint8]
    cells: Sequence[Cell]


def example_rows(
    photos: NDArray[np.uint8],
    true: Mapping[str, NDArray[np.int64]],
    codes: Mapping[tuple[str, str], NDArray[np.int64]],
    probs: Mapping[tuple[str, str], NDArray[np.floating]],
    maps: Mapping[tuple[str, str], NDArray[np.floating]],
    shown: Mapping[tuple[str, str], bool],
    label_space: LabelSpace,
    judge: str,
) -> list[ExampleRow]:
    """Pick for every task the first photograph that system `judge` predicts correctly, and the first that it does not.

    A photograph is picked twice only if there is no other.

    Shape:
        photos: (photos, height, width, channels); true[task], codes[key], probs[key]: (photos,); maps[key]: (photos,
        height, width)
    """
    systems = list(dict.fromkeys(system for system, _ in codes))
    rows, taken = [], set[int]()
    for task, labels in label_space.labels.items():
        right = codes[judge, task] == true[task]
        for wanted in (True, False):
            matching = np.flatnonzero((right == wanted) & (true[task] != MISSING))
            candidates = [int(row) for row in matching if int(row) not in taken] or [int(row) for row in matching]
            if not candidates:
                continue
            row = candidates[0]
            taken.add(row)
            cells = [
                Cell(
                    labels[codes[system, task][row]],
                    float(probs[system, task][row]),
                    bool(codes[system, task][row] == true[task][row]),
                    maps[system, task][row] if shown[system, task] else None,
                )
                for system in systems
            ]
            rows.append(ExampleRow(task, labels[true[task][row]], photos[row], cells))
    return rows


def heatmap_picture(rows: Sequence[ExampleRow], systems: Sequence[str], path: Path) -> None:
    """Draw a row per photograph: its label, the photograph, and each system's heat map with the label it explains."""
    width = LEFT + (1 + len(systems)) * (CELL + GAP) + 0.1
    height = TOP + len(rows) * (CELL + TEXT) + BOTTOM
    figure = pyplot.figure(figsize=(width, height))

    def write(x: float, y: float, text: str, size: float = 8.5, color: str = INK, weight: str = "normal") -> None:
        figure.text(x / width, y / height, text, fontsize=size, color=color, va="top", fontweight=weight)

    write(0.15, height - 0.14, "Heat maps: bright regions support the label below", 12, INK, "bold")
    for column, name in enumerate(["photograph", *systems]):
        write(LEFT + column * (CELL + GAP), height - TOP + 0.26, name, 9.5, INK, "bold")
    for number, row in enumerate(rows):
        y = height - TOP - number * (CELL + TEXT)
        if not number or rows[number - 1].task != row.task:
            write(0.15, y - 0.02, display_name(row.task).capitalize(), 11, INK, "bold")
        write(0.15, y - 0.3, "labeled", 8, "#5c636b")
        write(0.15, y - 0.46, _fit(display_name(row.label), 21), 8.5)
        for column, picture in enumerate([row.photo, *(_drawn(row.photo, cell) for cell in row.cells)]):
            x = LEFT + column * (CELL + GAP)
            axes = figure.add_axes((x / width, (y - CELL) / height, CELL / width, CELL / height))
            axes.set(xticks=[], yticks=[])
            cell = row.cells[column - 1] if column else None
            if picture is None:
                axes.set_facecolor("#f3f4f6")
                axes.text(0.5, 0.5, "not shown", ha="center", va="center", fontsize=8.5, color="#5c636b")
            else:
                axes.imshow(picture, interpolation="lanczos")
            tone = FAINT if cell is None else GOOD if cell.right else BAD
            for spine in axes.spines.values():
                spine.set(visible=True, color=tone, linewidth=1 if cell is None else 1.6)
            if cell is not None:
                sign = "\u2713" if cell.right else "\u2717"
                caption = f"{sign} {_fit(display_name(cell.label), 15)} {100 * cell.probability:.0f} %"
                write(x, y - CELL - 0.06, caption, 7, tone)
    ramp = figure.add_axes((LEFT / width, 0.2 / height, 2 * CELL / width, 0.1 / height))
    ramp.imshow(colorize(np.linspace(0, 1, 256)[None]), aspect="auto")
    ramp.set(xticks=[], yticks=[])
    write(LEFT - 0.4, 0.32, "none", 8)
    write(LEFT + 2 * CELL + 0.08, 0.32, "most; not shown: does not beat the controls on val", 8)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="jpeg", dpi=DPI, pil_kwargs={"quality": JPEG_QUALITY})
    pyplot.close(figure)


def _drawn(photo: NDArray[np.uint8], cell: Cell) -> NDArray[np.uint8] | None:
    return None if cell.heatmap is None else overlay(photo, cell.heatmap)


def _fit(text: str, length: int) -> str:
    plain = text.replace("$", r"\$")
    return plain if len(text) <= length else f"{plain[: length - 1]}…"
