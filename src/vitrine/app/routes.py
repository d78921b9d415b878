"""The routes that page.js requests: photographs, the panel of one of them, labels to review, figures, the report."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import fastapi
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vitrine.app import html
from vitrine.app.gallery import NUM_SIMILAR
from vitrine.app.state import AppState
from vitrine.artifacts import ArtifactError
from vitrine.data.catalog import CatalogError
from vitrine.labels import display_name
from vitrine.photos import PhotoError

MAX_THUMBNAILS = 1024
"""Kept in memory, 10 KB each."""

ASSETS = {
    "page.css": "text/css",
    "page.js": "text/javascript",
    "queue.css": "text/css",
    "queue.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
HOUR = {"Cache-Control": "max-age=3600"}

HEAD = """<meta name="description" content="Identify and find product photographs">
<meta property="og:title" content="Vitrine">
<meta property="og:type" content="website">
<meta property="og:description" content="Identify and find product photographs">
<meta name="color-scheme" content="light dark">
<link rel="stylesheet" href="/page/page.css">
<script src="/page/page.js" defer></script>
<link rel="stylesheet" href="/page/queue.css">
<script src="/page/queue.js" defer></script>
"""

FOREIGN_TAGS = re.compile(rb"<meta\s+(?:property=\"og:|name=\"twitter:)[^>]*>\s*")


class OwnHead:
    """Replace tags in the head of Gradio's page, which advertise Gradio and name other hosts, with our own."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/":
            await self.app(scope, receive, send)
            return
        start: Message = {}
        body = bytearray()

        async def rewrite(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.update(message)
                return
            body.extend(message.get("body", b""))
            if not message.get("more_body"):
                page = FOREIGN_TAGS.sub(b"", bytes(body)).replace(b"<head>", b"<head>\n" + HEAD.encode(), 1)
                headers = [(name, value) for name, value in start["headers"] if name.lower() != b"content-length"]
                start["headers"] = [*headers, (b"content-length", str(len(page)).encode())]
                await send(start)
                await send({"type": "http.response.body", "body": page})

        await self.app(scope, receive, rewrite)


class Correction(BaseModel):
    """A corrected label. Attributes: place: `SYSTEM/ROW`."""

    place: str = Field(max_length=60)
    task: str = Field(max_length=200)
    label: str = Field(max_length=200)


def add_page_routes(app: fastapi.FastAPI, state: AppState) -> None:
    """Add the routes that page.js requests to the application."""
    gallery = state.gallery
    thumbnail = lru_cache(MAX_THUMBNAILS)(gallery.thumbnail)

    @app.get("/page/{name}")
    def asset(name: str) -> fastapi.Response:
        if name not in ASSETS:
            raise HTTPException(404, "There is no such file.")
        folder = Path(__file__).parent / ("static" if name == "icon.svg" else "")
        return fastapi.Response((folder / name).read_bytes(), media_type=ASSETS[name])

    @app.get("/photo/{system}/{row}")
    def photo(system: str, row: int) -> fastapi.Response:
        try:
            return fastapi.Response(thumbnail(system, row), media_type="image/webp", headers=HOUR)
        except (KeyError, PhotoError):
            raise HTTPException(404, "There is no such photograph.") from None

    @app.get("/photo/{system}/{row}/whole")
    def whole(system: str, row: int) -> fastapi.Response:
        try:
            return fastapi.Response(gallery.whole(system, row), media_type="image/webp", headers=HOUR)
        except (KeyError, PhotoError):
            raise HTTPException(404, "There is no such photograph.") from None

    @app.get("/hit/{system}/{row}")
    def hit(system: str, row: str) -> fastapi.Response:
        try:
            known, number = state.locate(f"{system}/{row}")
            return fastapi.responses.HTMLResponse(html.detail(gallery, known, number, NUM_SIMILAR))
        except ArtifactError as error:
            raise HTTPException(404, str(error)) from None

    @app.get("/plot/{name}")
    def plot(name: str) -> fastapi.Response:
        if name not in state.plots or not state.plots[name].is_file():
            raise HTTPException(404, "There is no such plot.")
        return fastapi.Response(state.plots[name].read_bytes(), media_type="image/png")

    @app.get("/report")
    def report() -> fastapi.Response:
        path = state.root / "report/index.html"
        if not path.is_file():
            raise HTTPException(404, "There is no report yet. Create it with: dvc repro")
        return fastapi.responses.HTMLResponse(path.read_bytes())

    @app.get("/review/{system}/{task}")
    def review(system: str, task: str) -> fastapi.Response:
        if system not in gallery.indexes or task not in gallery.label_space.labels:
            raise HTTPException(404, "There is no such model or task.")
        items = [
            {
                "place": f"{system}/{each.row}",
                "given": display_name(each.given),
                "probability": round(each.probability, 4),
                "split": each.split,
                "labels": [
                    {"label": label, "name": display_name(label), "probability": round(probability, 4)}
                    for label, probability in each.ranked
                ],
            }
            for each in gallery.disagreements(system, task)
        ]
        return fastapi.responses.JSONResponse({"may_correct": state.may_correct, "items": items})

    @app.post("/api/corrections")
    def correct(correction: Correction) -> fastapi.Response:
        return _changed(lambda: state.correct(correction.place, correction.task, correction.label))

    @app.post("/api/corrections/undo")
    def undo() -> fastapi.Response:
        return _changed(state.undo)


def _changed(change: Any) -> fastapi.Response:
    try:
        return fastapi.responses.JSONResponse({"image_path": change()})
    except (ArtifactError, CatalogError) as error:
        raise HTTPException(409, str(error)) from None
