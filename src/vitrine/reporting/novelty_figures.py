"""The picture of "none of these": what is refused, and how well every score detects it."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib import pyplot

from vitrine.reporting.figures import COLORS, FAINT, INK, MARKERS, _save

KNOWN = "photographs of the classes"


def refusals(relative: pd.DataFrame, judged: pd.DataFrame, system: str, path: Path) -> None:
    """Draw each photograph's score as a dot, one row per kind, and the AUROC of all scores and systems.

    Args:
        relative: columns kind (KNOWN, or the kind of outlier) and score, divided by the threshold.
        judged: as returned by `evaluation.novelty.judge_scores`, for all kinds together; may be empty.
    """
    kinds = list(dict.fromkeys(relative["kind"]))
    height = 1.5 + max(0.55 * len(kinds), 0.42 * judged["score"].nunique() if len(judged) else 0)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, height), layout="constrained", width_ratios=(6, 5))
    rng = np.random.default_rng(0)
    names = []
    for row, kind in enumerate(kinds):
        scores = relative.loc[relative["kind"] == kind, "score"].to_numpy(dtype=float)
        names.append(f"{kind}: {int((scores > 1).sum())} of {len(scores)} refused")
        color = COLORS[0] if kind == KNOWN else COLORS[5]
        spread = row + rng.uniform(-0.22, 0.22, len(scores))
        left.scatter(scores, spread, s=18, color=color, alpha=0.55, linewidths=0, zorder=2)
    left.axvline(1, color=INK, linestyle=":", linewidth=1.5)
    left.set_yticks(range(len(kinds)), names)
    left.invert_yaxis()
    left.set(xlabel="novelty / threshold; right of the line: none of these", title=f"{system}: what it refuses")
    left.set_xlim(0 if relative["score"].min() >= 0 else None, None)
    left.grid(axis="x", color=FAINT, linewidth=0.8)
    left.set_axisbelow(True)
    systems, scored = (list(dict.fromkeys(judged[name])) if len(judged) else [] for name in ("system", "score"))
    for number, name in enumerate(systems):
        table = judged[judged["system"] == name].set_index("score").loc[scored]
        ends = [table["auroc"] - table["auroc_ci_low"], table["auroc_ci_high"] - table["auroc"]]
        at = np.arange(len(scored)) + 0.17 * (number - (len(systems) - 1) / 2)
        style = {"color": COLORS[number % len(COLORS)], "fmt": MARKERS[number % len(MARKERS)], "markersize": 6}
        right.errorbar(table["auroc"], at, xerr=ends, label=name, capsize=2, linewidth=1.5, **style)
    right.set_yticks(range(len(scored)), [name.replace("_", " ") for name in scored])
    right.invert_yaxis()
    right.axvline(0.5, color="#7a828c", linestyle=":", linewidth=1.5)
    right.set(xlim=(0, 1.01), xlabel="AUROC, 95 % intervals", title="Detection of outliers")
    right.xaxis.set_major_formatter(matplotlib.ticker.FormatStrFormatter("%.2f"))
    right.grid(axis="x", color=FAINT, linewidth=0.8)
    right.set_axisbelow(True)
    if systems:
        right.legend(fontsize=9, loc="lower left")
    _save(figure, path)
