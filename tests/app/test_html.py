"""The page does not contradict itself about an answer."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vitrine.app import html
from vitrine.app.gallery import Gallery, Page
from vitrine.app.html import bars
from vitrine.app.state import Prediction
from vitrine.data.catalog import DataParams
from vitrine.inference.wording import CERTAINTIES
from vitrine.params import read_section
from vitrine.retrieval.index import MatchRule


@pytest.mark.parametrize("certainty", CERTAINTIES)
@pytest.mark.parametrize("probability", [1.0, 0.3])
def test_a_task_is_as_certain_as_its_answer_whatever_the_probability(certainty: str, probability: float) -> None:
    labels = [{"label": "a_cup", "probability": probability}, {"label": "hat", "probability": 1 - probability}]
    text = bars("class", {"certainty": certainty, "labels": labels})
    assert [words for words in CERTAINTIES.values() if f">{words}<" in text] == [CERTAINTIES[certainty]]
    assert "a cup" in text and f"{probability:.0%}" in text


def test_at_most_three_labels_are_shown() -> None:
    labels = [{"label": name, "probability": 0.25} for name in ("one", "two", "three", "four")]
    text = bars("class", {"certainty": "unsure", "labels": labels})
    assert text.count('class="bar') == 3 and "four" not in text


@pytest.fixture(scope="module")
def gallery(project_folder: Path) -> Gallery:
    return Gallery.load(project_folder, read_section("data", DataParams, project_folder / "params.yaml"))


def text_of(fragment: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", fragment)).strip()


def test_a_caption_has_the_labels_and_marks_disagreements(gallery: Gallery) -> None:
    for hit in gallery.search("deit", "blue", {}, None, 32).result.hits:
        given, predicted = gallery.labels_of("deit", hit.row), gallery.probs_of("deit", hit.row)
        caption = text_of(html.caption(gallery, "deit", hit))
        assert caption.lower().startswith(f"{given['color']} {str(given['class']).replace('_', ' ')}")
        differs = [task for task in ("class", "color") if predicted[task][0][0] != given[task]]
        assert ("✗ predicted" in caption) == bool(differs)
        assert f"blue {hit.matches[0].probability:.0%}" in caption


def test_a_photograph_without_labels_is_captioned_as_predicted(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gallery, "labels_of", lambda system, row: {})
    hit = gallery.search("deit", "", {}, None, 1).result.hits[0]
    caption = text_of(html.caption(gallery, "deit", hit))
    assert caption.endswith("predicted") and "✗" not in caption


def test_the_count_line_counts_matches(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    def line(words: str, least_score: float) -> str:
        monkeypatch.setattr(gallery.indexes["deit"], "rule", MatchRule(least_score))
        return html.count_line(gallery.search("deit", words, {}, None, 5), f" “{words}”" if words else "")

    scores = sorted(hit.score for hit in gallery.search("deit", "blue", {}, None, 32).result.hits)
    assert line("blue", scores[-2]) == "2 photographs match “blue”"
    assert line("blue", scores[-1]) == "1 photograph matches “blue”"
    assert line("blue", 1.1) == "No confident match for “blue”; closest:"
    assert line("", 1.1) == "32 photographs"


def test_matches_come_before_close_hits(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    page = gallery.search("deit", "blue", {}, None, 3)
    monkeypatch.setattr("vitrine.app.html.caption", lambda gallery, system, hit: "")
    hits = tuple(replace(hit, is_match=place != 1) for place, hit in enumerate(page.result.hits))
    mixed = Page(replace(page.result, hits=hits), True, 32, page.facets)
    shown = html.results(gallery, "deit", mixed)
    order = [int(row) for row in re.findall(r'data-hit="deit/(\d+)"', shown)]
    assert order == [hits[0].row, hits[2].row, hits[1].row]
    assert shown.index("No confident matches; closest:") < shown.index(f'data-hit="deit/{hits[1].row}"')


def test_a_panel_compares_labels_and_predictions_of_every_task(gallery: Gallery) -> None:
    panel = html.detail(gallery, "deit", 3, 6)
    table = panel[: panel.index("Similar photographs")]
    assert table.count("✓") + table.count("✗") == 3
    assert all(words in text_of(table) for words in CERTAINTIES.values())
    assert 'data-like="deit/3"' in panel and "/photo/deit/3/whole" in panel and 'data-hit="deit/3"' not in panel


def test_labels_are_escaped(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    evil = "<img src=x onerror=alert(1)>"
    monkeypatch.setattr(gallery, "labels_of", lambda system, row: {"class": evil, "color": evil})
    assert evil not in html.detail(gallery, "deit", 0, 2) and evil not in html.json_attribute({"a": evil})
    assert evil not in html.chips([evil]) and '"' not in html.json_attribute({"a": '"'})
    hit = gallery.search("deit", "blue", {}, None, 1).result.hits[0]
    assert evil not in html.caption(gallery, "deit", hit)


@pytest.mark.parametrize("num", [0, 1])
def test_a_history_needs_two_commits(num: int) -> None:
    assert "second commit" in html.history_chart([("a", 0.5)] * num, "Accuracy")


def test_a_history_names_its_commits_and_spans_its_scores() -> None:
    chart = html.history_chart([("a1 of 2026-01-01", 0.5), ("b2 of 2026-01-02", 0.75)], "Accuracy")
    assert "a1 of 2026-01-01: 50.0%" in chart and "50.0% to 75.0% over 2 commits" in chart
    first, last = (
        float(y)
        for y in re.search(r'points="[\d.]+,([\d.]+) [\d.]+,([\d.]+)"', chart).groups()  # type: ignore[union-attr]
    )
    assert first > last  # a higher score is drawn further up


def test_a_refused_photograph_is_none_of_these_and_says_why() -> None:
    labels = [{"label": "water_bottle", "probability": 0.8}]
    reason = "Looks like none of the 13 classes; nearest: <b>."
    novelty = {"refused": True, "score": 0.4, "threshold": 0.2, "reason": reason}
    answer = {"answer": "None of these", "backend": "torch fp32", "novelty": novelty,
              "tasks": {"class": {"certainty": "unsure", "labels": labels}}}  # fmt: skip
    shown = html.answers([Prediction("deit", answer, 0.01, np.zeros(1))])
    assert '<section class="answer refused"' in shown and "<h2>None of these</h2>" in shown
    assert "nearest: &lt;b&gt;." in shown and "Unsure: class" not in shown
    accepted = {**answer, "answer": "Possibly water bottle", "novelty": {**novelty, "refused": False, "reason": None}}
    shown = html.answers([Prediction("deit", accepted, 0.01, np.zeros(1))])
    assert '<section class="answer"' in shown and "Unsure: class 80%." in shown
