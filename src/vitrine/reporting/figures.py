"""All pictures: matplotlib in one place, identical bytes for identical numbers."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from vitrine.artifacts import atomic_path
from vitrine.labels import CLASS_TASK, display_name
from vitrine.predictions import Predictions

matplotlib.use("Agg")
from matplotlib import pyplot
from matplotlib.figure import Figure

DPI = 100
INK = "#22262b"
FAINT = "#d5d9de"
GOOD, BAD = "#0b6e4f", "#b3261e"
# Okabe and Ito's palette, distinguishable with any kind of color blindness, with a darker yellow; then purple and gray.
COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8a800", "#000000", "#7a5195", "#8c8c8c")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.edgecolor": "#7a828c",
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.titleweight": "bold",
    "figure.facecolor": "white",
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
}
pyplot.rcParams.update(STYLE)  # type: ignore[arg-type]


def _save(figure: Figure, path: Path) -> None:
    with atomic_path(path) as temporary:
        if path.suffix == ".jpg":  # photographs: a tenth of the size
            figure.savefig(temporary, format="jpeg", dpi=DPI, pil_kwargs={"quality": 88})
        else:
            figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
    pyplot.close(figure)


def class_by_split(counts: pd.DataFrame, path: Path) -> None:
    """Draw stacked bars of photographs. Columns: class, split, photos, items."""
    table = counts.pivot_table(index="class", columns="split", values="photos", fill_value=0)
    table = table[[split for split in ("train", "val", "test") if split in table]].sort_index(ascending=False)
    items = counts.pivot_table(index="class", columns="split", values="items", fill_value=0).reindex(table.index)
    figure, axes = pyplot.subplots(figsize=(9, 1.6 + 0.38 * len(table)), layout="constrained")
    left = np.zeros(len(table))
    names = [display_name(label) for label in table.index]
    for number, split in enumerate(table.columns):
        values = table[split].to_numpy(dtype=float)
        bars = axes.barh(
            names, values, left=left, color=COLORS[number], label=f"{split}: {int(values.sum())} photographs"
        )
        labels = [f"{int(count)} items" if count > 1 else "1 item" if count == 1 else "" for count in items[split]]
        wide = [
            label if value >= 0.12 * table.sum(axis=1).max() else ""
            for label, value in zip(labels, values, strict=True)
        ]
        axes.bar_label(bars, wide, label_type="center", color="white" if number != 1 else INK, fontsize=9)
        left += values
    axes.set_xlabel("photographs")
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    figure.legend(loc="outside lower center", ncols=3)
    axes.set_title("Photographs and items of every class in each split")
    _save(figure, path)


def training_curves(histories: dict[str, pd.DataFrame], path: Path) -> None:
    """Draw loss and validation macro F1 of several models. Columns as in history.csv."""
    figure, (loss, score) = pyplot.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for number, (name, history) in enumerate(histories.items()):
        color = COLORS[number]
        loss.plot(history["epoch"], history["train_loss"], color=color, label=f"{name}, train")
        loss.plot(history["epoch"], history["val_loss"], color=color, linestyle="--", label=f"{name}, val")
        score.plot(history["epoch"], history["val_macro_f1"], color=color, label=name)
        best = int(np.argmax(history["val_macro_f1"].to_numpy()))
        score.plot(history["epoch"].iloc[best], history["val_macro_f1"].iloc[best], "o", color=color, markersize=7)
    loss.set(
        xlabel="epoch",
        ylabel="weighted loss of all tasks",
        ylim=(0, None),
        title="Loss: a widening gap is overfitting",
    )
    score.set(
        xlabel="epoch", ylabel="macro F1 of the class", ylim=(0, 1), title="Score on val: the dot marks the best epoch"
    )
    for axes in (loss, score):
        axes.grid(axis="y", color=FAINT, linewidth=0.8)
        axes.legend(fontsize=10)
    _save(figure, path)


def accuracies(scores: pd.DataFrame, path: Path) -> None:
    """Draw each system's accuracy with its interval, one panel per task. Columns: model, task, as `scoring.score`."""
    tasks, models = list(dict.fromkeys(scores["task"])), list(dict.fromkeys(scores["model"]))
    columns = min(2, len(tasks))
    rows = -(-len(tasks) // columns)
    size = (11, rows * (0.9 + 0.34 * len(models)))
    figure, grid = pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, sharey=True)
    for axes, task in zip(grid.flat, tasks, strict=False):
        table = scores[scores["task"] == task].set_index("model").loc[models]
        ends = [table["accuracy"] - table["accuracy_ci_low"], table["accuracy_ci_high"] - table["accuracy"]]
        for number, name in enumerate(models):
            color = COLORS[number % len(COLORS)]
            low, high = (float(end[name]) for end in ends)
            value = float(table.loc[name, "accuracy"])
            axes.errorbar(value, name, xerr=[[low], [high]], fmt="o", color=color, markersize=7, capsize=3, linewidth=2)
        axes.axvline(table["majority_accuracy"].iloc[0], color="#7a828c", linestyle=":", linewidth=1.5)
        axes.set(xlim=(0, 1), title=display_name(task))
        axes.xaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
        axes.grid(axis="x", color=FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
    grid[0, 0].invert_yaxis()
    for axes in grid.flat[len(tasks) :]:
        axes.set_visible(False)
    title = "Accuracy on test with 95 % intervals over items; dotted: always the most common label"
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold")
    _save(figure, path)


def calibration(reliability: pd.DataFrame, coverage: pd.DataFrame, path: Path) -> None:
    """Draw reliability above accuracy against coverage, one column per task, one line per model, first two tasks large.

    Args:
        reliability: columns model, task, confidence, accuracy.
        coverage: columns model, task, coverage, accuracy.
    """
    tasks, models = list(dict.fromkeys(reliability["task"])), list(dict.fromkeys(reliability["model"]))
    first, others = tasks[:2], tasks[2:]
    figure = pyplot.figure(figsize=(11, 9.6 + (5.6 if others else 0)), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(9.6, 5.6)) if others else [figure.subfigures(1, 1)]
    for part, shown in zip(parts, (first, others), strict=False):
        grid = part.subplots(2, len(shown), squeeze=False)
        for column, task in enumerate(shown):
            top, bottom = grid[:, column]
            top.plot([0, 1], [0, 1], color=FAINT, linewidth=1.5, zorder=0)
            for number, name in enumerate(models):
                bins, curve = (
                    table[(table["model"] == name) & (table["task"] == task)] for table in (reliability, coverage)
                )
                style: dict[str, Any] = {"color": COLORS[number], "marker": MARKERS[number], "markersize": 6}
                label = name if task == tasks[0] else None
                top.plot(bins["confidence"], bins["accuracy"], label=label, **style)
                bottom.plot(curve["coverage"], curve["accuracy"], color=COLORS[number], linewidth=2)
            top.set(title=f"{display_name(task)}: calibrated on the diagonal", xlabel="confidence")
            bottom.set(title=f"{display_name(task)}: accuracy against coverage", xlabel="share answered")
            for axes in (top, bottom):
                axes.set(xlim=(0, 1), ylim=(0, 1.02))
                axes.grid(color=FAINT, linewidth=0.6)
                axes.set_axisbelow(True)
        grid[0, 0].set_ylabel("accuracy")
        grid[1, 0].set_ylabel("accuracy")
    figure.legend(loc="outside upper center", ncols=len(models))
    _save(figure, path)


def confusion(counts: NDArray[np.int64], labels: Sequence[str], system: str, path: Path) -> None:
    """Draw a confusion matrix, colored by the share of its row, with counts.

    Shape:
        counts: (labels, labels), rows true, columns predicted
    """
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros(counts.shape), where=totals > 0)
    side = max(6.0, 2.6 + 0.52 * len(labels))
    figure, axes = pyplot.subplots(figsize=(side + 1, side), layout="constrained")
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    names = [display_name(label) for label in labels]
    axes.set_xticks(range(len(labels)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(
        range(len(labels)), [f"{name} ({int(total)})" for name, total in zip(names, totals[:, 0], strict=True)]
    )
    for row, column in zip(*np.nonzero(counts), strict=True):
        color = "white" if shares[row, column] > 0.55 else INK
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", color=color, fontsize=10)
    right, total = int(counts.diagonal().sum()), int(counts.sum())
    title = f"{system}: {right} of {total} test photographs have the right class"
    axes.set(xlabel="predicted", ylabel="true (photographs)", title=title)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(len(labels) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(labels) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)
    bar = figure.colorbar(image, ax=axes, shrink=0.5, aspect=18, format=matplotlib.ticker.PercentFormatter(1.0))
    bar.set_label("share of the true class")
    bar.outline.set_visible(False)
    _save(figure, path)


@dataclass(frozen=True)
class Tile:
    """A photograph with lines of text below it; `good` marks it right (True), wrong (False) or neither (None).

    Shape:
        photo: (height, width, channels), uint8
    """

    photo: NDArray[np.uint8]
    lines: Sequence[str]
    good: bool | None = None


@dataclass(frozen=True)
class GridRow:
    """A heading and the photographs below it."""

    heading: str
    tiles: Sequence[Tile]


def photo_grid(rows: Sequence[GridRow], title: str, path: Path) -> None:
    """Draw rows of photographs with headings; color and sign mark them as right or wrong."""
    columns = max([len(row.tiles) for row in rows], default=1)
    lines = max([len(_wrapped(tile)) for row in rows for tile in row.tiles], default=0)
    cell, text, head, top = 1.75, 0.2 * lines + 0.12, 0.36, 0.5
    height = top + sum((head if row.heading else 0.0) + cell + text for row in rows) + 0.1
    width = max(columns * (cell + 0.2) + 0.2, 6.5)
    figure = pyplot.figure(figsize=(width, height))
    figure.text(0.15 / width, 1 - 0.18 / height, title, fontsize=12, fontweight="bold", va="top")
    y = height - top
    for row in rows:
        if row.heading:
            figure.text(0.15 / width, (y - 0.08) / height, row.heading, fontsize=11, va="top", color=INK)
            y -= head
        for column, tile in enumerate(row.tiles):
            x = 0.15 + column * (cell + 0.2)
            axes = figure.add_axes((x / width, (y - cell) / height, cell / width, cell / height))
            axes.imshow(tile.photo, interpolation="lanczos")
            axes.set(xticks=[], yticks=[])
            color = FAINT if tile.good is None else GOOD if tile.good else BAD
            for spine in axes.spines.values():
                spine.set(visible=True, color=color, linewidth=1 if tile.good is None else 2.5)
            sign = "" if tile.good is None else "\u2713 " if tile.good else "\u2717 "
            for number, line in enumerate(_wrapped(tile)):
                shown = (sign if number == 0 else "") + line
                tone = color if number == 0 and tile.good is not None else INK
                figure.text(
                    x / width, (y - cell - 0.08 - 0.2 * number) / height, shown, fontsize=7.6, va="top", color=tone
                )
        y -= cell + text
    _save(figure, path)


def mistake_rows(
    photos: NDArray[np.uint8], predictions: Predictions, confusions: Sequence[tuple[int, int, NDArray[np.int64]]]
) -> list[GridRow]:
    """Make a row of at most six tiles for every pair of confused classes, the surest mistakes first.

    Shape:
        photos: (photos, height, width, channels), indexed like predictions by the confusions' positions
    """
    labels = predictions.label_space.labels[CLASS_TASK]
    confidence = predictions.probs[CLASS_TASK].max(axis=1)
    rows = []
    for true, predicted, mistakes in confusions:
        tiles = [Tile(photos[row], [f"{100 * confidence[row]:.0f} % sure"], False) for row in mistakes[:6]]
        count = f"{len(mistakes)} photograph" + ("s" if len(mistakes) > 1 else "")
        rows.append(
            GridRow(f"{display_name(labels[true])}, mistaken for {display_name(labels[predicted])}: {count}", tiles)
        )
    return rows


def search_rows(found: pd.DataFrame, photos: NDArray[np.uint8]) -> list[GridRow]:
    """Make a row of tiles for every query, marked right if the photograph truly has everything in the query.

    Shape:
        photos: (photos, height, width, channels), indexed by the table's column `row`
    """
    rows = []
    for query, hits in found.groupby("query", sort=False):
        tiles = [
            Tile(
                photos[hit["row"]],
                [f"{hit['score']:.3f}", *str(hit["matches"]).split("; ")[:3]],
                bool(hit["relevant"]),
            )
            for hit in hits.to_dict("records")
        ]
        rows.append(GridRow(f"\u201c{query}\u201d", tiles))
    return rows


def suspect_rows(suspects: pd.DataFrame, photos: NDArray[np.uint8]) -> list[GridRow]:
    """Make rows of six tiles of photographs whose labels look wrong: the label, and what the photograph looks like.

    Shape:
        photos: (photos, height, width, channels), indexed by the table's column `row`
    """
    tiles = [
        Tile(
            photos[suspect["row"]],
            [f"{display_name(suspect['label'])};", "looks like", display_name(suspect["looks_like"])],
        )
        for suspect in suspects.to_dict("records")
    ]
    return [GridRow("", tiles[start : start + 6]) for start in range(0, len(tiles), 6)]


def _wrapped(tile: Tile) -> list[str]:
    """Wrap lines that are wider than their photograph; continuation lines are indented."""
    return [part for line in tile.lines for part in textwrap.wrap(line, 27, subsequent_indent="    ")]


def projection(
    points: NDArray[np.floating[Any]],
    explained: NDArray[np.floating[Any]],
    codes: NDArray[np.int64],
    labels: Sequence[str],
    held_out: NDArray[np.bool_],
    system: str,
    path: Path,
) -> None:
    """Draw embeddings in two dimensions: training photographs faint, the others strong.

    Args:
        explained: share of the variance along each direction.

    Shape:
        points: (photos, 2); explained: (2,); codes, held_out: (photos,)
    """
    figure, axes = pyplot.subplots(figsize=(10, 6), layout="constrained")
    for code, label in enumerate(labels):
        color, marker = COLORS[code % len(COLORS)], MARKERS[code % len(MARKERS)]
        chosen = codes == code
        faint, strong = points[chosen & ~held_out], points[chosen & held_out]
        axes.scatter(faint[:, 0], faint[:, 1], s=14, color=color, marker=marker, alpha=0.22, linewidths=0)
        axes.scatter(
            strong[:, 0],
            strong[:, 1],
            s=46,
            color=color,
            marker=marker,
            edgecolors="white",
            linewidths=0.7,
            label=display_name(label),
        )
    title = f"{system}: two directions explain {explained.sum():.0%} of variance (strong: val and test, faint: train)"
    names = [
        f"{word} principal component ({share:.0%})" for word, share in zip(("first", "second"), explained, strict=True)
    ]
    axes.set(xlabel=names[0], ylabel=names[1], title=title, xticks=[], yticks=[])
    figure.legend(loc="outside right center", fontsize=10)
    _save(figure, path)
