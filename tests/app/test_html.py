"""What the page says of an answer does not contradict itself."""

from __future__ import annotations

import pytest

from vitrine.app.html import bars
from vitrine.inference.wording import CERTAINTIES


@pytest.mark.parametrize("certainty", CERTAINTIES)
@pytest.mark.parametrize("probability", [1.0, 0.3])
def test_a_task_is_as_certain_as_its_answer_whatever_the_probability(certainty: str, probability: float) -> None:
    labels = [{"label": "a_cup", "probability": probability}, {"label": "hat", "probability": 1 - probability}]
    html = bars("class", {"certainty": certainty, "labels": labels})
    assert [words for words in CERTAINTIES.values() if f">{words}<" in html] == [CERTAINTIES[certainty]]
    assert "a cup" in html and f"{probability:.0%}" in html


def test_at_most_three_labels_are_shown() -> None:
    labels = [{"label": name, "probability": 0.25} for name in ("one", "two", "three", "four")]
    html = bars("class", {"certainty": "unsure", "labels": labels})
    assert html.count('class="bar') == 3 and "four" not in html
