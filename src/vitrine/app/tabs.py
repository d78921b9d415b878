"""The page's tabs, one class each: `__init__` lays it out and connects it, the other methods answer events."""

from __future__ import annotations

import os
from collections.abc import Iterable
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr

from vitrine.app import html
from vitrine.app.state import COMPARE, MAX_HITS, AppState
from vitrine.artifacts import ArtifactError, read_json
from vitrine.data.catalog import CatalogError
from vitrine.labels import display_name, read_score_table
from vitrine.photos import PhotoError, decode_photo

PAGE_SIZE = 24
NUM_SIMILAR = 6
EXAMPLE_PX = 256
NO_PHOTO = "Choose one, drop it here, paste it, or take an example."

PICKED = """element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-picked]');
  if (button) trigger('select', {picked: button.dataset.picked});
});"""

SHOW_ON_PHONES = """() => {
  const answer = innerWidth > 640 ? null : document.querySelector('.answers');
  if (answer) answer.scrollIntoView({block: 'start'});
}"""

PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
PREDICT: dict[str, Any] = {"concurrency_id": "predict", "concurrency_limit": 1}
SEARCH: dict[str, Any] = {"concurrency_id": "search", "concurrency_limit": 4}


def raw_upload(field: Any) -> Any:
    """Make a Gradio field hand over the uploaded file itself, so that only our own code decodes it.

    Nor does it fetch an address that somebody sends instead of a photograph.
    """
    move = field.async_move_resource_to_block_cache

    async def take(path: Any) -> Any:
        if str(path).lower().startswith(("http:", "https:")):
            raise gr.Error("Send the photograph itself, not its address.")
        return await move(path)

    field.async_move_resource_to_block_cache = take
    if isinstance(field, gr.Image):
        field.preprocess = lambda payload: None if payload is None else payload.path  # type: ignore[method-assign]
    return field


def model_choices(state: AppState) -> list[tuple[str, str]]:
    """Return the systems to choose from, by the names that people see."""
    return [(html.NAMES.get(name, name), name) for name in state.systems]


def comparable_choices(state: AppState) -> list[tuple[str, str]]:
    """Return the same and, with several networks, all of them side by side."""
    return [*model_choices(state), *([("Side by side", COMPARE)] if len(state.networks) > 1 else [])]


def label_choices(labels: Iterable[str]) -> list[tuple[str, str]]:
    return [(display_name(label), label) for label in labels]


class PredictTab:
    """A photograph, or several of one item: what is on it, and what in the gallery is like it."""

    def __init__(self, state: AppState) -> None:
        self.state = state
        with gr.Row():
            with gr.Column(scale=2, min_width=300):
                sources: Any = ["upload", "clipboard", "webcam"]
                self.photo = raw_upload(gr.Image(label="Photograph", sources=sources, height=320, elem_id="look-photo"))
                with gr.Accordion("More photographs of the same item", open=False):
                    self.more = raw_upload(
                        gr.File(label="Up to eleven more", file_count="multiple", file_types=["image"], height=120)
                    )
                model = gr.Radio(comparable_choices(state), value=state.systems[0], label="Model", elem_id="look-model")
                gr.HTML('<p class="note">Examples that no model was trained on</p>')
                examples = gr.HTML(html.examples(state.systems[0], state.example_rows()), js_on_load=PICKED)
            with gr.Column(scale=3, min_width=320):
                answers = gr.HTML(html.empty("No photograph yet", NO_PHOTO))
                self.search_like = gr.Button("Search for photographs like it", visible=False, elem_classes="quiet")
        self.similar = gr.HTML("", js_on_load=PICKED, elem_id="similar")
        self.opened, self.opened_place = gr.HTML(""), gr.State("")
        self.like_opened = gr.Button("Find photographs like this", visible=False, elem_classes="quiet")
        outputs = [answers, self.similar, self.search_like, self.opened, self.like_opened]
        for trigger in (self.photo.change, self.more.change, model.change):
            trigger(self.show_prediction, [self.photo, self.more, model], outputs, **PRIVATE, **PREDICT).then(
                None, js=SHOW_ON_PHONES
            )
        examples.select(self.take_example, None, self.photo, **PRIVATE, **SEARCH)

    def show_prediction(self, photo: str | None, more: list[str] | None, model: str) -> tuple[str, str, Any, str, Any]:
        paths = [path for path in (photo, *(more or [])) if path]
        hidden = gr.update(visible=False)
        nothing = "", hidden, "", hidden
        if not paths:
            return html.empty("No photograph yet", NO_PHOTO), *nothing
        try:
            found = self.state.predict(paths, self.state.chosen(model))
        except (PhotoError, ArtifactError) as error:
            return html.empty("No answer for this photograph", str(error)), *nothing
        system, gallery = found[0].system, self.state.gallery
        hits = gallery.indexes[system].search(like=found[0].embedding, top_k=NUM_SIMILAR, by_item=True).hits
        similar = '<h2 class="section">Most like it in the gallery</h2>' + html.cards(gallery, system, hits, "six")
        return html.answers(found, len(paths)), similar, gr.update(visible=True), "", hidden

    def take_example(self, event: gr.EventData) -> NDArray[np.uint8]:
        try:
            system, row = self.state.locate(f"{self.state.systems[0]}/{event.picked}")
            return decode_photo(self.state.gallery.file(system, row), EXAMPLE_PX, self.state.gallery.max_megapixels)
        except (ArtifactError, PhotoError) as error:
            raise gr.Error(str(error)) from None


