"""Sentences state only confident predictions as facts."""

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


def tasks(**predicted: tuple[str, str, float]) -> dict[str, Any]:
    return {
        task.rstrip("_"): {"certainty": certainty, "labels": [{"label": label, "probability": probability}]}
        for task, (certainty, label, probability) in predicted.items()
    }


WATCH = ("confident", "wrist_watch", 0.92)
BLUE, METAL = ("confident", "blue", 0.81), ("confident", "metal", 0.9)


@pytest.mark.parametrize(
    ("record_tasks", "expected"),
    [
        (tasks(class_=WATCH, color=BLUE, material=METAL), "Blue wrist watch, metal"),
        (tasks(class_=WATCH, color=("unsure", "blue", 0.5), material=METAL), "Wrist watch, metal"),
        (tasks(class_=WATCH, color=("unreliable", "blue", 1.0)), "Wrist watch"),
        (tasks(class_=("unsure", "wrist_watch", 0.6), color=BLUE), "Possibly wrist watch, blue"),
        (tasks(class_=("unreliable", "wrist_watch", 1.0)), "Possibly wrist watch"),
        (tasks(class_=("confident", "TV set", 0.9), color=BLUE), "Blue TV set"),
    ],
)
def test_headlines(record_tasks: dict[str, Any], expected: str) -> None:
    assert headline(record_tasks) == expected


def test_the_certainty_of_every_task() -> None:
    record_tasks = tasks(class_=WATCH, color=("unsure", "blue", 0.41), condition=("unreliable", "new", 0.99))
    assert certainty_sentence(record_tasks) == (
        "Confident: class 92%; unsure: color 41%; not reliable on this data: condition."
    )


def test_without_a_threshold_no_confidence_is_enough() -> None:
    assert [certainty_of(1.0, limit) for limit in (None, 1.0, 0.9)] == ["unreliable", "confident", "confident"]
    assert certainty_of(0.89, 0.9) == "unsure"


def test_a_refused_photograph_is_none_of_these_and_the_nearest_class_is_named() -> None:
    record_tasks = tasks(class_=("unsure", "wrist_watch", 0.8), color=BLUE)
    reason = nearest_sentence(record_tasks, 13)
    assert reason == "Looks like none of the 13 classes; nearest: wrist watch."
    refused, accepted = {"refused": True, "reason": reason}, {"refused": False, "reason": None}
    assert answer_sentence(record_tasks, refused) == "None of these"
    assert explanation({"tasks": record_tasks, "novelty": refused}) == reason
    for novelty in (accepted, None):
        assert answer_sentence(record_tasks, novelty) == headline(record_tasks)
        assert explanation({"tasks": record_tasks, "novelty": novelty}) == certainty_sentence(record_tasks)
