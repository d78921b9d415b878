"""The page's parts as HTML, made from plain values; everything that is not ours is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from vitrine.app.gallery import Doubt, Gallery
from vitrine.app.state import Prediction
from vitrine.inference.wording import CERTAINTIES
from vitrine.labels import display_name
from vitrine.retrieval.index import Hit

NAMES = {
    "efficientnet": "EfficientNet",
    "deit": "DeiT",
    "mobilevit": "MobileViT",
    "ensemble": "Ensemble",
    "linear_probe": "Linear probe",
    "svm": "HOG + color SVM",
}


def spoken(text: str) -> str:
    """Write a label or a task as people do, escaped."""
    return escape(display_name(text))


def name_of(system: str) -> str:
    return escape(NAMES.get(system, system))


def photo_url(system: str, row: int) -> str:
    return f"/photo/{escape(system)}/{row}"


def masthead(num_photos: int) -> str:
    return (
        '<header class="masthead"><h1>Vitrine</h1>'
        f"<p>{num_photos} product photographs: what they show, and how to find them.</p></header>"
    )


def banner(text: str) -> str:
    return f'<div class="banner" role="alert">{escape(text)}</div>' if text else ""


def empty(title: str, text: str) -> str:
    return f'<div class="empty" role="status"><strong>{escape(title)}</strong>{escape(text)}</div>'


def fold(title: str) -> str:
    """A line to click, or to reach with the keyboard, that shows or hides what follows it: page.css does the rest."""
    return f'<details class="fold"><summary>{escape(title)}</summary></details>'


def examples(system: str, rows: Sequence[int]) -> str:
    buttons = "".join(
        f'<button type="button" data-picked="{row}" aria-label="Example {number}">'
        f'<img src="{photo_url(system, row)}" alt=""></button>'
        for number, row in enumerate(rows, start=1)
    )
    return f'<div class="examples" role="group" aria-label="Example photographs">{buttons}</div>'


def bars(task: str, answer: Mapping[str, Any]) -> str:
    """One task: a bar for each of its three most probable labels, the first one strong, and how certain it is.

    Args:
        answer: the answer of this task, as `Predictor.to_records` gives it.
    """
    certainty = answer["certainty"]
    rows = []
    for place, entry in enumerate(answer["labels"][:3]):
        word, probability = certainty if place == 0 else "", entry["probability"]
        rows.append(
            f'<div class="bar{" first" if place == 0 else ""}"><span>{spoken(entry["label"])}</span>'
            f'<span class="track"><span class="fill {word}" style="width:{100 * probability:.1f}%"></span></span>'
            f'<span class="value">{probability:.0%}</span></div>'
        )
    told = f'<span class="certainty {certainty}">{CERTAINTIES[certainty]}</span>'
    return f'<div class="task"><h4>{spoken(task)}{told}</h4>{"".join(rows)}</div>'


def answers(found: Sequence[Prediction], num_photos: int) -> str:
    """What systems predict of one photograph, or of several of one item together, and the time that each took."""
    parts = []
    for prediction in found:
        tasks = "".join(bars(task, answer) for task, answer in prediction.answer["tasks"].items())
        together = f"{num_photos} photographs together, " if num_photos > 1 else ""
        parts.append(
            f'<section class="answer" data-system="{escape(prediction.system)}">'
            f"<h3>{name_of(prediction.system)}<small>{together}{1000 * prediction.seconds:.0f} ms</small></h3>"
            f"{tasks}</section>"
        )
    return f'<div class="answers">{"".join(parts)}</div>'


def hit_words(gallery: Gallery, system: str, hit: Hit) -> str:
    """A hit's caption: what it seems to be, how well it answers, and why."""
    best = {task: labels[0][0] for task, labels in gallery.probs_of(system, hit.row).items()}
    title = spoken(" ".join([*(label for task, label in list(best.items())[1:2]), next(iter(best.values()))]))
    why = [f"{'' if m.wanted else 'not '}{spoken(m.label)} {m.probability:.0%}" for m in hit.matches]
    why += [f"like it {hit.similarity:.2f}"] if hit.similarity is not None and hit.similarity else []
    score = f"score {hit.score:.2f}: " if hit.matches else ""
    return f'<b>{title}</b><span class="why">{score}{", ".join(why)}</span>'