class SearchTab:
    """Words, labels to choose, a photograph to be like: what the gallery has of it."""

    def __init__(self, state: AppState) -> None:
        self.state = state
        with gr.Row(elem_classes="aligned"):
            words = gr.Textbox(
                label="Words", placeholder="blue plastic bottle, not used", scale=4, elem_id="words", max_length=500
            )
            button = gr.Button("Search", variant="primary", scale=1, min_width=110)
        chips = gr.HTML(html.chips(state.suggestions()), js_on_load=PICKED)
        with gr.Row():
            gr.HTML(html.fold("Model and filters"), elem_id="unfold-filters")
            with gr.Column(scale=1, min_width=240, elem_id="filters"):
                model = gr.Radio(
                    comparable_choices(state), value=state.systems[0], label="Model", elem_id="search-model"
                )
                with gr.Accordion("Like a photograph", open=False) as self.like_fold:
                    self.like_photo = raw_upload(
                        gr.Image(label="Like", sources=["upload", "clipboard"], height=180, elem_id="like-photo")
                    )
                boxes = []
                for task, labels in state.gallery.label_space.labels.items():
                    with gr.Accordion(display_name(task).capitalize(), open=False):
                        choices = label_choices(labels)
                        boxes.append(gr.CheckboxGroup(choices, show_label=False, label=task, elem_classes="facet"))
            with gr.Column(scale=4, min_width=320):
                count = gr.HTML("")
                opened = gr.HTML("")
                with gr.Row():
                    like_opened = gr.Button("Find photographs like this", visible=False, elem_classes="quiet")
                    forget = gr.Button("Forget the photograph", visible=False, elem_classes="quiet")
                results = gr.HTML("", js_on_load=PICKED, elem_id="results")
                further = gr.Button("Show more", visible=False, elem_classes="quiet")
        like, opened_place, num = gr.State(""), gr.State(""), gr.State(PAGE_SIZE)
        self.inputs = [words, model, self.like_photo, like, num, *boxes]
        self.outputs = [results, count, further, forget, *boxes]
        self._like_outputs = [like, self.like_photo, words, opened]

        changes = (words.submit, button.click, model.change, self.like_photo.change, *(box.input for box in boxes))
        for trigger in changes:
            self._then_search(trigger(lambda: PAGE_SIZE, None, num, queue=False, **PRIVATE))
        self._then_search(further.click(lambda num: num + PAGE_SIZE, num, num, queue=False, **PRIVATE))
        self._then_search(chips.select(picked_words, None, words, queue=False, **PRIVATE))
        cleared = [like, self.like_photo]
        self._then_search(forget.click(lambda: ("", None), None, cleared, queue=False, **PRIVATE))
        results.select(self.open, None, [opened, like_opened, opened_place], **PRIVATE, **SEARCH)
        self._found_from = [(like_opened, opened_place)]

    def _then_search(self, event: Any) -> None:
        event.then(self.show_results, self.inputs, self.outputs, **PRIVATE, **SEARCH)

    def connect(self, tabs: gr.Tabs, predict: PredictTab) -> None:
        """Bring photographs here: those of the other tab, and those that a button asks to be like."""
        predict.similar.select(
            self.open, None, [predict.opened, predict.like_opened, predict.opened_place], **PRIVATE, **SEARCH
        )
        predict.search_like.click(
            self.take_along, [predict.photo, predict.more], [self.like_photo, self.like_fold, tabs], **PRIVATE, **SEARCH
        )
        for button, place in (*self._found_from, (predict.like_opened, predict.opened_place)):
            self._then_search(
                button.click(
                    lambda place: (place, None, "", "", gr.Tabs(selected="search")),
                    place,
                    [*self._like_outputs, tabs],
                    queue=False,
                    **PRIVATE,
                )
            )

    def show_results(
        self, words: str | None, model: str, photo: str | None, like: str, num: int, *chosen: list[str]
    ) -> tuple[Any, ...]:
        """Return results, the line above them, the buttons below, and each filter with its labels counted."""
        words, gallery = words or "", self.state.gallery
        labels = dict(zip(gallery.label_space.tasks, chosen, strict=True))
        try:
            pages = {
                name: self.state.search(name, words, labels, photo, like, num) for name in self.state.chosen(model)
            }
        except (PhotoError, ArtifactError) as error:
            unchanged = [gr.skip() for _ in labels]
            return html.empty("This search is not possible", str(error)), "", gr.skip(), gr.skip(), *unchanged
        first = next(iter(pages.values()))
        parts = []
        for name, page in pages.items():
            advice = "Remove a filter or a word." if any(chosen) else page.result.message or "Try other words."
            cards = html.cards(gallery, name, page.result.hits)
            parts.append((name, cards if page.result.hits else html.empty("Nothing found", advice)))
        results = parts[0][1] if len(parts) == 1 else html.side_by_side(parts)
        best_first = ", the best first" if words.strip() or photo or like else ""
        count = f"{first.num_found} photographs{best_first}. {first.result.message or ''}" if first.result.hits else ""
        updates = [
            gr.update(choices=[(f"{display_name(label)} ({first.facets[task][label]})", label) for label in names])
            for task, names in gallery.label_space.labels.items()
        ]
        more = gr.update(visible=num < min(first.num_found, MAX_HITS))
        forget = gr.update(visible=bool(photo or like))
        return results, f'<p class="note" role="status">{escape(count)}</p>', more, forget, *updates

    def open(self, event: gr.EventData) -> tuple[str, Any, str]:
        try:
            system, row = self.state.locate(str(event.picked))
        except ArtifactError as error:
            raise gr.Error(str(error)) from None
        return html.detail(self.state.gallery, system, row), gr.update(visible=True), f"{system}/{row}"

    def take_along(self, photo: str | None, more: list[str] | None) -> tuple[Any, Any, Any]:
        """Bring an uploaded photograph here, as its pixels alone."""
        paths = [path for path in (photo, *(more or [])) if path]
        if not paths:
            raise gr.Error(NO_PHOTO)
        try:
            drawn = self.state.decode(paths[:1], EXAMPLE_PX)[0]
        except PhotoError as error:
            raise gr.Error(str(error)) from None
        return drawn, gr.Accordion(open=True), gr.Tabs(selected="search")


