"""Cross-validation: pooling, calibration without leakage, suspicious labels, the report's text, and the DVC stages."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from test_pipeline import ROOT

from vitrine.artifacts import ArtifactError
from vitrine.evaluation.crossval import BASELINES, ENSEMBLE, NETWORKS, judge, out_of_fold_probs, suspicious_labels
from vitrine.evaluation.scoring import headline_metrics
from vitrine.inference.calibration import nll
from vitrine.labels import CLASS_TASK, LabelSpace
from vitrine.predictions import Predictions
from vitrine.reporting.crossval import write_crossval_report
from vitrine.retrieval.relevance import IndexParams, search_scores

SPACE = LabelSpace({CLASS_TASK: ("cap", "mug", "shoe")})
STAGES = yaml.safe_load((ROOT / "crossval/dvc.yaml").read_text(encoding="utf-8"))["stages"]


def synthetic(right: float, seed: int, num_items: int = 60) -> tuple[pd.DataFrame, np.ndarray, np.ndarray, np.ndarray]:
    """Return photographs, folds, codes and overconfident probabilities of accuracy `right`."""
    rng = np.random.default_rng(seed)
    codes = np.repeat(np.arange(num_items) % 3, 3)
    table = pd.DataFrame(
        {
            "image_path": [f"{k:04d}.jpg" for k in range(len(codes))],
            "instance_id": np.repeat([f"i{k:02d}" for k in range(num_items)], 3),
        }
    )
    folds = np.repeat(np.arange(num_items) // 3 % 5, 3)
    predicted = np.where(rng.random(len(codes)) < right, codes, (codes + 1) % 3)
    probs = np.full((len(codes), 3), 0.01, dtype=np.float32)
    probs[np.arange(len(codes)), predicted] = 0.98
    return table, folds, codes, probs


RIGHT = {
    "efficientnet": 0.7,
    "deit": 0.9,
    "mobilevit": 0.6,
    "linear_probe": 0.8,
    "svm": 0.6,
    "neighbors": 0.5,
    "majority": 0.3,
}
"""Accuracy of each system."""


@pytest.fixture
def pooled(tmp_path: Path) -> tuple[dict, pd.DataFrame, np.ndarray, np.ndarray]:  # type: ignore[type-arg]
    for k, (name, right) in enumerate(RIGHT.items()):
        table, folds, codes, probs = synthetic(right, k)
        whole = Predictions(SPACE, tuple(table["image_path"]), {CLASS_TASK: probs}, np.zeros((len(codes), 1)))
        if name in NETWORKS:
            for fold in range(5):
                whole.select(folds == fold).save(tmp_path / f"{name}_{fold}.npz")
        else:
            whole.save(tmp_path / f"{name}.npz")
    return out_of_fold_probs(tmp_path, table, folds, {CLASS_TASK: codes}), table, folds, codes


def test_pooled_predictions_are_in_the_order_of_the_table(pooled) -> None:  # type: ignore[no-untyped-def]
    systems, _, _, codes = pooled
    assert list(systems) == [*NETWORKS, ENSEMBLE, *BASELINES]
    _, _, _, probs = synthetic(0.9, 1)
    np.testing.assert_array_equal(systems["deit"][CLASS_TASK].argmax(axis=1), probs.argmax(axis=1))
    assert nll(codes, systems["deit"][CLASS_TASK]) < nll(codes, probs)


def test_a_folds_temperature_does_not_depend_on_its_own_labels(pooled, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    systems, table, folds, codes = pooled
    changed = np.where(folds == 2, (codes + 1) % 3, codes)
    again = out_of_fold_probs(tmp_path, table, folds, {CLASS_TASK: changed})
    np.testing.assert_array_equal(again["deit"][CLASS_TASK][folds == 2], systems["deit"][CLASS_TASK][folds == 2])
    assert not np.array_equal(again["deit"][CLASS_TASK][folds == 1], systems["deit"][CLASS_TASK][folds == 1])


def test_a_folds_ensemble_is_chosen_on_the_others(pooled, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    _, table, folds, codes = pooled
    for fold, (right, wrong) in enumerate([("deit", "mobilevit")] * 4 + [("mobilevit", "deit")]):
        for name, predicted in ((right, codes), (wrong, (codes + 1) % 3), ("efficientnet", (codes + 1) % 3)):
            probs = np.full((len(codes), 3), 0.01, dtype=np.float32)
            probs[np.arange(len(codes)), predicted] = 0.98
            whole = Predictions(SPACE, tuple(table["image_path"]), {CLASS_TASK: probs}, np.zeros((len(codes), 1)))
            whole.select(folds == fold).save(tmp_path / f"{name}_{fold}.npz")
    ensemble = out_of_fold_probs(tmp_path, table, folds, {CLASS_TASK: codes})[ENSEMBLE][CLASS_TASK].argmax(axis=1)
    # deit alone is always right in four folds, so it is chosen for the fifth, where it is always wrong.
    assert (ensemble == codes)[folds < 4].all() and not (ensemble == codes)[folds == 4].any()


def test_missing_predictions_are_an_error(pooled, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    _, table, folds, codes = pooled
    (tmp_path / "deit_3.npz").unlink()
    with pytest.raises(ArtifactError, match="deit_3"):
        out_of_fold_probs(tmp_path, table, folds, {CLASS_TASK: codes})


def test_the_report_names_better_worse_and_indistinguishable_systems(pooled) -> None:  # type: ignore[no-untyped-def]
    systems, table, _, codes = pooled
    scores, comparisons = judge(systems, {CLASS_TASK: codes}, list(table["instance_id"]), 5)
    suspects = suspicious_labels(table, SPACE, codes, systems[ENSEMBLE][CLASS_TASK])
    with_labels = table.assign(**{CLASS_TASK: [SPACE.labels[CLASS_TASK][code] for code in codes]})
    params = IndexParams(top_k=5, min_relevant=2, max_relevant_fraction=0.5)
    retrieval, gains = search_scores(systems, with_labels, SPACE, params, {})
    text = write_crossval_report(scores, comparisons, suspects, retrieval, gains, 5)
    assert "**deit** beats **svm** (+" in text
    assert "No difference between **mobilevit** and **svm** can be shown" in text
    assert "**mobilevit** loses to **linear_probe** (-" in text
    assert "**ensemble** beats **mobilevit** (+" in text
    worse = comparisons.assign(
        difference=-comparisons["difference"],
        difference_ci_low=-comparisons["difference_ci_high"],
        difference_ci_high=-comparisons["difference_ci_low"],
    )
    assert "**deit** loses to **svm** (-" in write_crossval_report(scores, worse, suspects, retrieval, gains, 5)
    one = retrieval[retrieval["num_terms"] == 1].set_index(["model", "method"])["map"]
    assert one["deit", "oracle"] == 1.0 > one["deit", "soft_and"] > one["mobilevit", "soft_and"] > one["deit", "random"]
    assert f"| deit | soft_and | 3 | {100 * one['deit', 'soft_and']:.1f} % [" in text
    accuracy = scores.set_index("system").loc["deit", "accuracy"]
    assert f"{100 * accuracy:.1f} % [" in text
    metrics, intervals = headline_metrics(scores[scores["system"] == "deit"])
    assert metrics[CLASS_TASK] == accuracy and intervals[CLASS_TASK][0] < accuracy and "nll" not in metrics


def test_wrong_labels_are_found_and_rare_labels_are_not_suspected() -> None:
    table, _, codes, probs = synthetic(1.0, 0)
    wrong = codes.copy()
    wrong[[6, 30, 77]] = (wrong[[6, 30, 77]] + 1) % 3
    found = suspicious_labels(table, SPACE, wrong, probs)
    assert sorted(found["row"]) == [6, 30, 77]
    assert found["looks_like"].tolist() == [SPACE.labels[CLASS_TASK][codes[row]] for row in found["row"]]
    few = table.index < 14
    assert suspicious_labels(table[few], SPACE, wrong[few], probs[few]).empty


def test_every_fold_is_evaluated() -> None:
    folds = list(range(runpy.run_path(str(ROOT / "crossval/folds.py"))["NUM_FOLDS"]))
    teacher, *students = NETWORKS
    assert STAGES["teach"]["matrix"] == {"fold": folds} and f" {teacher} " in STAGES["teach"]["cmd"]
    assert STAGES["train"]["matrix"] == {"model": students, "fold": folds}
    needed = {f"crossval/predictions/{name}_{fold}.npz" for name in NETWORKS for fold in folds}
    assert needed | {f"crossval/predictions/{name}.npz" for name in BASELINES} == {
        dep for dep in STAGES["judge"]["deps"] if "predictions/" in dep
    }
