"""The page's parts as HTML, built from plain values; all external text is escaped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from vitrine.app.gallery import Gallery, Page
from vitrine.app.state import Prediction
from vitrine.inference.wording import CERTAINTIES, explanation, headline, in_sentence
from vitrine.labels import CLASS_TASK, display_name
from vitrine.retrieval.index import Hit

NAMES = {
    "efficientnet": "EfficientNet",
    "deit": "DeiT",
    "mobilevit": "MobileViT",
    "ensemble": "Ensemble",
    "linear_probe": "Linear probe",
    "svm": "HOG + color SVM",
}
BACKENDS = {"openvino": "OpenVINO", "onnxruntime": "ONNX Runtime", "torch": "PyTorch"}


def escaped_name(text: str) -> str:
    """Return the escaped display name of a label or a task."""
    return escape(display_name(text))


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def name_of(system: str) -> str:
    return escape(NAMES.get(system, system))


def photographs(num: int) -> str:
    return f"{num} photograph" if num == 1 else f"{num} photographs"


def photo_url(system: str, row: int) -> str:
    return f"/photo/{escape(system)}/{row}"


def masthead(num_photos: int) -> str:
    return (
        '<header class="masthead"><h1>Vitrine</h1>'
        f"<p>Identify and find product photographs; {num_photos} are in the gallery.</p></header>"
    )


def banner(text: str) -> str:
    return f'<div class="banner" role="alert">{escape(text)}</div>' if text else ""


def empty(title: str, text: str) -> str:
    return f'<div class="empty" role="status"><strong>{escape(title)}</strong>{escape(text)}</div>'


def waiting(text: str) -> str:
    return f'<div class="empty" role="status"><span class="spinner"></span>{escape(text)}</div>'


def fold(title: str) -> str:
    """Render a line that, by mouse or keyboard, shows or hides what follows it; page.css does the rest."""
    return f'<details class="fold"><summary>{escape(title)}</summary></details>'


def examples(system: str, rows: Sequence[int]) -> str:
    buttons = "".join(
        f'<button type="button" data-picked="{row}" aria-label="Example {number}">'
        f'<img src="{photo_url(system, row)}" alt=""></button>'
        for number, row in enumerate(rows, start=1)
    )
    return f'<div class="examples" role="group" aria-label="Example photographs">{buttons}</div>'


def json_attribute(value: Any) -> str:
    """Write a value as JSON for an attribute that page.js reads."""
    return escape(json.dumps(value, ensure_ascii=False), quote=True)


# -- answers --------------------------------------------------------------------------------------------------------


def bars(task: str, answer: Mapping[str, Any]) -> str:
    """Render one task: a bar for each of its three most probable labels, the first one emphasized, and its certainty.

    Args:
        answer: this task's answer, as in `Predictor.to_records`.
    """
    certainty = answer["certainty"]
    rows = []
    for place, entry in enumerate(answer["labels"][:3]):
        word, probability = certainty if place == 0 else "", entry["probability"]
        rows.append(
            f'<div class="bar{" first" if place == 0 else ""}"><span>{escaped_name(entry["label"])}</span>'
            f'<span class="track"><span class="fill {word}" style="width:{100 * probability:.1f}%"></span></span>'
            f'<span class="value">{probability:.0%}</span></div>'
        )
    badge = f'<span class="certainty {certainty}">{CERTAINTIES[certainty]}</span>'
    return f'<div class="task"><h3>{escaped_name(task)}{badge}</h3>{"".join(rows)}</div>'


def is_refused(answer: Mapping[str, Any]) -> bool:
    """Return whether a record's answer is "None of these"."""
    return bool(answer.get("novelty") and answer["novelty"]["refused"])


def answers(found: Sequence[Prediction]) -> str:
    """Render the systems' predictions of one photograph: a sentence, its certainty, then the details of every task."""
    parts = []
    for prediction in found:
        tasks = prediction.answer["tasks"]
        backend, _, precision = str(prediction.answer["backend"]).partition(" ")
        computed = f"{BACKENDS.get(backend, backend)} {precision}".strip()
        parts.append(
            f'<section class="answer{" refused" if is_refused(prediction.answer) else ""}" '
            f'data-system="{escape(prediction.system)}">'
            f"<h2>{escape(prediction.answer['answer'])}</h2>"
            f'<p class="certain">{escape(explanation(prediction.answer))}</p>'
            f"{''.join(bars(task, answer) for task, answer in tasks.items())}"
            f'<p class="note">{name_of(prediction.system)}, {1000 * prediction.seconds:.0f} ms with {escape(computed)}'
            "</p></section>"
        )
    return f'<div class="answers">{"".join(parts)}</div>'


