"""What the page says of an answer does not contradict itself."""

from __future__ import annotations

import pytest

from vitrine.views import bars, level


@pytest.mark.parametrize(
    ("probability", "sure", "word"),
    [
        (0.8, True, "high"),
        (0.8, None, "high"),
        (0.8, False, "medium"),
        (0.75, True, "high"),
        (0.74, True, "medium"),
        (0.5, False, "medium"),
        (0.4, True, "medium"),
        (0.39, True, "low"),
        (0.1, False, "low"),
    ],
)
def test_the_word_for_a_confidence(probability: float, sure: bool | None, word: str) -> None:
    assert level(probability, sure) == word


def test_an_unsure_answer_is_never_called_high() -> None:
    html = bars([("a_cup", 0.83), ("hat", 0.17)], False, "class")
    assert "not sure" in html and "high" not in html and "a cup" in html
    assert "not sure" not in bars([("a_cup", 0.83)], True, "class")