def cards(gallery: Gallery, system: str, hits: Sequence[Hit], layout: str = "") -> str:
    parts = []
    for hit in hits:
        image = f'<img src="{photo_url(system, hit.row)}" alt="" loading="lazy">'
        caption = f'<span class="words">{hit_words(gallery, system, hit)}</span>'
        parts.append(f'<button type="button" data-picked="{escape(system)}/{hit.row}">{image}{caption}</button>')
    return f'<div class="cards {layout}">{"".join(parts)}</div>'


def side_by_side(parts: Sequence[tuple[str, str]]) -> str:
    columns = "".join(f"<section><h3>{name_of(system)}</h3>{html}</section>" for system, html in parts)
    return f'<div class="columns">{columns}</div>'


def chips(words: Sequence[str]) -> str:
    buttons = "".join(f'<button type="button" data-picked="{escape(word)}">{spoken(word)}</button>' for word in words)
    return f'<div class="chips"><span>Try</span>{buttons}</div>'


def detail(gallery: Gallery, system: str, row: int) -> str:
    """One indexed photograph: large, with all that is known and predicted."""
    path, split = str(gallery.indexes[system].image_paths[row]), gallery.split_of(system, row)
    given = {task: label for task, label in gallery.labels_of(system, row).items() if label}
    truth = ", ".join(f"{spoken(task)} {spoken(label)}" for task, label in given.items())
    tasks = "".join(bars(task, answer) for task, answer in gallery.answer_of(system, row).items())
    trained = " The models were trained on it." if split == "train" else ""
    told = f"<p>Labeled: {truth}.{trained}</p>" if truth else "<p>Added without labels.</p>"
    return (
        f'<div class="detail"><img src="{photo_url(system, row)}" alt="{escape(path)}">'
        f"<div><p>{escape(path)} as {name_of(system)} sees it</p>{told}{tasks}</div></div>"
    )


def doubts(system: str, found: Sequence[Doubt], pressed: int | None) -> str:
    """The review queue: labels that a system finds improbable."""
    parts = []
    for doubt in found:
        given = f"labeled {spoken(doubt.given)}" if doubt.given else "no label"
        why = f"{doubt.probability:.0%} probable; looks like {spoken(doubt.seen)}"
        parts.append(
            f'<button type="button" data-picked="{doubt.row}" aria-pressed="{str(doubt.row == pressed).lower()}">'
            f'<img src="{photo_url(system, doubt.row)}" alt="" loading="lazy">'
            f'<span class="words"><b>{given}</b><span class="why">{why}</span></span></button>'
        )
    return f'<div class="cards">{"".join(parts)}</div>'


def score_table(scores: pd.DataFrame, tasks: Sequence[str]) -> str:
    """Accuracies on test with their intervals, one row a system."""
    head = "".join(f"<th>{spoken(task)}</th>" for task in tasks)
    rows = []
    test = scores[scores["split"] == "test"].set_index(["model", "task"])
    for system in dict.fromkeys(test.index.get_level_values("model")):
        cells = []
        for task in tasks:
            score = test.loc[(system, task)]
            interval = f"{score['accuracy_ci_low']:.0%} to {score['accuracy_ci_high']:.0%}"
            cells.append(f'<td>{score["accuracy"]:.0%} <span class="interval">{interval}</span></td>')
        rows.append(f"<tr><td>{name_of(str(system))}</td>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="Accuracy"><table class="scores"><thead><tr>'
        f"<th>Accuracy on test</th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def figures(pictures: Mapping[str, str]) -> str:
    """Pictures of the report. Args: pictures: names of served plots and what they show."""
    parts = [
        f'<figure><a href="/plot/{escape(name)}" target="_blank" rel="noopener">'
        f'<img src="/plot/{escape(name)}" alt="{escape(text)}" loading="lazy"></a></figure>'
        for name, text in pictures.items()
    ]
    return f'<div class="figures">{"".join(parts)}</div>'
