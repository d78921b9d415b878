"""A clip on the page: a strip of its frames, each with its time and its label or the reason it was dropped."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitrine.app.state import Prediction
from vitrine.inference.video import clip_sentence
from vitrine.labels import display_name


def strip(found: Sequence[Prediction]) -> str:
    """Render the frames of a clip with the first system's predictions; empty for photographs."""
    first = found[0]
    if first.clip is None:
        return ""
    cells = []
    for pixels, frame in zip(first.clip.photos, first.answer["clip"]["frames"], strict=True):
        dropped = frame["dropped"]
        kind = "dropped" if dropped else "decided" if frame["decided"] else "" if frame["agrees"] else "differs"
        text = dropped or f"{display_name(frame['label'])} {frame['probability']:.0%}"
        mark = "decided it" if kind == "decided" else "disagrees" if kind == "differs" else ""
        cells.append(
            f'<li class="{kind}"><img src="{_address(pixels)}" alt=""><b>{frame["seconds"]:.1f} s</b>'
            f"<span>{escape(text)}</span>{f'<em>{mark}</em>' if mark else ''}</li>"
        )
    return (
        f'<h2 class="section">Frames of the clip</h2><p class="note">{escape(clip_sentence(first.answer["clip"]))}</p>'
        f'<ol class="strip" tabindex="0" aria-label="Frames of the clip">{"".join(cells)}</ol>'
    )


def _address(pixels: NDArray[np.uint8]) -> str:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", quality=80)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
