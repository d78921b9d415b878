"""Methods of predicting a clip, by hand; the committed metrics match the committed tables."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lineage import ROOT
from vitrine.artifacts import read_json
from vitrine.evaluation.video import (
    METHODS,
    answers,
    compare_methods,
    dropping_table,
    fit_temperatures,
    fused_clips,
    vote,
)
from vitrine.labels import MISSING, read_score_table

PROBS = np.array([[0.6, 0.4], [0.6, 0.4], [0.05, 0.95], [0.1, 0.9], [0.2, 0.8]])
FRAMES = pd.DataFrame({"clip": [0, 0, 0, 1, 1], "num_frames": 3, "dropped": [None, None, "blurred", None, None]})
CODES = np.array([0, 1])


def test_a_vote_counts_frames_and_breaks_ties_by_probability() -> None:
    assert vote(PROBS, np.array([0, 0, 0, 1, 1])).tolist() == [0, 1]
    assert vote(np.array([[0.6, 0.4], [0.1, 0.9]]), np.array([0, 0])).tolist() == [1]


def test_fusing_is_the_geometric_mean_at_a_temperature() -> None:
    odds = np.sqrt((0.9 / 0.1) * (0.8 / 0.2))
    assert fused_clips(PROBS[3:], np.array([0, 0]))[0, 1] == pytest.approx(odds / (1 + odds), rel=1e-5)
    cooler = odds**0.5
    assert fused_clips(PROBS[3:], np.array([0, 0]), 2.0)[0, 1] == pytest.approx(cooler / (1 + cooler), rel=1e-5)


def test_methods_by_hand() -> None:
    found = answers(FRAMES, PROBS, CODES, np.array([True, True]), 3, 1.0)
    assert list(found) == list(METHODS)
    right = {method: each.right.tolist() for method, each in found.items()}
    assert right == {
        "single": [pytest.approx(2 / 3), 1],
        "single_kept": [1, 1],
        "middle": [1, 1],
        "vote": [1, 1],
        "fused_views": [1, 1],
        "fused_all": [0, 1],
        "fused": [1, 1],
    }
    single = found["single"].losses
    assert single is not None and single[1] == pytest.approx(-np.log([0.9, 0.8]).mean())
    rows = {row["method"]: row for row in compare_methods(found, 2)}
    assert rows["single"]["accuracy"] == pytest.approx(5 / 6) and rows["single"]["n"] == 2
    assert rows["single"]["accuracy_gain"] == pytest.approx(1 / 6)
    assert rows["fused_all"]["accuracy_gain"] == 0.5 and rows["fused"]["accuracy_gain"] == 0
    assert "nll" not in rows["vote"]


def test_clips_that_are_not_selected_or_not_labeled_do_not_count() -> None:
    found = answers(FRAMES, PROBS, np.array([MISSING, 1]), np.array([True, True]), 3, 1.0)
    assert all(len(each.right) == 1 for each in found.values())
    found = answers(FRAMES, PROBS, CODES, np.array([True, False]), 3, 1.0)
    assert found["fused"].right.tolist() == [1] and found["single"].right.tolist() == [pytest.approx(2 / 3)]


def test_temperatures_are_fitted_on_val_alone() -> None:
    rng = np.random.default_rng(0)
    clips = np.repeat(np.arange(60), 4)
    codes = rng.integers(0, 2, 60)
    sure = np.where(rng.random(60) < 0.75, codes, 1 - codes)  # right on three of four clips, but confident on all
    probs = np.where(np.arange(2) == sure[clips][:, None], 0.99, 0.01)
    frames = pd.DataFrame({"clip": clips, "num_frames": 4, "dropped": None})
    val = np.arange(60) < 40
    fitted = fit_temperatures(frames, {"class": probs}, {"class": codes}, val, 4)["class"]
    share = (sure == codes)[:40].mean()
    assert fitted == pytest.approx(np.log(99) / np.log(share / (1 - share)), rel=0.01)


def test_dropped_frames_are_counted_by_how_they_were_filmed() -> None:
    filmed = pd.DataFrame(
        {"file": "a", "seconds": [0.0, 0.2, 0.4, 0.6], "held": [False, True, False, False], "shaken": [0, 0, 1, 0]}
    ).astype({"shaken": bool})
    frames = pd.DataFrame(
        {"file": "a", "split": "val", "num_frames": 3, "seconds": [0.0, 0.2, 0.4], "dropped": [None, "duplicate", None]}
    )
    table = dropping_table(frames, filmed, 3).set_index("frames")
    assert table["n"].to_dict() == {"held": 1, "other": 1, "shaken": 1}
    assert table.loc["held", "duplicate"] == 1 and table.loc["shaken", "blurred"] == 0


# -- committed results ----------------------------------------------------------------------------------------------


def test_headline_metrics_match_the_table() -> None:
    metrics = read_json(ROOT / "metrics/video.json")
    scores = read_score_table(ROOT / "plots/video/scores.csv")
    rows = scores[(scores["system"] == "ensemble") & (scores["task"] == "class")].set_index("method")
    assert metrics["num_clips"] == rows.loc["fused", "n"] == 40
    for name, method, key in (
        ("accuracy", "fused", "accuracy"),
        ("single_accuracy", "single", "accuracy"),
        ("class_gain", "single", "accuracy_gain"),
        ("nll_gain", "single", "nll_gain"),
    ):
        assert metrics[name] == pytest.approx(rows.loc[method, key], abs=1e-4)
        ends = [rows.loc[method, f"{key}_ci_low"], rows.loc[method, f"{key}_ci_high"]]
        assert metrics["intervals"][name] == pytest.approx(ends, abs=1e-4)
    assert metrics["class_gain"] == pytest.approx(metrics["accuracy"] - metrics["single_accuracy"], abs=2e-4)


def test_the_fused_prediction_beats_a_single_frame_beyond_noise() -> None:
    intervals = read_json(ROOT / "metrics/video.json")["intervals"]
    assert intervals["nll_gain"][0] > 0 and intervals["class_gain"][0] > 0
