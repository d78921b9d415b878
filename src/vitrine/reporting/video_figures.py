"""Pictures of clips: what more frames gain, and which frames decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import pyplot
from matplotlib.patches import Rectangle

from vitrine.artifacts import atomic_path
from vitrine.data.video import Clip
from vitrine.labels import CLASS_TASK, display_name
from vitrine.reporting.figures import BAD, COLORS, DPI, FAINT, GOOD, INK, MARKERS

LINES = {"fused": "fused", "fused_all": "fused, nothing dropped", "vote": "majority vote", "single": "one random frame"}


def accuracy_by_frames(curve: pd.DataFrame, path: Path) -> None:
    """Draw the accuracy of the class by number of frames, one panel per system and one line per method.

    Columns: system, task, num_frames, method, accuracy, accuracy_ci_low, accuracy_ci_high.
    """
    shown = curve[curve["task"] == CLASS_TASK]
    systems = list(dict.fromkeys(shown["system"]))
    figure, panels = pyplot.subplots(
        1, len(systems), figsize=(3.3 * len(systems), 4.1), sharey=True, squeeze=False, layout="constrained"
    )
    places = {num: place for place, num in enumerate(sorted(set(shown["num_frames"])))}
    for axes, system in zip(panels[0], systems, strict=True):
        for number, (method, text) in enumerate(LINES.items()):
            line = shown[(shown["system"] == system) & (shown["method"] == method)].sort_values("num_frames")
            x = line["num_frames"].map(places).to_numpy(dtype=float) + 0.08 * (number - 1.5)
            value = line["accuracy"].to_numpy()
            ends = np.stack([value - line["accuracy_ci_low"], line["accuracy_ci_high"] - value])
            axes.errorbar(
                x, value, yerr=ends, label=text, color=COLORS[number], marker=MARKERS[number], markersize=6,
                linewidth=1.8, elinewidth=1, capsize=2,
            )  # fmt: skip
        axes.set(title=system, xlabel="frames", xticks=list(places.values()), xticklabels=list(places))
        axes.grid(axis="y", color=FAINT, linewidth=0.8)
        axes.set_axisbelow(True)
    panels[0][0].yaxis.set_major_formatter(matplotlib.ticker.PercentFormatter(1.0))
    panels[0][0].set_ylabel("accuracy of the class")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(LINES))
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=DPI, metadata={"Software": None})
    pyplot.close(figure)


def contact_sheet(clips: Sequence[tuple[Clip, Mapping[str, Any], str]], path: Path) -> None:
    """Draw the frames of clips, one row per clip: deciding and disagreeing ones boxed, dropped ones faint.

    Args:
        clips: each with its record from `answer_clip` and its true class.
    """
    columns = max(len(clip.seconds) for clip, _, _ in clips)
    figure, grid = pyplot.subplots(
        len(clips), columns, figsize=(13, 0.4 + 1.36 * len(clips)), squeeze=False,
        gridspec_kw={"left": 0.01, "right": 0.99, "top": 1 - 0.42 / (0.4 + 1.36 * len(clips)), "bottom": 0.03,
                     "wspace": 0.06, "hspace": 0.62},
    )  # fmt: skip
    for line, (clip, record, label) in zip(grid, clips, strict=True):
        for axes in line:
            axes.axis("off")
        best = record["tasks"][CLASS_TASK]["labels"][0]
        is_right = best["label"] == label
        title = f"{record['answer']} ({display_name(best['label'])} {best['probability']:.0%})"
        line[0].text(
            0, 1.12, title + ("" if is_right else f", but it is: {display_name(label)}"), transform=line[0].transAxes,
            fontsize=11, fontweight="bold", color=INK if is_right else BAD,
        )  # fmt: skip
        for axes, photo, frame in zip(line, clip.photos, record["clip"]["frames"], strict=False):
            dropped = frame["dropped"]
            axes.imshow(photo, alpha=0.35 if dropped else 1.0)
            color = GOOD if frame["decided"] else BAD if frame["agrees"] is False else INK
            text = dropped or f"{frame['seconds']:.1f} s"
            axes.text(0.5, -0.08, text, transform=axes.transAxes, ha="center", va="top", fontsize=9, color=color)
            if frame["decided"] or frame["agrees"] is False:
                low, high = axes.get_xlim()
                box = Rectangle((low, low), high - low, high - low, fill=False, linewidth=4, edgecolor=color)
                axes.add_patch(box)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="jpeg", dpi=DPI, pil_kwargs={"quality": 80})
    pyplot.close(figure)
