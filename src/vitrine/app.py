"""The page: look at a photograph, search the gallery, see how good it is, correct labels. The only Gradio."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import fastapi
import gradio as gr
import uvicorn
from starlette.middleware.trustedhost import TrustedHostMiddleware

from vitrine import views
from vitrine.artifacts import ArtifactError, read_json
from vitrine.catalog import CatalogError, DataParams
from vitrine.gallery import Gallery, Page
from vitrine.labels import read_measures
from vitrine.params import read_section
from vitrine.photos import PhotoError, decode_photo
from vitrine.systems import ENSEMBLE

if TYPE_CHECKING:
    from vitrine.inference import Predictor

LOCAL_HOSTS = ("127.0.0.1", "localhost")
COMPARE = "compare"
PAGE_SIZE = 24
NUM_SIMILAR = 6
MAX_PHOTOS = 12
EXAMPLE_PX = 256
MAX_HITS = 1000
NO_PHOTO = "Choose one, drop it here, paste it, or take an example."
MAX_SESSIONS = 200
"""Visitors whose choices are remembered, 0.2 MB each; a call of an endpoint from a program counts as a visitor."""
MAX_UPLOAD_BYTES = 20 * 1024 * 1024
SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"}
STALE_COSINE = 0.99
"""Embeddings of one photograph by one model are equal but for rounding; below this the index is another model's."""

PICKED = """element.addEventListener('click', (event) => {
  const button = event.target.closest('button[data-picked]');
  if (button) trigger('select', {picked: button.dataset.picked});
});"""