def similar(gallery: Gallery, system: str, hits: Sequence[Hit], several: bool) -> str:
    """Render a photograph's neighbors, with the system that they come from if there are several."""
    whose = f" to {name_of(system)}" if several else ""
    return f'<h2 class="section">Most similar in the gallery{whose}</h2>{cards(gallery, system, hits, "six")}'


# -- hits -----------------------------------------------------------------------------------------------------------


def title_of(labels: Mapping[str, str | None]) -> str:
    """Write labels as a short title: "Blue water bottle"."""
    first = next((task for task in labels if task != CLASS_TASK), CLASS_TASK)
    named = [label for label in (labels.get(first), labels.get(CLASS_TASK)) if label]
    words = [display_name(label) for label in dict.fromkeys(named)]
    return escape(capital(" ".join([*words[:-1], *(in_sentence(word) if named[1:] else word for word in words[-1:])])))


def caption(gallery: Gallery, system: str, hit: Hit) -> str:
    """Render a hit's caption: its labels, the predictions that differ from them, and why it was found.

    An unlabeled photograph shows its predicted labels, marked as predicted.
    """
    predicted: dict[str, str | None] = {t: pairs[0][0] for t, pairs in gallery.probs_of(system, hit.row).items()}
    given = {task: label for task, label in gallery.labels_of(system, hit.row).items() if label}
    if CLASS_TASK in given:
        shown = list(given)[:2]
        wrong = [escaped_name(str(predicted[task])) for task in shown if predicted[task] != given[task]]
        mark = f'<span class="differs">✗ predicted {", ".join(wrong)}</span>' if wrong else ""
        title = f"<b>{title_of({task: given[task] for task in shown})}</b>{mark}"
    else:
        title = f'<b>{title_of(predicted)}</b><span class="differs">predicted</span>'
    why = [f"{'' if m.wanted else 'not '}{escaped_name(m.label)} {m.probability:.0%}" for m in hit.matches]
    why += [] if hit.similarity is None or not hit.similarity else [f"similarity {max(hit.similarity, 0):.0%}"]
    return f'{title}<span class="why">{", ".join(why)}</span>'


def cards(gallery: Gallery, system: str, hits: Sequence[Hit], layout: str = "") -> str:
    """Render clickable photographs; page.js enlarges them and steps through their group."""
    parts = [
        f'<button type="button" data-hit="{escape(system)}/{hit.row}">'
        f'<img src="{photo_url(system, hit.row)}" alt="" loading="lazy">'
        f'<span class="words">{caption(gallery, system, hit)}</span></button>'
        for hit in hits
    ]
    return f'<div class="cards {layout}">{"".join(parts)}</div>'


def count_line(page: Page, what: str) -> str:
    """Write how many photographs match, or that none do."""
    num = page.result.num_matches
    if not page.has_query:
        return photographs(page.num_found)
    if num:
        return f"{photographs(num)} {'matches' if num == 1 else 'match'}{what}"
    return f"No confident match{' for' if what else ''}{what}; closest:"


def results(gallery: Gallery, system: str, page: Page) -> str:
    """Render the matches first, then the closest other hits under a heading of their own."""
    hits = page.result.hits
    matches, others = [hit for hit in hits if hit.is_match], [hit for hit in hits if not hit.is_match]
    if not page.has_query or not matches:
        return cards(gallery, system, hits)
    closest = f'<h2 class="below">No confident matches; closest:</h2>{cards(gallery, system, others, "faint")}'
    return cards(gallery, system, matches) + (closest if others else "")


def side_by_side(parts: Sequence[tuple[str, str, str]]) -> str:
    """Render results in columns. Args: parts: each system's name, line above and results."""
    columns = "".join(
        f'<section><h2>{name_of(system)}</h2><p class="note">{escape(line)}</p>{html}</section>'
        for system, line, html in parts
    )
    return f'<div class="columns">{columns}</div>'


def chips(words: Sequence[str]) -> str:
    buttons = "".join(f'<button type="button" data-picked="{escape(word)}">{escape(word)}</button>' for word in words)
    return f'<div class="chips"><span>Try</span>{buttons}</div>'


