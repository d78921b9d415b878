"""The report states what the numbers support, and no more."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from jinja2 import UndefinedError

from vitrine.reporting.report import ReportData, difference, write_report
from vitrine.reporting.templating import markdown_table, percent, points, render, with_interval

SYSTEMS = ("a", "b", "ensemble")


def compared(first: str, second: str, gain: float, p_value: float) -> dict[str, Any]:
    ends = {"difference_ci_low": gain - 0.1, "difference_ci_high": gain + 0.1}
    return {"first": first, "second": second, "task": "class", "difference": gain, **ends, "p_value": p_value}


def report_data(
    gain: float,
    p_value: float,
    small: str = "b",
    sure: float = 0.25,
    threshold: float = 0.66,
    best_on_val: str = "ensemble",
    b_minus_probe: float = 0.11,
    ensemble_minus_probe: float = 0.06,
    members: str = "ab",
    with_masks: bool = True,
    outliers: bool = True,
) -> ReportData:
    """Return data of two networks, a and b, whose ensemble is best on test; a is better than b by `gain`."""
    accuracies = {"a": 0.7123, "b": 0.6456, "ensemble": 0.8123, "linear_probe": 0.75, "svm": 0.9}
    intervals = {f"{name}_ci_{end}": value for name in ("accuracy", "macro_f1", "item_accuracy")
                 for end, value in (("low", 0.2), ("high", 0.95))}  # fmt: skip
    scores = [
        {"model": model, "split": split, "task": task, "n": 53,
         "accuracy": 0.97 if split == "val" and model == best_on_val else accuracy, "balanced_accuracy": 0.31,
         "macro_f1": 0.41, "majority_accuracy": 0.111, "item_n": 11, "item_right": 7, "item_accuracy": 0.636,
         **intervals}
        for model, accuracy in accuracies.items() for split in ("val", "test") for task in ("class", "tone")
    ]  # fmt: skip
    scores += [
        {"model": m, "split": s, "task": "all_tasks", "n": 53, "accuracy": 0.25, **intervals}
        for m in accuracies for s in ("val", "test")
    ]  # fmt: skip
    comparisons = [compared("a", "b", gain, p_value), compared("a", "ensemble", -0.1, 0.2)]
    comparisons += [
        compared("b", "ensemble", -0.2, 0.1),
        compared("b", "svm", -0.25, 0.01),
        compared("ensemble", "svm", -0.09, 0.0001),
        compared("a", "linear_probe", -0.04, 0.4),
        compared("b", "linear_probe", b_minus_probe, 0.02),
        compared("ensemble", "linear_probe", ensemble_minus_probe, 0.03),
    ]
    calibration = [
        {"model": m, "task": t, "temperature": 1.23, "nll_before": 2.5, "nll_after": 1.5, "brier_before": 0.9,
         "brier_after": 0.8, "ece_before": 0.3, "ece_after": 0.1, "sure_threshold": threshold, "coverage": sure,
         "sure_items": 5, "sure_accuracy": 0.875 if sure else float("nan")} for m in SYSTEMS for t in ("class", "tone")
    ]  # fmt: skip
    labels = [
        {"model": m, "task": t, "label": "odd|cup", "precision": 0.123, "recall": 0.5, "f1": 0.2, "n": 9}
        for m in SYSTEMS for t in ("class", "tone")
    ]  # fmt: skip
    cost = [
        {"model": m, "architecture": f"net_{m}", "image_size_px": 112,
         "parameters": 1_230_000 if m == small else 5_570_000, "flops": 570_000_000, "device": "cpu",
         "ensemble_tasks": "class, tone" if m in members else None} for m in "ab"
    ]  # fmt: skip
    retrieval = [
        {"model": m, "method": method, "num_terms": t, "num_queries": 17, "k": 4, "map": 0.333, "map_ci_low": 0.2,
         "map_ci_high": 0.4, "ndcg_at_10": 0.44, "precision_at_k": 0.55, "recall_at_10": 0.048}
        for m in SYSTEMS for t in (0, 1) for method in ("hard", "soft_and", "random")
    ]  # fmt: skip
    views = [{"model": m, "n": 20, "recall": 0.61, "recall_ci_low": 0.5, "recall_ci_high": 0.7} for m in SYSTEMS]
    gains = [{"model": m, "map_gain": 0.1, "map_gain_ci_low": low, "map_gain_ci_high": 0.2}
             for m, low in zip(SYSTEMS, (0.05, -0.01, 0.02), strict=True)]  # fmt: skip
    values = {"faithfulness": 0.21, "pointing": 0.8, "energy": 0.55}
    explained = [
        {
            "split": "test",
            "model": m,
            "task": t,
            "measure": measure,
            "method": method,
            "n": 20,
            "value": value,
            "value_ci_low": value - 0.1,
            "value_ci_high": value + 0.1,
            "difference": 0.125,
            "difference_ci_low": -0.05,
            "difference_ci_high": 0.3,
            "shown": int(m == "a" and t == "class"),
        }
        for m in SYSTEMS
        for t in ("class", "tone")
        for measure, value in values.items()
        if with_masks or value < 0.5
        for method in ("heat map", "random", "gaussian", "random_network")
    ]
    measured = {f"{name}{end}": value for name in ("auroc", "fpr_at_95_tpr", "refused", "known_refused")
                for end, value in (("", 0.123), ("_ci_low", 0.1), ("_ci_high", 0.2))}  # fmt: skip
    novelty = [
        {"system": m, "score": score, "kind": kind, "n": 20 if outliers else 0, "use": use,
         "served": score == "neighbors", **measured}
        for m in SYSTEMS for score in ("neighbors", "vim")
        for use, kinds in (("choose", ("all", "mug", "noise")), ("judge", ("all", "book", "blank")))
        for kind in (kinds if outliers else kinds[:1])
    ]  # fmt: skip
    return ReportData(
        photos=pd.DataFrame({"class": ["cup"] * 40 + ["odd_hat"] * 10, "tone": ["red"] * 45 + [None] * 5}),
        counts={"photos": {"train": 40, "val": 9, "test": 53}, "items": {"train": 8, "val": 2, "test": 11},
                "labels": {"class": 2, "tone": 3}, "missing": {"class": 0, "tone": 5}},
        params="data: {path: data/mine}\ntraining:\n  seed: 4711\n",
        scores=pd.DataFrame(scores),
        comparisons=pd.DataFrame(comparisons),
        calibration=pd.DataFrame(calibration),
        per_label=pd.DataFrame(labels),
        cost=pd.DataFrame(cost),
        retrieval=pd.DataFrame(retrieval),
        views=pd.DataFrame(views),
        gains=pd.DataFrame(gains),
        near_duplicates=pd.DataFrame({"image_path_a": ["x", "y"]}),
        explained=pd.DataFrame(explained),
        novelty=pd.DataFrame(novelty),
    )  # fmt: skip


def test_the_report_contains_the_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    data = report_data(0.05, 0.3)
    text = write_report(data)
    shown = (
        *("81.2 % [20, 95]", "7 of 11 items", "7/11, 63.6 % [20, 95]", "11.1 %", "1.23 M", "5.57 M", "0.57 G"),
        *(
            "33.3 % [20, 40]",
            "4.8 %",
            "precision@4",
            "| ensemble | 61.0 % [50, 70] |",
            "2.500 \u2192 1.500",
            "87.5 %",
            "0.66",
            "seed: 4711",
        ),
        "On `data/mine`: 102 photographs of 21 items in 2 classes. The numbers are for the 53 test photographs.",
        *("| 81.2 % [20, 95] | 81.2 % [20, 95] | 7 of 11 | 33.3 % [20, 40] | 61.0 % [50, 70] |",),
        *("| class | 2 | cup 40 | odd hat 10 | 4.0 | 1 | 0 |", "| tone | 3 | red 45 | red 45 | 1.0 | 0 | 5 |"),
        *("| odd\\|cup | 9 | 20.0 % | 20.0 % | 20.0 % |", "near duplicates across splits: 2"),
    )
    for part in shown:
        assert part in text, part
    assert "nan" not in text
    assert write_report(data) == text


def test_the_report_says_that_a_system_loses_to_the_svm() -> None:
    assert "**ensemble** loses to **svm** (-9.0 points [-19, +1], p < 0.001)" in write_report(report_data(0.05, 0.3))


def test_the_smallest_network_that_is_not_significantly_worse_is_recommended() -> None:
    text = write_report(report_data(0.05, 0.3))
    assert "Use **b**: **ensemble** is not shown to be better" in text
    assert "Use **a**: **ensemble** is not shown to be better" in write_report(report_data(0.05, 0.3, small="a"))


def test_a_system_that_loses_to_the_linear_probe_is_not_recommended() -> None:
    text = write_report(report_data(0.05, 0.3, b_minus_probe=-0.11))
    assert "- **b** loses to **linear_probe** (-11.0 points [-21, -1], p = 0.020)." in text
    assert "Use **a**" in text and "Use **b**" not in text
    assert "loses to **linear_probe**" not in write_report(report_data(0.05, 0.3))
    beaten = write_report(report_data(0.05, 0.3, ensemble_minus_probe=-0.06))
    assert "- **ensemble** loses to **linear_probe** (-6.0 points [-16, +4], p = 0.030)." in beaten
    assert "Use **linear_probe**" in beaten


def test_the_members_of_the_ensemble_are_named() -> None:
    text = write_report(report_data(0.05, 0.3, members="a"))
    assert "| net_a | 112 px | 5.57 M | 0.57 G | cpu | class, tone |" in text
    assert "| net_b | 112 px | 1.23 M | 0.57 G | cpu | no task |" in text


def test_the_verdict_contains_the_confidence_threshold() -> None:
    sentence = "0.66 or more. 25.0 % of the test photographs, of 5 items, reach it; 87.5 % of them are right."
    text = write_report(report_data(0, 1))
    assert sentence in text and "| 0.66 | 25.0 % | 5 | 87.5 % |" in text
    assert "a confidence of 0.66 or more. No test photograph reaches it." in write_report(report_data(0, 1, sure=0.0))
    unreliable = write_report(report_data(0, 1, sure=0.0, threshold=float("nan")))
    assert "It is never confident of a class" in unreliable and "| not reliable on this data | 0.0 % |" in unreliable


def test_the_headline_system_is_the_best_on_val() -> None:
    text = write_report(report_data(0.05, 0.3, best_on_val="b"))  # the ensemble is best on test
    assert (
        "- **b** was chosen on val, where it predicts the most classes correctly (97.0 %). "
        "It correctly predicts the class of 64.6 % [20, 95]" in text
    )
    assert "**ensemble** was chosen" not in text


def test_a_search_is_called_better_only_if_the_difference_is_significant() -> None:
    text = write_report(report_data(0.05, 0.3))
    assert "**a**: searching probabilities beats searching words (+10.0 points of mAP [+5.0, +20.0])" in text
    assert "**b**: no difference between searching probabilities and searching words can be shown" in text


def test_differences_can_be_read_both_ways() -> None:
    table = pd.DataFrame([compared("a", "b", 0.25, 0.04)])
    back = difference(table, "b", "a", "class")
    ends = (back["difference"], back["difference_ci_low"], back["difference_ci_high"])
    assert ends == pytest.approx((-0.25, -0.35, -0.15))
    assert points(difference(table, "a", "b")) == "+25.0 points [+15, +35], p = 0.040"


def test_tables_and_percentages() -> None:
    assert percent(0.12345) == "12.3 %"
    assert percent(float("nan")) == ""
    assert markdown_table(["a", "b"], [["x|y", 1]]) == "| a | b |\n| --- | ---: |\n| x\\|y | 1 |"


def test_intervals_in_words() -> None:
    row = {"accuracy": 0.4149, "accuracy_ci_low": 0.2251, "accuracy_ci_high": 0.6, "empty": float("nan")}
    assert with_interval(row, "accuracy") == "41.5 % [23, 60]"
    assert with_interval(row, "empty") == "" and with_interval(row, "absent") == ""


def test_markup_in_labels_is_escaped_in_html_and_undefined_names_are_errors() -> None:
    label = "<script>alert(1)</script>"
    page = render("page.html.j2", title=label, contents=[(label, label)], before="", after=label)
    assert "<script>" not in page and page.count("&lt;script&gt;") == 4
    with pytest.raises(UndefinedError, match="title"):
        render("page.html.j2", contents=[], before="", after="")


def test_heat_maps_are_listed_with_their_gains_and_whether_they_are_shown() -> None:
    text = write_report(report_data(0.05, 0.3))
    assert "- **a**: heat maps are shown for class." in text and "- **b**: no heat map is shown." in text
    gains = " | ".join(["+0.12 [-0.05, +0.30]"] * 3)
    assert f"| class | a | +0.21 [+0.11, +0.31] | {gains} | 80.0 % [70, 90] | 55.0 % [45, 65] | yes |" in text
    assert f"| tone | b | +0.21 [+0.11, +0.31] | {gains} | 80.0 % [70, 90] | 55.0 % [45, 65] | no |" in text
    assert "by its true mask" in text


def test_without_masks_the_report_does_not_mention_the_object() -> None:
    text = write_report(report_data(0.05, 0.3, with_masks=False))
    assert "| +0.12 [-0.05, +0.30] |  |  | yes |" in text and "by its true mask" not in text


def test_the_report_has_the_rates_of_right_and_wrong_refusals() -> None:
    text = write_report(report_data(0.05, 0.3))
    section = text.split("## None of these")[1].split("## Data card")[0]
    assert "refuses 12.3 % [10, 20] of pictures of other things (book 12.3 %, blank 12.3 %)" in section
    assert "chosen on val against mug and noise. The pictures that judge it, book and blank," in section
    assert "| **neighbors** | ensemble |" in section and "| vim | a |" in section
    section = write_report(report_data(0.05, 0.3, outliers=False)).split("## None of these")[1].split("## Data card")[0]
    assert "wrongly refuses 12.3 % [10, 20] of the test photographs" in section and "refusals.png" not in section
