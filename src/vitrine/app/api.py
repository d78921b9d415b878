"""The HTTP API, with JSON responses. Uploads are limited in size, number and time, and never kept."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import fastapi
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse

from vitrine import __version__
from vitrine.app.state import COMPARE, MAX_HITS, MAX_PHOTOS, MAX_UPLOAD_BYTES, AppState
from vitrine.artifacts import ArtifactError
from vitrine.data.dataset import SUFFIXES
from vitrine.data.video import CLIP_SUFFIXES
from vitrine.photos import PhotoError

MAX_BODY_BYTES = MAX_PHOTOS * MAX_UPLOAD_BYTES + 64 * 1024
"""Maximum size of a request: all its photographs and the form around them. Larger ones do not reach a route."""

MAX_WAITING = 64
MAX_WAITING_BYTES = 1024**3
"""Maximum number of pending requests with photographs, and of their bytes; beyond either, clients must retry."""

UPLOAD_SECONDS = 60
RETRY_SECONDS = 2

TopK = Annotated[int, fastapi.Query(ge=1, le=MAX_HITS)]


class Uploads:
    """Photographs sent to the API, in a private folder per request that is deleted when the request ends."""

    def __init__(self) -> None:
        self.num_requests = 0
        self.num_bytes = 0

    @asynccontextmanager
    async def receive(self, request: fastapi.Request, field: str, max_files: int) -> AsyncIterator[list[str]]:
        """Receive a form's files and yield their paths.

        Raises:
            HTTPException: a file is too large, the request is too slow or not such a form, or too many are waiting.
        """
        length = int(request.headers["content-length"])
        if self.num_requests >= MAX_WAITING or self.num_bytes + length > MAX_WAITING_BYTES:
            raise unavailable("Too many predictions are waiting. Try again.")
        self.num_requests += 1
        self.num_bytes += length
        try:
            with TemporaryDirectory(prefix="vitrine-", ignore_cleanup_errors=True) as folder:
                yield await self._store(request, field, max_files, Path(folder))
        finally:
            self.num_requests -= 1
            self.num_bytes -= length

    async def _store(self, request: fastapi.Request, field: str, max_files: int, folder: Path) -> list[str]:
        if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
            raise HTTPException(400, f"Send a form (multipart/form-data) with photographs in the field '{field}'.")
        try:
            async with (
                asyncio.timeout(UPLOAD_SECONDS),
                request.form(max_files=max_files, max_fields=0) as form,
            ):
                files = [(name, file) for name, file in form.multi_items() if isinstance(file, UploadFile)]
                if not files or any(name != field for name, _ in files):
                    number = "one photograph" if max_files == 1 else f"1 to {max_files} photographs"
                    raise HTTPException(400, f"Send {number} in the field '{field}', and no other fields.")
                if any((file.size or 0) > MAX_UPLOAD_BYTES for _, file in files):
                    raise HTTPException(413, f"A file is larger than {MAX_UPLOAD_BYTES // 1024**2} MB.")
                request.scope["num_photos"] = len(files)
                return await run_in_threadpool(write_files, [file for _, file in files], folder)
        except TimeoutError:
            raise HTTPException(408, f"The upload took longer than {UPLOAD_SECONDS} seconds.") from None
        except ClientDisconnect:
            raise HTTPException(400, "The upload ended too early.") from None


def write_files(files: list[UploadFile], folder: Path) -> list[str]:
    """Write uploads under generated names; only a known suffix is kept of the original name."""
    paths = []
    for number, file in enumerate(files):
        suffix = Path(file.filename or "").suffix.lower()
        path = folder / f"{number}{suffix if suffix in (*SUFFIXES, *CLIP_SUFFIXES) else ''}"
        with path.open("xb") as out:
            shutil.copyfileobj(file.file, out)
        paths.append(str(path))
    return paths


def unavailable(sentence: str) -> HTTPException:
    return HTTPException(503, sentence, {"Retry-After": str(RETRY_SECONDS)})


def create_router(state: AppState) -> fastapi.APIRouter:
    """Return the routes of the API: predictions, searches, health and metrics."""
    router, uploads = fastapi.APIRouter(), Uploads()
    first = state.systems[0]

    def known(model: str, compare: bool = False) -> str:
        choices = [*state.systems, *([COMPARE] if compare else [])]
        if model not in choices:
            raise HTTPException(404, f"There is no such model. Choose one of: {', '.join(choices)}.")
        return model

    @router.post("/api/predict")
    async def predict(request: fastapi.Request, model: str = first) -> JSONResponse:
        systems = state.chosen(known(model, compare=True))
        async with uploads.receive(request, "photos", MAX_PHOTOS) as paths:
            predictions = await asyncio.wrap_future(state.enqueue(paths, systems))
        return JSONResponse({"answers": [prediction.answer for prediction in predictions]})

    @router.get("/api/search")
    def search(q: str = "", model: str = first, top_k: TopK = 10, by_item: bool = False) -> JSONResponse:
        return JSONResponse(state.search_index(known(model), q, None, top_k, by_item).to_record(model))

    @router.post("/api/search")
    async def search_like(
        request: fastapi.Request, q: str = "", model: str = first, top_k: TopK = 10, by_item: bool = False
    ) -> JSONResponse:
        known(model)
        async with uploads.receive(request, "like", 1) as paths:
            (like,) = await asyncio.wrap_future(state.enqueue(paths, [model]))
        result = await run_in_threadpool(state.search_index, model, q, like.embedding, top_k, by_item)
        return JSONResponse(result.to_record(model))

    @router.get("/healthz")
    def health() -> JSONResponse:
        status = state.status
        document: dict[str, Any] = {"status": status, "version": __version__, "systems": state.systems}
        document["models"] = state.loaded_models()
        if status == "failing":
            document["reason"] = state.warning
        return JSONResponse(document, 200 if status == "ok" else 503)

    @router.get("/metrics")
    def metrics() -> fastapi.Response:
        return fastapi.Response(generate_latest(state.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return router


def answer_errors(app: fastapi.FastAPI) -> None:
    """Answer errors in our own routes with one sentence as JSON that repeats nothing from the request."""

    @app.exception_handler(HTTPException)
    async def refused(_: fastapi.Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: fastapi.Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        return JSONResponse({"error": f"{first['loc'][-1]}: {first['msg']}"}, 400)

    @app.exception_handler(PhotoError)
    async def no_photo(_: fastapi.Request, error: PhotoError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 400)

    @app.exception_handler(ArtifactError)
    async def no_model(request: fastapi.Request, error: ArtifactError) -> JSONResponse:
        return await refused(request, unavailable(str(error)))