def detail(gallery: Gallery, system: str, row: int, num_similar: int) -> str:
    """Render an indexed photograph, large, with its labels, predictions and neighbors; page.js overlays it."""
    index = gallery.indexes[system]
    path, split = index.image_path(row), gallery.split_of(system, row)
    given, tasks = gallery.labels_of(system, row), gallery.answer_of(system, row)
    title = title_of(given) if given.get(CLASS_TASK) else escape(headline(tasks))
    about = {"train": "the models were trained on it", "val": "in val", "test": "in test"}.get(split or "", "added")
    rows = []
    for task, answer in tasks.items():
        best, label = answer["labels"][0], given.get(task)
        mark = (
            ""
            if not label
            else '<span class="right">✓</span>'
            if label == best["label"]
            else ('<span class="wrong">✗</span>')
        )
        verdict = "right" if "✓" in mark else "wrong" if mark else ""
        rows.append(
            f"<tr><th>{escaped_name(task)}</th><td>{escaped_name(label) if label else 'none'}</td>"
            f"<td>{escaped_name(best['label'])} {best['probability']:.0%} {mark}"
            f'<span class="unseen">{verdict}</span></td>'
            f'<td><span class="certainty {answer["certainty"]}">{CERTAINTIES[answer["certainty"]]}</span></td></tr>'
        )
    like = cards(gallery, system, gallery.similar(system, index.embedding(row), num_similar), "six")
    return (
        f'<div class="detail" data-place="{escape(system)}/{row}">'
        f'<img src="{photo_url(system, row)}/whole" alt="{escape(path)}">'
        f'<div><h2>{title}</h2><p class="note">{escape(path)}, {about}</p>'
        f"<table><thead><tr><th>Task</th><th>Label</th><th>{name_of(system)} predicts</th><th>Certainty</th></tr>"
        f"</thead><tbody>{''.join(rows)}</tbody></table>"
        f'<div class="actions"><button type="button" data-like="{escape(system)}/{row}">Find similar photographs'
        f'</button><a href="{photo_url(system, row)}/whole" target="_blank" rel="noopener">Open original</a></div>'
        f'</div></div><h3 class="below">Similar photographs</h3>{like}'
    )


# -- accuracy -------------------------------------------------------------------------------------------------------


def scorecard(scores: pd.DataFrame, system: str, tasks: Sequence[str]) -> str:
    """Render the headline system's accuracy on test, one tile per task."""
    test = scores[(scores["split"] == "test") & (scores["model"] == system)].set_index("task")
    tiles = []
    for task in tasks:
        score = test.loc[task]
        interval = f"{score['accuracy_ci_low']:.0%} to {score['accuracy_ci_high']:.0%}"
        tiles.append(
            f'<div class="tile"><span>{escaped_name(task)}</span><b>{score["accuracy"]:.0%}</b>'
            f"<small>{interval}</small></div>"
        )
    return f'<div class="tiles">{"".join(tiles)}</div>'


def score_table(scores: pd.DataFrame, tasks: Sequence[str]) -> str:
    """Render the accuracies on test with their intervals, one row per system."""
    head = "".join(f"<th>{escaped_name(task)}</th>" for task in tasks)
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
    """Render pictures of the report, which page.js enlarges. Args: pictures: names of served plots and their titles."""
    parts = [
        f'<figure><button type="button" data-figure="/plot/{escape(name)}" aria-label="Enlarge: {escape(text)}">'
        f'<img src="/plot/{escape(name)}" alt="{escape(text)}" loading="lazy"></button></figure>'
        for name, text in pictures.items()
    ]
    return f'<div class="figures">{"".join(parts)}</div>'


def history_chart(points: Sequence[tuple[str, float]], title: str) -> str:
    """Render a small chart of one score over commits. Args: points: names of commits and scores, oldest first."""
    if len(points) < 2:
        return '<p class="note">The history begins with the second commit that changes the scores.</p>'
    width, height, edge = 640, 150, 28
    values = [value for _, value in points]
    low, high = min(values), max(values)
    span = max(high - low, 0.02)
    x = [edge + (width - 2 * edge) * place / (len(points) - 1) for place in range(len(points))]
    y = [edge + (height - 2 * edge) * (high - value) / span for value in values]
    line = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    dots = "".join(
        f'<circle cx="{a:.1f}" cy="{b:.1f}" r="5"><title>{escape(name)}: {value:.1%}</title></circle>'
        for a, b, (name, value) in zip(x, y, points, strict=True)
    )
    ends = "".join(
        f'<text x="{x[place]:.1f}" y="{y[place] - 12:.1f}" text-anchor="{anchor}">{values[place]:.1%}</text>'
        for place, anchor in ((0, "start"), (-1, "end"))
    )
    return (
        f'<figure class="history"><svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(title)}: '
        f'{values[0]:.1%} to {values[-1]:.1%} over {len(points)} commits"><polyline points="{line}"/>{dots}{ends}</svg>'
        f"<figcaption>{escape(title)}, {len(points)} commits from {escape(points[0][0])} to {escape(points[-1][0])}"
        "</figcaption></figure>"
    )
