"""The page's tabs, one class each: `__init__` lays it out and connects it, the other methods handle events."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from functools import partial
from html import escape
from typing import Any
from urllib.parse import parse_qs

import numpy as np
from numpy.typing import NDArray

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr

from vitrine.app import html
from vitrine.app.clips import strip
from vitrine.app.gallery import NUM_SIMILAR
from vitrine.app.history import score_history
from vitrine.app.state import COMPARE, MAX_HITS, AppState
from vitrine.app.why import WhyPanel
from vitrine.artifacts import ArtifactError, read_json
from vitrine.data.video import CLIP_SUFFIXES
from vitrine.labels import CLASS_TASK, display_name, read_score_table
from vitrine.photos import PhotoError, decode_photo

PAGE_SIZE = 24
EXAMPLE_PX = 256
NO_PHOTO = "Add a photograph, choose a clip, or pick an example; the answer appears here."

PICKED = """element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-picked]');
  if (button) trigger('select', {picked: button.dataset.picked});
});"""

SHOW_ON_PHONES = """() => {
  const answer = innerWidth > 640 ? null : document.querySelector('.answers');
  if (answer) answer.scrollIntoView({block: 'start'});
}"""

PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal", "queue": False}
"""Every event is a request of its own: Gradio's queue sends all responses through one stream, and loses those to events
that start while it closes the stream. AppState runs predictions one at a time, and Explainers heat maps."""


def _refuse_addresses(move: Any) -> Any:
    async def take(self: Any, path: Any) -> Any:
        if str(path).lower().startswith(("http:", "https:")):
            raise gr.Error("Send the photograph itself, not its URL.")
        return await move(self, path)

    return take


def take_raw_uploads() -> None:
    """Make Gradio's image fields pass on the uploaded file itself, so that only our own code decodes it.

    The fields also refuse URLs sent instead of a photograph. This patches the class: Gradio creates new fields when it
    updates a visitor's page, and a subclass would make it write a stub file next to this one.
    """
    for field in (gr.Image, gr.UploadButton):
        field.async_move_resource_to_block_cache = _refuse_addresses(field.async_move_resource_to_block_cache)  # type: ignore[method-assign]
    gr.Image.preprocess = lambda self, payload: None if payload is None else payload.path  # type: ignore[method-assign]


take_raw_uploads()


def model_choices(state: AppState) -> list[tuple[str, str]]:
    """Return the systems to choose from, with their display names."""
    return [(html.NAMES.get(name, name), name) for name in state.systems]


def comparable_choices(state: AppState) -> list[tuple[str, str]]:
    """Return `model_choices` and, if there are several networks, all of them side by side."""
    return [*model_choices(state), *([("Side by side", COMPARE)] if len(state.networks) > 1 else [])]


def label_choices(labels: Iterable[str]) -> list[tuple[str, str]]:
    return [(display_name(label), label) for label in labels]


class IdentifyTab:
    """Identify a photograph and show similar ones from the gallery. Below, many photographs at once."""

    def __init__(self, state: AppState) -> None:
        self.state = state
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                sources: Any = ["upload", "clipboard", "webcam"]
                self.photo = gr.Image(label="Photograph", sources=sources, height=320, elem_id="identify-photo")
                self.model = gr.Radio(
                    comparable_choices(state), value=state.systems[0], label="Model", elem_id="identify-model"
                )
                self.clip = gr.UploadButton(
                    "Or choose a clip of one item",
                    file_types=[*CLIP_SUFFIXES],
                    elem_id="identify-clip",
                    elem_classes="quiet",
                )
                gr.HTML('<p class="note">Examples that no model was trained on</p>')
                examples = gr.HTML(html.examples(state.systems[0], state.example_rows()), js_on_load=PICKED)
            with gr.Column(scale=3, min_width=320):
                answers = gr.HTML(html.empty("No photograph yet", NO_PHOTO), elem_id="answer")
                why = WhyPanel(state)
                self.search_like = gr.Button("Search for photographs like it", visible=False, elem_classes="quiet")
        similar = gr.HTML("", elem_id="similar")
        space = state.gallery.label_space
        named = [*space.tasks, *(label for task in space for label in space.labels[task])]
        names = html.json_attribute({name: display_name(name) for name in named})
        gr.HTML(f'<vitrine-batch data-model="{state.systems[0]}" data-names="{names}"></vitrine-batch>')
        outputs = [answers, similar, self.search_like]
        why.connect(self.photo, self.model, PRIVATE)
        inputs = [self.photo, self.clip]
        changes = (self.photo.change, True, False), (self.clip.upload, False, True), (self.model.change, False, False)
        for trigger, by_photo, by_clip in changes:
            trigger(lambda: "", None, why.picture, **PRIVATE)
            # A new clip replaces the photograph, and a new photograph the clip.
            waiting = partial(self.show_waiting, by_photo, by_clip)
            started = trigger(waiting, inputs, [*outputs, *inputs], **PRIVATE)
            predict = partial(self.show_prediction, by_photo, by_clip)
            done = started.then(predict, [*inputs, self.model], outputs, **PRIVATE)
            done.then(None, js=SHOW_ON_PHONES)
            why.follow(done)
        self.model.change(None, self.model, js="(model) => vitrine.set({model})")
        examples.select(self.take_example, None, self.photo, **PRIVATE)

    def show_waiting(self, by_photo: bool, by_clip: bool, photo: str | None, clip: str | None) -> tuple[Any, ...]:
        """Clear the panels while a prediction runs; return them, then the photograph and the clip to keep.

        Args:
            by_photo, by_clip: what changed, if not the model.
        """
        if by_photo and not photo and clip:  # the clip that replaced it already has its answer
            return tuple(gr.skip() for _ in range(5))
        kept: tuple[Any, Any] = (None if by_clip else gr.skip(), None if by_photo and clip else gr.skip())
        return *self.panels(html.waiting("Identifying…") if photo or clip else None), *kept

    def panels(self, answer: str | None, similar: str = "", may_search: bool = False) -> tuple[str, str, Any]:
        return answer or html.empty("No photograph yet", NO_PHOTO), similar, gr.update(visible=may_search)

    def show_prediction(
        self, by_photo: bool, by_clip: bool, photo: str | None, clip: str | None, model: str
    ) -> tuple[Any, Any, Any]:
        shown = clip if by_clip else photo or clip
        if not shown:
            return self.panels(None)
        if by_photo and not photo:
            return gr.skip(), gr.skip(), gr.skip()
        try:
            predictions = self.state.predict([shown], self.state.chosen(model))
            system, gallery = predictions[0].system, self.state.gallery
            hits = gallery.similar(system, predictions[0].embedding, NUM_SIMILAR)
        except (PhotoError, ArtifactError) as error:
            return self.panels(html.empty("No answer for this file", str(error)))
        like = html.similar(gallery, system, hits, len(predictions) > 1)
        return self.panels(html.answers(predictions), strip(predictions) + like, shown == photo)

    def take_example(self, event: gr.EventData) -> NDArray[np.uint8]:
        try:
            system, row = self.state.locate(f"{self.state.systems[0]}/{event.picked}")
            return decode_photo(self.state.gallery.file(system, row), EXAMPLE_PX, self.state.gallery.max_megapixels)
        except (ArtifactError, PhotoError) as error:
            raise gr.Error(str(error)) from None


class SearchTab:
    """Search the gallery by words, by labels, and by similarity to a photograph.

    The URL holds the search's state: page.js writes it after every search, and `restore` reads it.
    """

    def __init__(self, state: AppState) -> None:
        self.state = state
        with gr.Row(elem_classes="aligned"):
            words = gr.Textbox(
                label="Words", placeholder="blue plastic bottle, not used", scale=4, elem_id="words", max_length=500
            )
            button = gr.Button("Search", variant="primary", scale=1, min_width=110)
        chips = gr.HTML(html.chips(state.gallery.suggestions()), js_on_load=PICKED)
        with gr.Row():
            gr.HTML(html.fold("Model and filters"), elem_id="unfold-filters")
            with gr.Column(scale=1, min_width=240, elem_id="filters"):
                self.model = gr.Radio(
                    comparable_choices(state), value=state.systems[0], label="Model", elem_id="search-model"
                )
                with gr.Accordion("Like a photograph", open=False) as self.like_fold:
                    self.like_photo = gr.Image(
                        label="Like", sources=["upload", "clipboard"], height=180, elem_id="like-photo"
                    )
                boxes = []
                for task, labels in state.gallery.label_space.labels.items():
                    with gr.Accordion(display_name(task).capitalize(), open=False):
                        choices = label_choices(labels)
                        boxes.append(gr.CheckboxGroup(choices, show_label=False, label=task, elem_classes="facet"))
            with gr.Column(scale=4, min_width=320):
                count = gr.HTML("")
                clear = gr.Button("Clear photo", visible=False, elem_classes="quiet")
                results = gr.HTML("", elem_id="results")
                further = gr.Button("Show more", visible=False, elem_classes="quiet")
        # A gr.State would not reach page.js, which writes the value into the URL.
        like, num = gr.Textbox("", visible="hidden", label="Like"), gr.State(PAGE_SIZE)
        self.inputs = [words, self.model, self.like_photo, like, num, *boxes]
        self.outputs = [results, count, further, clear, *boxes]
        self.restored = [words, self.model, self.like_photo, like, num, *boxes]
        self._remembered = [words, self.model, like, *boxes]

        triggers = (words.submit, button.click, *(box.input for box in boxes))
        for trigger in (*triggers, self.model.input, self.like_photo.change):
            self.then_search(trigger(lambda: PAGE_SIZE, None, num, **PRIVATE))
        self.then_search(further.click(lambda num: num + PAGE_SIZE, num, num, **PRIVATE))
        self.then_search(chips.select(picked_words, None, words, **PRIVATE))
        self.then_search(clear.click(lambda: ("", None), None, [like, self.like_photo], **PRIVATE))

    def then_search(self, event: Any, from_address: bool = False) -> None:
        """Search after an event, then write the search into the URL."""
        shown = event.then(self.show_results, self.inputs, self.outputs, **PRIVATE)
        fixed = f"{json.dumps(self.state.gallery.label_space.tasks)}, {json.dumps(from_address)}"
        shown.then(None, self._remembered, js=f"(...values) => vitrine.remember({fixed}, ...values)")

    def connect(self, tabs: gr.Tabs, identify: IdentifyTab) -> None:
        """Let the other tab send its photograph here."""
        identify.search_like.click(self.take_along, identify.photo, [self.like_photo, self.like_fold, tabs], **PRIVATE)

    def show_results(
        self, words: str | None, model: str, photo: str | None, like: str, num: int, *chosen: list[str]
    ) -> tuple[Any, ...]:
        """Return the results, the line above them, the buttons below, and the filters with their label counts."""
        words, gallery = words or "", self.state.gallery
        labels = dict(zip(gallery.label_space.tasks, chosen, strict=True))
        try:
            pages = {
                name: self.state.search(name, words, labels, photo, like, num) for name in self.state.chosen(model)
            }
        except (PhotoError, ArtifactError) as error:
            unchanged = [gr.skip() for _ in labels]
            return html.empty("This search is not possible", str(error)), "", gr.skip(), gr.skip(), *unchanged
        what = f" “{words.strip()}”" if words.strip() else ""
        what += (" and are like the photograph" if what else " the photograph") if photo or like else ""
        parts = []
        for name, page in pages.items():
            advice = "Remove a filter or a word." if any(chosen) else page.result.message or "Try other words."
            content = html.results(gallery, name, page) if page.result.hits else html.empty("Nothing found", advice)
            parts.append((name, html.count_line(page, what) if page.result.hits else "", content))
        first = next(iter(pages.values()))
        line, results = (parts[0][1], parts[0][2]) if len(parts) == 1 else ("", html.side_by_side(parts))
        understood = (first.result.message or "") if first.result.hits and words.strip() else ""
        summary = f'<p class="count" role="status"><b>{escape(line)}</b> {escape(understood)}</p>'
        updates = [
            gr.update(choices=[(f"{display_name(label)} ({first.facets[task][label]})", label) for label in names])
            for task, names in gallery.label_space.labels.items()
        ]
        more = gr.update(visible=num < min(first.num_found, MAX_HITS))
        return results, summary, more, gr.update(visible=bool(photo or like)), *updates

    def take_along(self, photo: str | None) -> tuple[Any, Any, Any]:
        """Copy an uploaded photograph, as its pixels alone, into the search, and open the tab."""
        if not photo:
            raise gr.Error(NO_PHOTO)
        try:
            drawn = self.state.decode([photo], EXAMPLE_PX)[0]
        except PhotoError as error:
            raise gr.Error(str(error)) from None
        return drawn, gr.Accordion(open=True), gr.Tabs(selected="search")


TABS = ("identify", "search", "accuracy", "labels")


def restore(state: AppState, loading: bool, address: str) -> tuple[Any, ...]:
    """Parse a URL's query: return the tab, the model of IdentifyTab, and the values of SearchTab.restored.

    Unknown values are ignored because anybody can type a URL. A page that loads without state in its URL is left
    unchanged, so that a visitor who is already typing loses nothing.
    """
    query = parse_qs(address.lstrip("?")[:4000])
    if loading and not query.keys() & {"tab", "q", "model", "like", *state.gallery.label_space.tasks}:
        return tuple(gr.skip() for _ in range(7 + len(state.gallery.label_space.tasks)))
    first = {key: values[0] for key, values in query.items()}
    tab = first.get("tab") if first.get("tab") in TABS else TABS[0]
    choices = [name for _, name in comparable_choices(state)]
    model = first.get("model") if first.get("model") in choices else state.systems[0]
    try:
        like = "/".join(map(str, state.locate(first.get("like", ""))))
    except ArtifactError:
        like = ""
    boxes = [
        [label for label in query.get(task, []) if label in labels]
        for task, labels in state.gallery.label_space.labels.items()
    ]
    words = first.get("q", "")[:500]
    return gr.Tabs(selected=tab), model, words, model, None, like, PAGE_SIZE, *boxes


def picked_words(event: gr.EventData) -> str:
    return str(event.picked)[:100]


def labels_tab(state: AppState) -> None:
    """Review labels that a model disagrees with, one by one: page.js requests them and sends corrections.

    The tab also shows photographs without labels: queue.js requests them and sends labels.
    """
    gr.HTML(
        f'{MODES}<section data-mode="check"><p class="note">Val and test photographs whose label a model does not '
        "predict: wrong labels, or hard photographs. A correction is one line in data/corrections.csv; the next "
        "<code>dvc repro</code> applies it.</p>"
        f'<vitrine-labels data-tasks="{html.json_attribute(label_choices(state.gallery.label_space.tasks))}" '
        f'data-models="{html.json_attribute(model_choices(state))}"></vitrine-labels></section>'
        '<section data-mode="queue"><p class="note">Unlabeled photographs worth labeling next, as chosen by '
        "<code>vitrine label next</code>. The labels are written into its table; <code>vitrine label add"
        "</code> copies them into your dataset.</p><vitrine-queue></vitrine-queue></section>"
    )


MODES = (
    '<div class="modes" role="radiogroup" aria-label="What to review">'
    '<label><input type="radio" name="labels" value="check" checked> Labels to check</label>'
    '<label><input type="radio" name="labels" value="queue"> Photographs to label</label></div>'
)
"""Which part of the tab is shown; queue.css hides the other."""


def accuracy_tab(state: AppState) -> None:
    """Show the scores and pictures of the last evaluation, and how much was trained on."""
    try:
        scores = read_score_table(state.root / "plots/evaluate/scores.csv")
        split = read_json(state.root / "data/splits/counts.json")
    except ArtifactError as error:
        gr.HTML(html.empty("Not measured yet", str(error)))
        return
    photos, items, tasks = split["photos"], split["items"], state.gallery.label_space.tasks
    best = state.systems[0]
    texts = {
        f"confusion_{best}.png": "Which classes are confused",
        "calibration.png": "Whether confidence is calibrated",
        f"pca_{best}.png": "Photographs in embedding space",
        "curves.png": "How training went",
    }
    pictures = {name: text for name, text in texts.items() if name in state.plots}
    history = f"Class accuracy of {html.NAMES.get(best, best)}"
    points = score_history(state.root, f"metrics/evaluate/{best}.json", CLASS_TASK)
    summary = (
        f"{html.name_of(best)}, on {photos['test']} test photographs of {items['test']} items that no model saw; "
        f"trained on {photos['train']} photographs of {items['train']} others."
    )
    link = '<a href="/report" target="_blank" rel="noopener">Read the whole report</a>'
    gr.HTML(
        f'<h2 class="section">How often the answers are right</h2>{html.scorecard(scores, best, tasks)}'
        f'<p class="note">{summary} {link if state.has_report else ""}</p>'
        f'<details class="howto"><summary>How to read this</summary><p>{READING}</p></details>'
        f'<h2 class="section">All systems</h2>{html.score_table(scores, tasks)}'
        f'<h2 class="section">In pictures</h2>{html.figures(pictures)}'
        f'<h2 class="section">Over time</h2>{html.history_chart(points, history)}'
    )


READING = (
    "Each number is the share of test photographs whose most probable label is right. Views of one item are alike, so "
    "the 95 % intervals beside them count items, not photographs: two systems whose intervals overlap widely cannot be "
    "distinguished by this test. A task is marked not reliable on this data if no confidence threshold makes its "
    "answers on val right often enough (evaluate.sure_accuracy)."
)
