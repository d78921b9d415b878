"""What an operator sees of the server: metrics for Prometheus, and one JSON line per request or error."""

from __future__ import annotations

import asyncio
import json
import logging
import time
import traceback
import uuid
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector
from python_multipart.exceptions import FormParserError
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
STOPPED = 499
"""Status logged for a request that was cut off when the server stopped; it is never sent."""

FAILED = "Internal server error. See the server log."

log = logging.getLogger("vitrine.app")


class Metrics:
    """Counters and timers in a registry of their own, so that two apps in one process do not share them."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "vitrine_requests", "Requests by route and status.", ["route", "status"], registry=registry
        )
        self.request_seconds = Histogram(
            "vitrine_request_seconds", "Seconds per request.", ["route"], buckets=SECONDS, registry=registry
        )
        self.predict_seconds = Histogram(
            "vitrine_predict_seconds",
            "Seconds per prediction, without waiting, of the page and of API clients.",
            ["system"],
            buckets=SECONDS,
            registry=registry,
        )
        self.refused = Counter(
            "vitrine_refused", "Predictions that answered 'None of these'.", ["system"], registry=registry
        )
        self.search_seconds = Histogram(
            "vitrine_search_seconds",
            "Seconds per search of an index, of the page and of API clients.",
            ["system"],
            buckets=SECONDS,
            registry=registry,
        )
        self.waiting = Gauge("vitrine_predictions_waiting", "Predictions waiting for their turn.", registry=registry)
        self.running = Gauge("vitrine_predictions_running", "Predictions running now, 0 or 1.", registry=registry)
        self.models = Info("vitrine_model", "Loaded systems.", ["system"], registry=registry)


class Watch:
    """ASGI middleware: counts, times and logs each request, adds headers, and answers unhandled exceptions with 500.

    Requests that change something or upload are rejected if they come from another website or are too large.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, headers: dict[str, str], max_body_bytes: int) -> None:
        self.app = app
        self.metrics = metrics
        self.headers = headers
        self.max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 0

        async def send_on(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in self.headers.items():
                    headers.setdefault(name, value)
            await send(message)

        async def answer(code: int, sentence: str, **more: str) -> None:
            await JSONResponse({"error": sentence, **more}, code)(scope, receive, send_on)

        try:
            if refusal := self._refusal(scope):
                await answer(*refusal)
            else:
                await self.app(scope, receive, errors_as_json(send_on))
                if not status:
                    await answer(500, FAILED)
        except asyncio.CancelledError:
            status = STOPPED
        except FormParserError:  # from Gradio's upload; Starlette's own forms handle it themselves
            await answer(400, "The form cannot be read.")
        except Exception:
            request = uuid.uuid4().hex
            log.exception("unhandled exception", extra={"fields": {"request": request}})
            if not status:
                await answer(500, FAILED, request=request)
            status = 500
        self._record(scope, status, time.perf_counter() - began)

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        if scope["method"] in SAFE_METHODS:
            return None
        headers = Headers(scope=scope)
        if is_cross_site(headers):
            return 403, "Requests from other websites are refused."
        length = headers.get("content-length", "")
        if not length.isdecimal() or "transfer-encoding" in headers:
            return 411, "The Content-Length header is required."
        if len(length) > 12 or int(length) > self.max_body_bytes:
            return 413, f"A request must be at most {self.max_body_bytes // 1024**2} MB."
        return None

    def _record(self, scope: Scope, status: int, seconds: float) -> None:
        refused = "/api" if scope["path"].startswith("/api/") else "unknown"  # before it reached a route
        route = getattr(scope.get("route"), "path", "") or refused
        self.metrics.requests.labels(route, status).inc()
        self.metrics.request_seconds.labels(route).observe(seconds)
        failed = status >= 500 and status != 503
        level = logging.ERROR if failed else logging.INFO if route.startswith("/api") else logging.DEBUG
        fields = {
            "method": scope["method"],
            "route": route,
            "status": status,
            "milliseconds": round(1000 * seconds, 1),
            "photos": scope.get("num_photos", 0),
        }
        log.log(level, "request", extra={"fields": fields})


def errors_as_json(send: Send) -> Send:
    """Convert plain-text errors of Gradio and Starlette to JSON, like all others; suppress their 500."""
    start: Message = {}
    text = bytearray()

    async def send_on(message: Message) -> None:
        nonlocal start
        if message["type"] == "http.response.start":
            kind = Headers(raw=message["headers"]).get("content-type", "")
            start = message if message["status"] >= 400 and kind.startswith("text/plain") else {}
        if not start:
            await send(message)
        elif message["type"] == "http.response.body":
            text.extend(message.get("body", b""))
            if not message.get("more_body") and start["status"] != 500:
                body = json.dumps({"error": text.decode(errors="replace")}).encode()
                headers = MutableHeaders(raw=start["headers"])
                headers["content-type"], headers["content-length"] = "application/json", str(len(body))
                await send({**start, "headers": headers.raw})
                await send({"type": "http.response.body", "body": body})

    return send_on


def is_cross_site(headers: Headers) -> bool:
    """Return whether a browser sends a request on behalf of another website; other clients send neither header."""
    origin = headers.get("origin")
    try:
        foreign = origin is not None and urlsplit(origin).netloc.lower() != headers.get("host", "").lower()
    except ValueError:
        foreign = True
    return foreign or headers.get("sec-fetch-site") == "cross-site"


class JsonLines(logging.Formatter):
    """Format each record as one line of JSON.

    Exceptions are logged by type and location only: their messages may repeat what a visitor sent.
    """

    def format(self, record: logging.LogRecord) -> str:
        moment = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": moment, "level": record.levelname.lower(), "message": record.getMessage()}
        line |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[0]:
            line["exception"] = record.exc_info[0].__name__
            frames = traceback.extract_tb(record.exc_info[2])
            line["frames"] = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
        return json.dumps(line)


def log_as_json() -> None:
    """Send all logs of this process to standard error as JSON, including requests and library warnings."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonLines())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("vitrine").setLevel(logging.INFO)
    logging.captureWarnings(True)
