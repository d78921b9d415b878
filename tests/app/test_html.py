"""What the page says of an answer does not contradict itself."""

from __future__ import annotations

from typing import Any

import pytest

from vitrine.app.html import bars, level
from vitrine.inference.predictor import sureness


def said(probability: float, sure: bool, reliable: bool = True) -> dict[str, Any]:
    labels = [{"label": "a_cup", "probability": probability}, {"label": "hat", "probability": 1 - probability}]
    return {"sure": sure, "reliable": reliable, "labels": labels}


@pytest.mark.parametrize(
    ("probability", "sure", "word"),
    [
        (0.8, True, "high"),
        (0.8, False, "medium"),
        (0.75, True, "high"),
        (0.74, True, "medium"),
        (0.5, False, "medium"),
        (0.4, True, "medium"),
        (0.39, True, "low"),
        (0.1, False, "low"),
    ],
)
def test_the_word_for_a_confidence(probability: float, sure: bool, word: str) -> None:
    assert level(said(probability, sure)) == word
    assert f'class="fill {word}"' in bars("class", said(probability, sure))


@pytest.mark.parametrize("probability", [1.0, 0.8, 0.3])
def test_an_unreliable_answer_has_no_level_whatever_its_probability(probability: float) -> None:
    answer = said(probability, sure=False, reliable=False)
    assert level(answer) == "" and sureness(answer) == "not reliable on this data"
    html = bars("class", answer)
    assert "not reliable on this data" in html and "not sure" not in html
    assert not any(word in html for word in ("high", "medium", "low"))


def test_an_unsure_answer_is_never_called_high() -> None:
    html = bars("class", said(0.83, sure=False))
    assert "not sure" in html and "high" not in html and "a cup" in html
    sure = bars("class", said(0.83, sure=True))
    assert "not sure" not in sure and "not reliable" not in sure


def test_at_most_three_labels_are_shown() -> None:
    labels = [{"label": name, "probability": 0.25} for name in ("one", "two", "three", "four")]
    html = bars("class", {"sure": False, "reliable": True, "labels": labels})
    assert html.count('class="bar') == 3 and "four" not in html
