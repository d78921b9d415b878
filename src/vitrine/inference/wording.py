"""Answers in one sentence, shared by the command line, the page and the Python API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vitrine.labels import CLASS_TASK, display_name

CERTAINTIES = {"confident": "confident", "unsure": "unsure", "unreliable": "not reliable on this data"}
"""Levels of certainty as stored in records, with their display names."""


def certainty_of(confidence: float, threshold: float | None) -> str:
    """Return the certainty of an answer from its confidence and its task's threshold, None if there is none."""
    if threshold is None:
        return "unreliable"
    return "confident" if confidence >= threshold else "unsure"


NONE_OF_THESE = "None of these"
"""The answer for a photograph that looks like none of the classes."""


def answer_sentence(tasks: Mapping[str, Mapping[str, Any]], novelty: Mapping[str, Any] | None) -> str:
    """Describe a photograph in a few words: its `headline`, or that it belongs to none of the classes."""
    return NONE_OF_THESE if novelty and novelty["refused"] else headline(tasks)


def nearest_sentence(tasks: Mapping[str, Mapping[str, Any]], num_classes: int) -> str:
    """Explain why a photograph is refused: "Looks like none of the 13 classes; nearest: water bottle."."""
    name = in_sentence(display_name(tasks[CLASS_TASK]["labels"][0]["label"]))
    return f"Looks like none of the {num_classes} classes; nearest: {name}."


def explanation(record: Mapping[str, Any]) -> str:
    """Return the sentence below the answer of a record: why it was refused, or how certain every task is."""
    novelty = record.get("novelty")
    return str(novelty["reason"]) if novelty and novelty["refused"] else certainty_sentence(record["tasks"])


def headline(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """Describe a photograph, using only confident answers: "Blue wrist watch, metal".

    The first attribute comes before the class, the others after it. A class that is not confident is called
    possible.

    Args:
        tasks: as in `Predictor.to_records`.
    """
    labels = {task: display_name(entry["labels"][0]["label"]) for task, entry in tasks.items()}
    stated = [task for task, entry in tasks.items() if task != CLASS_TASK and entry["certainty"] == "confident"]
    attributes = [labels[task] for task in stated]
    name = labels[CLASS_TASK]
    if tasks[CLASS_TASK]["certainty"] == "confident":
        first = next((task for task in tasks if task != CLASS_TASK), None)
        adjective = attributes.pop(0) + " " if stated[:1] == [first] else ""
        text = ", ".join([adjective + (in_sentence(name) if adjective else name), *attributes])
    else:
        text = ", ".join([f"Possibly {in_sentence(name)}", *attributes])
    return text[:1].upper() + text[1:]


def in_sentence(name: str) -> str:
    """Lowercase the first letter of a name, unless it begins with an acronym."""
    return name if name[1:2].isupper() else name[:1].lower() + name[1:]


def certainty_sentence(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    """Describe how certain every task is: "Confident: class 92%, color 81%; not reliable on this data: condition."."""
    parts = []
    for certainty, words in CERTAINTIES.items():
        named = [
            display_name(task) + ("" if certainty == "unreliable" else f" {entry['labels'][0]['probability']:.0%}")
            for task, entry in tasks.items()
            if entry["certainty"] == certainty
        ]
        parts += [f"{words}: {', '.join(named)}"] if named else []
    text = "; ".join(parts) + "."
    return text[:1].upper() + text[1:]
