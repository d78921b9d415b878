"""Heat maps that explain an answer, shown next to it. PyTorch is loaded when one is first requested."""

from __future__ import annotations

import base64
import io
import threading
import time
from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr
from PIL import Image

from vitrine.app import html
from vitrine.app.state import AppState
from vitrine.artifacts import ArtifactError
from vitrine.errors import VitrineError
from vitrine.inference.heatmaps import overlay, reason_hidden
from vitrine.labels import display_name

if TYPE_CHECKING:
    from vitrine.inference.explanations import Explainer

PICTURE_PX = 384
WEBP_QUALITY = 85
WITHOUT_TORCH = "Heat maps need PyTorch, which is not installed here."


class Explainers:
    """The systems' explainers, each loaded on first use. Attributes: lock: held while one of them runs."""

    def __init__(self, state: AppState) -> None:
        self.models = state.root / "models"
        self._loading, self._loaded = threading.Lock(), dict[str, "Explainer"]()
        self.lock = threading.Lock()
        self._reasons: dict[tuple[str, str], str | None] = {}

    def get(self, system: str) -> Explainer:
        """Load an explainer. Raises: ArtifactError: PyTorch is not installed, or a checkpoint is missing or broken."""
        with self._loading:
            if system not in self._loaded:
                try:
                    from vitrine.inference.explanations import Explainer
                except ImportError:
                    raise ArtifactError(WITHOUT_TORCH) from None
                self._loaded[system] = Explainer.load(system, self.models)
            return self._loaded[system]

    def reason_hidden(self, system: str, task: str) -> str | None:
        """Cache `heatmaps.reason_hidden`; the models of a running server do not change."""
        with self._loading:
            if (system, task) not in self._reasons:
                self._reasons[system, task] = reason_hidden(system, task, self.models)
            return self._reasons[system, task]


class WhyPanel:
    """A switch, the task to explain, and a heat map for every chosen system."""

    def __init__(self, state: AppState) -> None:
        self.state, self.explainers = state, Explainers(state)
        tasks = [(display_name(task).capitalize(), task) for task in state.gallery.label_space.tasks]
        with gr.Column(elem_id="why"):
            self.switch = gr.Checkbox(False, label="Show why", elem_id="why-switch")
            self.task = gr.Radio(tasks, value=tasks[0][1], label="Heat map for", visible=False, elem_id="why-task")
            self.picture = gr.HTML("", elem_id="why-picture")

    def connect(self, photo: Any, model: Any, options: dict[str, Any]) -> None:
        """Show heat maps when the switch or the task changes; `follow` does so when the photograph changes."""
        self._inputs, self._options = [self.switch, self.task, photo, model], options
        for trigger in (self.switch.input, self.task.input):
            self.follow(trigger(self.show_waiting, [self.switch, photo], [self.picture, self.task], **options))

    def follow(self, event: Any) -> None:
        event.then(self.show, self._inputs, self.picture, **self._options)

    def show_waiting(self, wanted: bool, photo: str | None) -> tuple[str, Any]:
        text = html.waiting("Computing the heat map…") if wanted and photo else ""
        return text, gr.update(visible=wanted)

    def show(self, wanted: bool, task: str, photo: str | None, model: str) -> str:
        if not wanted or not photo or task not in self.state.gallery.label_space.labels:
            return ""
        try:
            parts = [self.explained(system, task, photo) for system in self.state.chosen(model)]
        except VitrineError as error:
            return html.empty("No heat map", str(error))
        return f'<div class="heatmaps">{"".join(parts)}</div>'

    def explained(self, system: str, task: str, photo: str) -> str:
        """Return one system's heat map of the label that it predicts, or why there is none."""
        reason = self.explainers.reason_hidden(system, task)
        if reason:
            return (
                f'<p class="note hidden-why" role="status">No heat map for {html.escaped_name(task)} by '
                f"{html.name_of(system)}: {escape(reason)}.</p>"
            )
        label = self.state.predict([photo], [system])[0].answer["tasks"][task]["labels"][0]["label"]
        explainer = self.explainers.get(system)
        decoded = self.state.decode([photo], explainer.decoding.photo_size_px)
        with self.explainers.lock:
            began = time.perf_counter()
            explanation = explainer.explain(decoded, [task], {task: label})[0][task]
            seconds = time.perf_counter() - began
        drawn = Image.fromarray(overlay(self.state.decode([photo], PICTURE_PX)[0], explanation.heatmap))
        packed = io.BytesIO()
        drawn.save(packed, "WEBP", quality=WEBP_QUALITY)
        source = f"data:image/webp;base64,{base64.b64encode(packed.getvalue()).decode()}"
        what = f"{html.escaped_name(task)}: {html.escaped_name(label)}"
        return (
            f'<figure><img src="{source}" alt="Heat map of {html.name_of(system)} for {what}">'
            f'<figcaption><span class="ramp" aria-hidden="true"></span>Bright regions support '
            f"<b>{html.escaped_name(label)}</b> ({html.escaped_name(task)}). "
            f'<span class="note">{html.name_of(system)}, {1000 * seconds:.0f} ms</span></figcaption></figure>'
        )
