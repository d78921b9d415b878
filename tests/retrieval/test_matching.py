"""The score from which a hit is a match is chosen on val by F1, checked by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from vitrine.labels import LabelSpace
from vitrine.predictions import Predictions
from vitrine.retrieval.index import Index, MatchRule
from vitrine.retrieval.matching import fit_match_rule, judge_matches, match_quality, scored_pairs

SPACE = LabelSpace({"class": ("bag", "cup"), "color": ("blue", "red")})


def gallery(bags: list[float], table: pd.DataFrame, angles: list[float]) -> Index:
    bag, blue = np.array(bags, np.float32), np.full(len(bags), 0.5, np.float32)
    probs = {"class": np.stack([bag, 1 - bag], axis=1), "color": np.stack([blue, 1 - blue], axis=1)}
    embeddings = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    found = Predictions(SPACE, tuple(table["image_path"]), probs, embeddings)
    return Index.build("m", found, table["image_path"], {})


def table(splits: list[str], classes: list[str], colors: list[str | None]) -> pd.DataFrame:
    paths = [f"{number}.jpg" for number in range(len(splits))]
    return pd.DataFrame({"image_path": paths, "split": splits, "class": classes, "color": colors}, dtype=object)


TABLE = table(
    ["train", "train", "val", "val", "val", "val", "test", "test"],
    ["bag", "cup", "bag", "bag", "cup", "cup", "bag", "cup"],
    [None] * 8,
)
INDEX = gallery([0.9, 0.1, 0.9, 0.7, 0.6, 0.2, 0.8, 0.75], TABLE, [0, 1.5, 0.1, 0.2, 1.3, 1.4, 0, 1.5])


def test_precision_and_recall_by_hand() -> None:
    scores, relevant = np.array([0.9, 0.8, 0.3, 0.1]), np.array([True, False, True, False])
    assert match_quality(scores, relevant, 0.5) == (0.5, 0.5)
    assert match_quality(scores, relevant, 0.2) == pytest.approx((2 / 3, 1))
    assert match_quality(scores, relevant, 0.95) == (0, 0)


def test_every_query_is_scored_on_every_labeled_photograph() -> None:
    scores, relevant = scored_pairs(INDEX, TABLE, (TABLE["split"] == "val").to_numpy())
    assert len(scores) == 8 and relevant.sum() == 4  # two classes, no colors
    of_bag = dict(zip([round(score, 2) for score in scores[:4].tolist()], relevant[:4].tolist(), strict=True))
    assert of_bag == {0.9: True, 0.7: True, 0.6: False, 0.2: False}


def test_pairs_need_both_labels() -> None:
    colored = table(["val"] * 3, ["bag", "bag", "cup"], ["blue", None, "red"])
    scores, relevant = scored_pairs(gallery([0.9, 0.8, 0.1], colored, [0, 0, 1]), colored, np.ones(3, bool))
    # bag, cup: 3 photographs each; blue, red, blue bag, red cup: the 2 photographs with a color
    assert len(scores) == 2 * 3 + 4 * 2 and relevant.sum() == 3 + 2 + 2


def test_the_rule_has_the_best_f1_on_val_and_ignores_test() -> None:
    rule = fit_match_rule(INDEX, TABLE)
    # bags of 0.9 and 0.7, cups of 0.8 and 0.4, one false match at 0.6: a threshold of 0.4 has the best F1, 8/9
    assert rule.least_score == pytest.approx(0.4, abs=2e-3)
    swapped = TABLE.assign(**{"class": [*TABLE["class"][:6], "cup", "bag"]})
    assert fit_match_rule(INDEX, swapped) == rule
    INDEX.rule = rule
    judged = judge_matches(INDEX, TABLE)
    INDEX.rule = MatchRule()
    assert (judged["precision"], judged["recall"]) == (0.5, 0.5)  # bag: 0.8 and 0.75 match; cup: 0.2 and 0.25 do not


def test_the_probability_of_the_same_class_increases_with_the_cosine() -> None:
    rule = fit_match_rule(INDEX, TABLE)
    likely = rule.same_class(np.array([-1.0, 0.0, 0.99], np.float32))
    assert np.all(np.diff(likely) > 0) and likely[2] > 0.5 > likely[1]


def test_with_one_class_the_default_curve_is_kept() -> None:
    alone = table(["train", "val"], ["bag", "bag"], [None, None])
    rule = fit_match_rule(gallery([0.9, 0.8], alone, [0, 0.1]), alone)
    assert (rule.slope, rule.offset) == (MatchRule().slope, MatchRule().offset)