def picked_words(event: gr.EventData) -> str:
    return str(event.picked)[:100]


class ReviewTab:
    """Labels that a model finds improbable, to be corrected."""

    def __init__(self, state: AppState) -> None:
        self.state = state
        tasks = state.gallery.label_space.tasks
        gr.HTML(
            '<p class="note">Labels of val and test photographs that a model finds improbable: wrong labels, '
            "or hard photographs. A correction is a line in data/corrections.csv.</p>"
        )
        with gr.Row():
            model = gr.Radio(model_choices(state), value=state.systems[0], label="Model")
            task = gr.Radio(label_choices(tasks), value=tasks[0], label="Task")
        place = gr.State("")
        with gr.Row(elem_classes="aligned"):
            label = gr.Dropdown([], label="Right label", interactive=True, scale=3, elem_id="right-label")
            save = gr.Button("Save the correction", variant="primary", scale=1)
        message, opened = gr.HTML(""), gr.HTML("")
        self.doubts = gr.HTML("", js_on_load=PICKED, elem_id="doubts")
        self.inputs = [task, model, place]
        for trigger in (model.change, task.change):
            trigger(self.list_doubts, self.inputs, self.doubts, **PRIVATE, **SEARCH)
        self.doubts.select(self.open, [task, model], [place, opened, label, self.doubts], **PRIVATE, **SEARCH)
        save.click(self.save, [place, task, label, model], [message, self.doubts], **PRIVATE, **SEARCH)

    def list_doubts(self, task: str, model: str, place: str) -> str:
        pressed = int(place.split("/")[1]) if place.startswith(f"{model}/") else None
        found = self.state.gallery.doubts(model, task, PAGE_SIZE)
        return html.doubts(model, found, pressed) if found else html.empty("Nothing to review", "")

    def open(self, event: gr.EventData, task: str, model: str) -> tuple[str, str, Any, str]:
        try:
            system, row = self.state.locate(f"{model}/{event.picked}")
        except ArtifactError as error:
            raise gr.Error(str(error)) from None
        gallery, place = self.state.gallery, f"{system}/{row}"
        choices = label_choices(gallery.label_space.labels[task])
        label = gr.update(choices=choices, value=gallery.labels_of(system, row).get(task))
        return place, html.detail(gallery, system, row), label, self.list_doubts(task, model, place)

    def save(self, place: str, task: str, label: str | None, model: str) -> tuple[str, str]:
        if not place or not label:
            return html.banner("First choose a photograph and its right label."), self.list_doubts(task, model, place)
        try:
            path = self.state.correct(place, task, label)
        except (ArtifactError, CatalogError) as error:
            return html.banner(str(error)), self.list_doubts(task, model, place)
        text = f"{path}: {task} is now {display_name(label)}, in data/corrections.csv. dvc repro applies it."
        return f'<p class="note" role="status">{escape(text)}</p>', self.list_doubts(task, model, place)


def accuracy_tab(state: AppState) -> None:
    """The scores and pictures of the last evaluation, and what was trained on."""
    try:
        scores = read_score_table(state.root / "plots/evaluate/scores.csv")
        split = read_json(state.root / "data/splits/counts.json")
    except ArtifactError as error:
        gr.HTML(html.empty("Not measured yet", str(error)))
        return
    photos, items = split["photos"], split["items"]
    note = (
        f"Trained on {photos['train']} photographs of {items['train']} items, judged on {photos['test']} photographs "
        f"of {items['test']} others. In small print: 95 % intervals over items."
    )
    best = state.systems[0]
    texts = {
        "curves.png": "Training curves of the networks",
        f"confusion_{best}.png": "Which classes the best system mixes up",
        "calibration.png": "Whether confidence can be believed",
        f"pca_{best}.png": "Embeddings of all photographs in two dimensions",
    }
    pictures = {name: text for name, text in texts.items() if name in state.plots}
    table = html.score_table(scores, state.gallery.label_space.tasks)
    gr.HTML(
        f'<h2 class="section">How good is it</h2>{table}<p class="note">{note}</p>'
        f'<h2 class="section">In pictures</h2>{html.figures(pictures)}'
    )