SECURITY_HEADERS = {
    # Gradio's own page needs inline scripts; nothing may come from, or go to, another host.
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

SHOW_ON_PHONES = """() => {
  const answer = innerWidth > 640 ? null : document.querySelector('.answers');
  if (answer) answer.scrollIntoView({block: 'start'});
}"""

COLORS = {
    "body_background_fill": "var(--paper)",
    "body_text_color": "var(--ink)",
    "block_background_fill": "var(--card)",
    "block_border_color": "var(--line)",
    "block_label_background_fill": "var(--card)",
    "block_label_text_color": "var(--muted)",
    "block_title_text_color": "var(--muted)",
    "body_text_color_subdued": "var(--muted)",
    "border_color_primary": "var(--line)",
    "button_primary_background_fill": "var(--accent)",
    "button_primary_background_fill_hover": "var(--accent)",
    "button_primary_text_color": "var(--card)",
    "button_secondary_background_fill": "var(--card)",
    "button_secondary_border_color": "var(--line)",
    "button_secondary_text_color": "var(--ink)",
    "checkbox_background_color": "var(--card)",
    "checkbox_background_color_selected": "var(--accent)",
    "checkbox_border_color": "var(--muted)",
    "checkbox_label_background_fill": "transparent",
    "checkbox_label_background_fill_selected": "var(--accent-soft)",
    "checkbox_label_text_color": "var(--ink)",
    "checkbox_label_text_color_selected": "var(--ink)",
    "input_background_fill": "var(--paper)",
    "input_border_color": "var(--line)",
    "input_placeholder_color": "var(--muted)",
}
"""Gradio's names for colors, and ours: app.css has their values, light and dark."""

log = logging.getLogger("vitrine")


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


class Shop:
    """All that the page does, without Gradio: gallery, predictors that load in the background, plots."""

    def __init__(self, root: Path, may_correct: bool) -> None:
        self.root = root
        self.may_correct = may_correct
        self.gallery = Gallery.load(root, read_section("data", DataParams, root / "params.yaml"))
        self.systems = [ENSEMBLE] if ENSEMBLE in self.gallery.indexes else []
        self.systems += [name for name in self.gallery.indexes if name != ENSEMBLE]
        self.networks = [name for name in self.systems if name != ENSEMBLE]
        self.plots = {path.name: path for path in sorted((root / "plots/evaluate").glob("*.png"))}
        self.warning = ""
        self._predictors: dict[str, Predictor] = {}
        self._loading, self._correcting = threading.Lock(), threading.Lock()

    # -- predictions -----------------------------------------------------------------------------------------------

    def predictor(self, system: str) -> Predictor:
        from vitrine.inference import Predictor  # PyTorch takes seconds; the page is there before it

        with self._loading:
            if system not in self._predictors:
                self._predictors[system] = Predictor.load(system, self.root / "models")
            return self._predictors[system]

    def warm_up(self) -> None:
        """Load every predictor, and see with three photographs whether the indexes are of these very models."""
        try:
            for system in self.systems:
                predictor, index = self.predictor(system), self.gallery.indexes[system]
                rows = range(min(3, len(index)))
                files = [self.gallery.file(system, row) for row in rows]
                found = predictor.predict_files(files).embeddings
                lengths = np.maximum(np.linalg.norm(found, axis=1), 1e-12)
                cosines = np.sum(found * index.embeddings[: len(found)], axis=1) / lengths
                if predictor.label_space != index.label_space or cosines.min() < STALE_COSINE:
                    raise ArtifactError(f"index/{system} was made by another model")
        except (ArtifactError, PhotoError, ValueError) as error:
            self.warning = f"The index does not fit the models: {error}. Run: dvc repro"
            log.error(self.warning)

    def decode(self, paths: Sequence[str], size_px: int) -> NDArray[np.uint8]:
        """Decode uploads, whose names, sizes and contents may be anything.

        Raises:
            PhotoError: a file is not a photograph that we take; its name is not repeated.
        """
        if len(paths) > MAX_PHOTOS:
            raise PhotoError(f"at most {MAX_PHOTOS} photographs of one item at once")
        decoded = []
        for text in paths:
            path = Path(text)
            if path.suffix.lower() not in SUFFIXES:
                raise PhotoError(f"only photographs are taken: {', '.join(sorted(s[1:] for s in SUFFIXES))}")
            try:
                if path.is_file() and path.stat().st_size > MAX_UPLOAD_BYTES:
                    raise PhotoError(f"is larger than {MAX_UPLOAD_BYTES // 1024**2} MB")
                decoded.append(decode_photo(path, size_px, self.gallery.max_megapixels))
            except PhotoError as error:
                raise PhotoError("This photograph " + str(error).removeprefix(f"{path}: ")) from None
        return np.stack(decoded)

    def look(self, paths: Sequence[str], systems: Sequence[str]) -> list[tuple[str, dict[str, Any], float, Any]]:
        """Answer for one item, with each system: its name, its answer, the seconds it took, its embedding."""
        from vitrine.inference import fuse

        found = []
        for system in systems:
            predictor = self.predictor(system)
            photos = self.decode(paths, predictor.photo_size_px)
            began = time.perf_counter()
            said = predictor.predict(photos, [f"photo {number + 1}" for number in range(len(photos))])
            if len(said) > 1:
                said = fuse(said, "item")
            took = time.perf_counter() - began
            found.append((system, predictor.in_words(said)[0], took, said.embeddings[0]))
        return found

    # -- search ----------------------------------------------------------------------------------------------------

    def search(
        self, system: str, words: str, chosen: Mapping[str, Sequence[str]], photo: str | None, like: str, num: int
    ) -> Page:
        """Search with words, an upload, or an indexed photograph (`SYSTEM/ROW`) to be like."""
        embedding = None
        if photo:
            embedding = self.look([photo], [system])[0][3]
        elif like:
            known, row = self.place(like)
            path = self.gallery.indexes[known].image_paths[row]
            index = self.gallery.indexes[system]
            rows = np.flatnonzero(index.image_paths == path)
            embedding = index.embeddings[rows[0]] if len(rows) else None
        return self.gallery.search(system, words, chosen, embedding, min(num, MAX_HITS))

    def place(self, picked: str) -> tuple[str, int]:
        """Read `SYSTEM/ROW` as the page sends it. Raises: ArtifactError when there is no such photograph."""
        match = re.fullmatch(r"(\w{1,40})/(\d{1,9})", picked)
        if match and match[1] in self.gallery.indexes and int(match[2]) < len(self.gallery.indexes[match[1]]):
            return match[1], int(match[2])
        raise ArtifactError("There is no such photograph.")

    def correct(self, picked: str, task: str, label: str) -> str:
        if not self.may_correct:
            raise ArtifactError("Labels can be corrected only where the page is bound to this machine.")
        system, row = self.place(picked)
        with self._correcting:
            return self.gallery.correct(system, row, task, label)

    def example_rows(self) -> list[int]:
        """Six photographs of different classes that no model was trained on."""
        index = self.gallery.indexes[self.systems[0]]
        rows: dict[str | None, int] = {}
        for row in range(len(index)):
            if self.gallery.split_of(index.name, row) == "test":
                rows.setdefault(self.gallery.labels_of(index.name, row)["class"], row)
        return list(rows.values())[:6] or list(range(min(6, len(index))))


def build(shop: Shop) -> gr.Blocks:
    """Lay out the page and connect it."""
    gallery, tasks = shop.gallery, shop.gallery.label_space.tasks
    names = [(views.NAMES.get(name, name), name) for name in shop.systems]
    both = [("Side by side", COMPARE)] if len(shop.networks) > 1 else []

    def chosen_systems(model: str) -> list[str]:
        return shop.networks if model == COMPARE else [model]

    # -- handlers --------------------------------------------------------------------------------------------------

    def look(photo: str | None, more: list[str] | None, model: str) -> tuple[str, str, Any, str, Any]:
        paths = [path for path in (photo, *(more or [])) if path]
        hidden = gr.update(visible=False)
        nothing = "", hidden, "", hidden
        if not paths:
            return views.empty("No photograph yet", NO_PHOTO), *nothing
        try:
            found = shop.look(paths, chosen_systems(model))
        except (PhotoError, ArtifactError) as error:
            return views.empty("No answer for this photograph", str(error)), *nothing
        system, _, _, embedding = found[0]
        similar = gallery.indexes[system].search(like=embedding, top_k=NUM_SIMILAR, by_item=True).hits
        shown = '<h2 class="section">Most like it in the gallery</h2>' + views.cards(gallery, system, similar, "six")
        return views.answers([part[:3] for part in found], len(paths)), shown, gr.update(visible=True), "", hidden

    def take_example(event: gr.EventData) -> NDArray[np.uint8]:
        try:
            system, row = shop.place(f"{shop.systems[0]}/{event.picked}")
            return decode_photo(gallery.file(system, row), EXAMPLE_PX, gallery.max_megapixels)
        except (ArtifactError, PhotoError) as error:
            raise gr.Error(str(error)) from None

    def take_along(photo: str | None, more: list[str] | None) -> tuple[Any, Any, Any]:
        """Bring the photograph in question to the search, as its pixels alone."""
        paths = [path for path in (photo, *(more or [])) if path]
        if not paths:
            raise gr.Error(NO_PHOTO)
        try:
            drawn = shop.decode(paths[:1], EXAMPLE_PX)[0]
        except PhotoError as error:
            raise gr.Error(str(error)) from None
        return drawn, gr.Accordion(open=True), gr.Tabs(selected="search")

    def find_photos(
        words: str | None, model: str, photo: str | None, like: str, num: int, *labels: list[str]
    ) -> tuple[str, str, Any, Any, *tuple[Any, ...]]:
        words, chosen = words or "", dict(zip(tasks, labels, strict=True))
        try:
            pages = {name: shop.search(name, words, chosen, photo, like, num) for name in chosen_systems(model)}
        except (PhotoError, ArtifactError) as error:
            unchanged = [gr.skip() for _ in tasks]
            return views.empty("This search is not possible", str(error)), "", gr.skip(), gr.skip(), *unchanged
        first = next(iter(pages.values()))
        parts = []
        for name, page in pages.items():
            advice = "Remove a filter or a word." if any(labels) else page.result.message or "Try other words."
            html = views.cards(gallery, name, page.result.hits)
            parts.append((name, html if page.result.hits else views.empty("Nothing found", advice)))
        shown = parts[0][1] if len(parts) == 1 else views.side_by_side(parts)
        message = first.result.message if first.result.hits and first.result.message else ""
        asked = bool(words.strip() or photo or like)
        count = f"{first.num_found} photographs" + (", the best first" if asked else "") + "."
        said = escape(f"{count} {message}" if first.result.hits else "")
        updates = [
            gr.update(choices=[(f"{label.replace('_', ' ')} ({first.facets[task][label]})", label) for label in space])
            for task, space in gallery.label_space.labels.items()
        ]
        more = gr.update(visible=num < min(first.num_found, MAX_HITS))
        forget = gr.update(visible=bool(photo or like))
        return shown, f'<p class="note" role="status">{said}</p>', more, forget, *updates

    def show(event: gr.EventData) -> tuple[str, Any, str]:
        try:
            system, row = shop.place(str(event.picked))
        except ArtifactError as error:
            raise gr.Error(str(error)) from None
        return views.detail(gallery, system, row), gr.update(visible=True), f"{system}/{row}"

    def queue(task: str, model: str, picked: str) -> str:
        pressed = int(picked.split("/")[1]) if picked.startswith(f"{model}/") else None
        found = gallery.doubts(model, task, PAGE_SIZE)
        return views.doubts(model, found, pressed) if found else views.empty("Nothing to review", "")

    def review(event: gr.EventData, task: str, model: str) -> tuple[str, str, Any, str]:
        try:
            system, row = shop.place(f"{model}/{event.picked}")
        except ArtifactError as error:
            raise gr.Error(str(error)) from None
        labels = list(gallery.label_space.labels[task])
        given = gallery.labels_of(system, row).get(task)
        choice = gr.update(choices=[(label.replace("_", " "), label) for label in labels], value=given)
        return f"{system}/{row}", views.detail(gallery, system, row), choice, queue(task, model, f"{system}/{row}")

    def save(picked: str, task: str, label: str | None, model: str) -> tuple[str, str]:
        if not picked or not label:
            return views.banner("First choose a photograph and its right label."), queue(task, model, picked)
        try:
            path = shop.correct(picked, task, label)
        except (ArtifactError, CatalogError) as error:
            return views.banner(str(error)), queue(task, model, picked)
        said = f"{path}: {task} is now {label.replace('_', ' ')}, in data/corrections.csv. dvc repro learns from it."
        return f'<p class="note" role="status">{escape(said)}</p>', queue(task, model, picked)

    def predict_api(photo: str, model: str) -> dict[str, Any]:
        try:
            found = shop.look([photo] if photo else [], chosen_systems(model)) if photo else []
        except (PhotoError, ArtifactError) as error:
            return {"error": str(error)}
        return {"answers": {name: answer["tasks"] for name, answer, _, _ in found}} if found else {"error": "no photo"}

    def search_api(words: str, model: str, top_k: float) -> dict[str, Any]:
        num = max(1, min(int(top_k or 10), MAX_HITS))
        page = shop.search(model, words or "", {}, None, "", num)
        hits = [
            {
                "image_path": hit.image_path,
                "score": round(hit.score, 6),
                "matches": [
                    {"label": m.label, "wanted": m.wanted, "probability": round(m.probability, 6)} for m in hit.matches
                ],
            }
            for hit in page.result.hits
        ]
        return {"hits": hits, "message": page.result.message, "unknown_words": page.result.query.unknown_words}

    # -- layout ----------------------------------------------------------------------------------------------------

    private: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}
    seeing: dict[str, Any] = {"concurrency_id": "predict", "concurrency_limit": 1}
    finding: dict[str, Any] = {"concurrency_id": "search", "concurrency_limit": 4}
    with gr.Blocks(title="Vitrine", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.HTML(views.masthead(len(gallery.indexes[shop.systems[0]])))
        warning = gr.HTML("")
        with gr.Tabs() as tabs:
            with gr.Tab("Look"):
                with gr.Row():
                    with gr.Column(scale=2, min_width=300):
                        sources: Any = ["upload", "clipboard", "webcam"]
                        photo = raw_upload(
                            gr.Image(label="Photograph", sources=sources, height=320, elem_id="look-photo")
                        )
                        with gr.Accordion("More photographs of the same item", open=False):
                            more = raw_upload(
                                gr.File(
                                    label="Up to eleven more", file_count="multiple", file_types=["image"], height=120
                                )
                            )
                        model = gr.Radio([*names, *both], value=shop.systems[0], label="Model", elem_id="look-model")
                        gr.HTML('<p class="note">Examples that no model was trained on</p>')
                        sample = gr.HTML(views.examples(shop.systems[0], shop.example_rows()), js_on_load=PICKED)
                    with gr.Column(scale=3, min_width=320):
                        said = gr.HTML(views.empty("No photograph yet", NO_PHOTO))
                        search_like = gr.Button("Search for photographs like it", visible=False, elem_classes="quiet")
                similar = gr.HTML("", js_on_load=PICKED, elem_id="similar")
                near, near_shown = gr.HTML(""), gr.State("")
                like_near = gr.Button("Find photographs like this", visible=False, elem_classes="quiet")
                seen: list[Any] = [said, similar, search_like, near, like_near]
                for change in (photo.change, more.change, model.change):
                    change(look, [photo, more, model], seen, **private, **seeing).then(None, js=SHOW_ON_PHONES)
                sample.select(take_example, None, photo, **private, **finding)
            with gr.Tab("Search", id="search"):
                with gr.Row(elem_classes="aligned"):
                    words = gr.Textbox(
                        label="Words",
                        placeholder="blue plastic bottle, not used",
                        scale=4,
                        elem_id="words",
                        max_length=500,
                    )
                    find = gr.Button("Search", variant="primary", scale=1, min_width=110)
                hints = gr.HTML(views.chips(suggestions(gallery)), js_on_load=PICKED)
                with gr.Row():
                    gr.HTML(views.fold("Model and filters"), elem_id="unfold-filters")
                    with gr.Column(scale=1, min_width=240, elem_id="filters"):
                        kind = gr.Radio([*names, *both], value=shop.systems[0], label="Model", elem_id="search-model")
                        with gr.Accordion("Like a photograph", open=False) as likeness:
                            like_photo = raw_upload(
                                gr.Image(
                                    label="Like", sources=["upload", "clipboard"], height=180, elem_id="like-photo"
                                )
                            )
                        boxes = []
                        for task, labels in gallery.label_space.labels.items():
                            with gr.Accordion(task.replace("_", " ").capitalize(), open=False):
                                choices = [(label.replace("_", " "), label) for label in labels]
                                boxes.append(
                                    gr.CheckboxGroup(choices, show_label=False, label=task, elem_classes="facet")
                                )
                    with gr.Column(scale=4, min_width=320):
                        count = gr.HTML("")
                        opened = gr.HTML("")
                        with gr.Row():
                            like_this = gr.Button("Find photographs like this", visible=False, elem_classes="quiet")
                            forget = gr.Button("Forget the photograph", visible=False, elem_classes="quiet")
                        results = gr.HTML("", js_on_load=PICKED, elem_id="results")
                        further = gr.Button("Show more", visible=False, elem_classes="quiet")
                like, shown, num = gr.State(""), gr.State(""), gr.State(PAGE_SIZE)
                asked = [words, kind, like_photo, like, num, *boxes]
                answered = [results, count, further, forget, *boxes]

                def first_page() -> int:
                    return PAGE_SIZE

                for trigger in (
                    words.submit,
                    find.click,
                    kind.change,
                    like_photo.change,
                    *(box.input for box in boxes),
                ):
                    trigger(first_page, None, num, queue=False, **private).then(
                        find_photos, asked, answered, **private, **finding
                    )
                further.click(lambda num: num + PAGE_SIZE, num, num, queue=False, **private).then(
                    find_photos, asked, answered, **private, **finding
                )
                hints.select(_picked_words, None, words, queue=False, **private).then(
                    find_photos, asked, answered, **private, **finding
                )
                results.select(show, None, [opened, like_this, shown], **private, **finding)
                similar.select(show, None, [near, like_near, near_shown], **private, **finding)
                search_like.click(take_along, [photo, more], [like_photo, likeness, tabs], **private, **finding)
                for button, picked in ((like_this, shown), (like_near, near_shown)):
                    button.click(
                        lambda picked: (picked, None, "", "", gr.Tabs(selected="search")),
                        picked,
                        [like, like_photo, words, opened, tabs],
                        queue=False,
                        **private,
                    ).then(find_photos, asked, answered, **private, **finding)
                forget.click(lambda: ("", None), None, [like, like_photo], queue=False, **private).then(
                    find_photos, asked, answered, **private, **finding
                )
            with gr.Tab("How good is it"):
                gr.HTML(quality(shop))
            with gr.Tab("Review"):
                gr.HTML(
                    '<p class="note">Labels of val and test photographs that a model finds improbable: wrong labels, '
                    "or hard photographs. A correction is a line in data/corrections.csv.</p>"
                )
                with gr.Row():
                    judge = gr.Radio(names, value=shop.systems[0], label="Model")
                    doubted = gr.Radio([(task.replace("_", " "), task) for task in tasks], value=tasks[0], label="Task")
                reviewed = gr.State("")
                with gr.Row(elem_classes="aligned"):
                    right = gr.Dropdown([], label="Right label", interactive=True, scale=3, elem_id="right-label")
                    keep = gr.Button("Save the correction", variant="primary", scale=1)
                told, about = gr.HTML(""), gr.HTML("")
                doubts = gr.HTML("", js_on_load=PICKED, elem_id="doubts")
                for trigger in (judge.change, doubted.change):
                    trigger(queue, [doubted, judge, reviewed], doubts, **private, **finding)
                doubts.select(review, [doubted, judge], [reviewed, about, right, doubts], **private, **finding)
                keep.click(save, [reviewed, doubted, right, judge], [told, doubts], **private, **finding)
        with gr.Column(visible=False):
            api_photo, api_words = raw_upload(gr.Image(label="photo")), gr.Textbox(label="words")
            api_model = gr.Radio([*names, *both], value=shop.systems[0], label="model")
            api_system, api_top = gr.Radio(names, value=shop.systems[0], label="model"), gr.Number(10, label="top_k")
            api_answer, api_run = gr.JSON(), gr.Button()
            api_run.click(predict_api, [api_photo, api_model], api_answer, api_name="predict", **seeing)
            api_run.click(search_api, [api_words, api_system, api_top], api_answer, api_name="search", **finding)
        page.load(lambda: views.banner(shop.warning), None, warning, **private, queue=False)
        page.load(find_photos, asked, answered, **private, **finding)
        page.load(queue, [doubted, judge, reviewed], doubts, **private, **finding)
        page.queue(max_size=200)
    return page


def _picked_words(event: gr.EventData) -> str:
    return str(event.picked)[:100]


def suggestions(gallery: Gallery) -> list[str]:
    """Queries to try: from the labels themselves, one to three words of different tasks."""
    words = next(iter(gallery.indexes.values())).vocabulary.suggestions()
    *attributes, last = words
    made = [f"{attributes[0]} {last}" if attributes else last, *attributes[:3]]
    return [*made, f"{last} not {attributes[0]}"] if attributes else made


def quality(shop: Shop) -> str:
    """The scores and pictures of the last evaluation, and what was trained on."""
    try:
        scores = read_measures(shop.root / "plots/evaluate/scores.csv")
        split = read_json(shop.root / "metrics/split.json")
    except ArtifactError as error:
        return views.empty("Not measured yet", str(error))
    photos, items = split["photos"], split["items"]
    told = (
        f"Trained on {photos['train']} photographs of {items['train']} items, judged on {photos['test']} photographs "
        f"of {items['test']} others. In small print: 95 % intervals over items."
    )
    best = shop.systems[0]
    shown = {
        "curves.png": "Training curves of the networks",
        f"confusion_{best}.png": "Which classes the best system mixes up",
        "calibration.png": "Whether confidence can be believed",
        f"pca_{best}.png": "Embeddings of all photographs in two dimensions",
    }
    pictures = {name: text for name, text in shown.items() if name in shop.plots}
    table = views.score_table(scores, shop.gallery.label_space.tasks)
    return (
        f'<h2 class="section">How good is it</h2>{table}<p class="note">{told}</p>'
        f'<h2 class="section">In pictures</h2>{views.figures(pictures)}'
    )


async def create_app(root: Path, host: str) -> fastapi.FastAPI:
    """Make the web application; models load in the background.

    A coroutine, because outside of an event loop Gradio opens eight of its own and never closes them.

    Raises:
        ArtifactError: the pipeline below `root` has not been run.
    """
    local = host in LOCAL_HOSTS
    shop = Shop(root, may_correct=local)
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if local:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL_HOSTS])

    @app.middleware("http")
    async def add_headers(request: fastapi.Request, call_next: Any) -> Any:
        response = await call_next(request)
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    @app.get("/photo/{system}/{row}")
    def photo(system: str, row: int) -> fastapi.Response:
        try:
            file = shop.gallery.thumbnail(system, row)
        except (KeyError, PhotoError):
            return fastapi.Response(status_code=404)
        return fastapi.Response(file, media_type="image/webp", headers={"Cache-Control": "max-age=3600"})

    @app.get("/plot/{name}")
    def plot(name: str) -> fastapi.Response:
        if name not in shop.plots:
            return fastapi.Response(status_code=404)
        return fastapi.Response(shop.plots[name].read_bytes(), media_type="image/png")

    threading.Thread(target=shop.warm_up, daemon=True).start()
    theme = gr.themes.Base(
        primary_hue="teal", neutral_hue="stone", font=["system-ui", "sans-serif"], font_mono=["monospace"]
    )
    theme.set(**COLORS, **{f"{name}_dark": value for name, value in COLORS.items()})
    page = build(shop)
    page.state_session_capacity = MAX_SESSIONS
    mounted = gr.mount_gradio_app(
        app,
        page,
        path="/",
        theme=theme,
        # Gradio rewrites style sheets that it is given as such, and drops what it does not know.
        head=f"<style>{Path(__file__).with_name('app.css').read_text(encoding='utf-8')}</style>",
        show_error=False,
        max_file_size=MAX_UPLOAD_BYTES,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        allowed_paths=[],
        server_name=host,
    )
    # Gradio refuses paths that nobody uploaded only once it "has launched", which mounting forgets to say.
    page.has_launched = True
    return mounted


def serve(root: Path, host: str, port: int) -> None:
    """Serve the page until stopped."""

    async def run() -> None:
        app = await create_app(root, host)
        print(f"http://{host}:{port}", flush=True)
        config = uvicorn.Config(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=2)
        await uvicorn.Server(config).serve()

    with suppress(KeyboardInterrupt):
        asyncio.run(run())
