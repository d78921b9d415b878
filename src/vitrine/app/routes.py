"""What page.js asks for: photographs, the panel of one of them, labels to review, figures, the report."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import fastapi
from pydantic import BaseModel, Field

from vitrine.app import html
from vitrine.app.state import AppState
from vitrine.artifacts import ArtifactError
from vitrine.data.catalog import CatalogError
from vitrine.labels import display_name
from vitrine.photos import PhotoError

NUM_SIMILAR = 6
ASSETS = {"page.css": "text/css", "page.js": "text/javascript", "icon.svg": "image/svg+xml"}
HOUR = {"Cache-Control": "max-age=3600"}

HEAD = """<meta name="description" content="Identify and find product photographs">
<meta property="og:title" content="Vitrine">
<meta property="og:type" content="website">
<meta property="og:description" content="Identify and find product photographs">
<meta name="color-scheme" content="light dark">
<link rel="stylesheet" href="/page/page.css">
<script src="/page/page.js" defer></script>
"""

FOREIGN_TAGS = re.compile(r"<meta\s+(?:property=\"og:|name=\"twitter:)[^>]*>\s*")


def own_head(page: str) -> str:
    """Return Gradio's page with our own head: no tags that advertise Gradio or name other hosts."""
    return FOREIGN_TAGS.sub("", page).replace("<head>", "<head>\n" + HEAD, 1)


class Correction(BaseModel):
    """A right label. Attributes: place: `SYSTEM/ROW`."""

    place: str = Field(max_length=60)
    task: str = Field(max_length=200)
    label: str = Field(max_length=200)


def add_page_routes(app: fastapi.FastAPI, state: AppState) -> None:
    """Add all that page.js asks for to the application."""
    gallery = state.gallery

    @app.get("/page/{name}")
    def asset(name: str) -> fastapi.Response:
        if name not in ASSETS:
            return fastapi.Response(status_code=404)
        folder = Path(__file__).parent / ("static" if name == "icon.svg" else "")
        return fastapi.Response((folder / name).read_bytes(), media_type=ASSETS[name])

    @app.get("/photo/{system}/{row}")
    def photo(system: str, row: int) -> fastapi.Response:
        try:
            return fastapi.Response(gallery.thumbnail(system, row), media_type="image/webp", headers=HOUR)
        except (KeyError, PhotoError):
            return fastapi.Response(status_code=404)

    @app.get("/photo/{system}/{row}/whole")
    def whole(system: str, row: int) -> fastapi.Response:
        try:
            return fastapi.Response(gallery.whole(system, row), media_type="image/webp", headers=HOUR)
        except (KeyError, PhotoError):
            return fastapi.Response(status_code=404)

    @app.get("/hit/{system}/{row}")
    def hit(system: str, row: str) -> fastapi.Response:
        try:
            known, number = state.locate(f"{system}/{row}")
        except ArtifactError as error:
            return fastapi.Response(html.empty(str(error), ""), status_code=404, media_type="text/html")
        return fastapi.responses.HTMLResponse(html.detail(gallery, known, number, NUM_SIMILAR))

    @app.get("/plot/{name}")
    def plot(name: str) -> fastapi.Response:
        if name not in state.plots:
            return fastapi.Response(status_code=404)
        return fastapi.Response(state.plots[name].read_bytes(), media_type="image/png")

    @app.get("/report")
    def report() -> fastapi.Response:
        path = state.root / "report/index.html"
        if not path.is_file():
            return fastapi.Response("There is no report yet. Make it with: dvc repro", 404, media_type="text/plain")
        return fastapi.responses.HTMLResponse(path.read_bytes())

    @app.get("/review/{system}/{task}")
    def review(system: str, task: str) -> fastapi.Response:
        if system not in gallery.indexes or task not in gallery.label_space.labels:
            return fastapi.responses.JSONResponse({"error": "There is no such model or task."}, 404)
        items = [
            {
                "place": f"{system}/{found.row}",
                "given": display_name(found.given),
                "probability": round(found.probability, 4),
                "split": found.split,
                "labels": [
                    {"label": label, "name": display_name(label), "probability": round(probability, 4)}
                    for label, probability in found.ranked
                ],
            }
            for found in gallery.disagreements(system, task)
        ]
        return fastapi.responses.JSONResponse({"may_correct": state.may_correct, "items": items})

    @app.post("/api/corrections")
    def correct(correction: Correction) -> fastapi.Response:
        return _changed(lambda: state.correct(correction.place, correction.task, correction.label))

    @app.delete("/api/corrections/last")
    def undo() -> fastapi.Response:
        return _changed(state.undo)


def _changed(change: Any) -> fastapi.Response:
    try:
        return fastapi.responses.JSONResponse({"image_path": change()})
    except (ArtifactError, CatalogError) as error:
        return fastapi.responses.JSONResponse({"error": str(error)}, 409)
