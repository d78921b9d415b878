"""Sentences state what is confident, and nothing else as a fact."""

from __future__ import annotations

from typing import Any

import pytest

from vitrine.inference.wording import (
    answer_sentence,
    certainty_of,
    certainty_sentence,
    explanation,
    headline,
    nearest_sentence,
)


def tasks(**said: tuple[str, str, float]) -> dict[str, Any]:
    return {
        task.rstrip("_"): {"certainty": certainty, "labels": [{"label": label, "probability": probability}]}
        for task, (certainty, label, probability) in said.items()
    }


WATCH = ("confident", "wrist_watch", 0.92)
BLUE, METAL = ("confident", "blue", 0.81), ("confident", "metal", 0.9)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (tasks(class_=WATCH, color=BLUE, material=METAL), "Blue wrist watch, metal"),
        (tasks(class_=WATCH, color=("unsure", "blue", 0.5), material=METAL), "Wrist watch, metal"),
        (tasks(class_=WATCH, color=("unreliable", "blue", 1.0)), "Wrist watch"),
        (tasks(class_=("unsure", "wrist_watch", 0.6), color=BLUE), "Possibly wrist watch, blue"),
        (tasks(class_=("unreliable", "wrist_watch", 1.0)), "Possibly wrist watch"),
        (tasks(class_=("confident", "TV set", 0.9), color=BLUE), "Blue TV set"),
    ],
)
def test_the_answer_in_a_few_words(found: dict[str, Any], expected: str) -> None:
    assert headline(found) == expected


def test_how_certain_every_task_is() -> None:
    found = tasks(class_=WATCH, color=("unsure", "blue", 0.41), condition=("unreliable", "new", 0.99))
    assert certainty_sentence(found) == (
        "Confident: class 92%; unsure: color 41%; not reliable on this data: condition."
    )


def test_without_a_threshold_no_confidence_is_enough() -> None:
    assert [certainty_of(1.0, limit) for limit in (None, 1.0, 0.9)] == ["unreliable", "confident", "confident"]
    assert certainty_of(0.89, 0.9) == "unsure"


def test_what_is_refused_is_none_of_these_and_the_nearest_class_is_named() -> None:
    found = tasks(class_=("unsure", "wrist_watch", 0.8), color=BLUE)
    reason = nearest_sentence(found, 13)
    assert reason == "Looks like none of the 13 classes; nearest: wrist watch."
    refused, accepted = {"refused": True, "reason": reason}, {"refused": False, "reason": None}
    assert answer_sentence(found, refused) == "None of these"
    assert explanation({"tasks": found, "novelty": refused}) == reason
    for novelty in (accepted, None):
        assert answer_sentence(found, novelty) == headline(found)
        assert explanation({"tasks": found, "novelty": novelty}) == certainty_sentence(found)
