"""The web application: the page with all tabs, its photographs and plots, the API, and the server."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import sys
import threading
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import fastapi
import gradio as gr
import gradio.routes
import uvicorn
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware

from vitrine.app import html
from vitrine.app.api import MAX_BODY_BYTES, answer_errors, create_router
from vitrine.app.gallery import Engine
from vitrine.app.label_queue import LabelQueue, add_queue_routes
from vitrine.app.routes import OwnHead, add_page_routes
from vitrine.app.state import MAX_UPLOAD_BYTES, AppState
from vitrine.app.tabs import PRIVATE, IdentifyTab, SearchTab, accuracy_tab, labels_tab, restore
from vitrine.app.watch import Watch, log_as_json

QUEUE = Path("queue.csv")
"""The default output of `vitrine label next`."""

LOCAL_HOSTS = ("127.0.0.1", "localhost")
MAX_SESSIONS = 200
"""Visitors whose choices are remembered, 0.2 MB each."""

STOP_SECONDS = 10
"""Time that running requests have to finish when the server is stopped."""

SECURITY_HEADERS = {
    # Gradio's own page needs inline scripts; nothing may come from, or go to, another host.
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}

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
"""Gradio's names for colors, and ours; page.css defines their light and dark values."""


log = logging.getLogger("vitrine.app")


class LoggedTraceback:
    """Replacement for `traceback` in Gradio, which prints callbacks' exceptions and with them what visitors sent."""

    @staticmethod
    def print_exc() -> None:
        expected = isinstance(sys.exc_info()[1], gr.Error)  # a message for the visitor
        log.log(logging.WARNING if expected else logging.ERROR, "exception in the page", exc_info=True)


# mypy rejects an assignment to a module.
setattr(gradio.routes, "traceback", LoggedTraceback)  # noqa: B010


def create_page(state: AppState) -> gr.Blocks:
    """Lay out the page and connect its tabs."""
    with gr.Blocks(title="Vitrine", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.HTML(html.masthead(len(state.gallery.indexes[state.systems[0]])))
        warning = gr.HTML("")
        with gr.Tabs() as tabs:
            with gr.Tab("Identify", id="identify") as first:
                identify = IdentifyTab(state)
            with gr.Tab("Search", id="search") as second:
                search = SearchTab(state)
            with gr.Tab("Accuracy", id="accuracy") as third:
                accuracy_tab(state)
            with gr.Tab("Fix labels", id="labels") as fourth:
                labels_tab(state)
        for tab in (first, second, third, fourth):
            tab.select(None, js=f"() => vitrine.tab('{tab.id}')")
        address, go = gr.Textbox(visible="hidden", label="Address"), gr.Button("Go", visible="hidden", elem_id="go")
        search.connect(tabs, identify)
        page.load(lambda: html.banner(state.warning), None, warning, **PRIVATE)
        outputs, read = [tabs, identify.model, *search.restored], "() => location.search"
        for trigger, loading in ((page.load, True), (go.click, False)):
            state_of = partial(restore, state, loading)
            search.then_search(trigger(state_of, address, outputs, js=read, **PRIVATE), True)
    return page


async def create_app(
    root: Path, host: str, engines: Mapping[str, Engine] | None = None, queue: Path = QUEUE
) -> fastapi.FastAPI:
    """Create the web application; models load in the background.

    A coroutine, because outside an event loop Gradio opens eight of its own and never closes them.

    Args:
        engines: backends that replace systems' indexes.
        queue: file of photographs to label, relative to `root`; it need not exist yet.

    Raises:
        ArtifactError: the pipeline below `root` has not been run.
    """
    local = host in LOCAL_HOSTS
    state = AppState(root, may_correct=local, engines=engines)
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.state.page = state
    if local:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL_HOSTS])
    app.add_middleware(OwnHead)
    # Only our own origin: otherwise Gradio would let any website read the responses of a server in a network.
    app.add_middleware(CORSMiddleware, allow_origins=())
    app.add_middleware(Watch, metrics=state.metrics, headers=SECURITY_HEADERS, max_body_bytes=MAX_BODY_BYTES)
    answer_errors(app)
    app.include_router(create_router(state))
    add_page_routes(app, state)
    add_queue_routes(app, LabelQueue(state, root / queue, str(queue)))

    @app.api_route("/gradio_api/queue/{path:path}", methods=["GET", "POST"])
    @app.api_route("/gradio_api/call/{path:path}", methods=["GET", "POST"])
    @app.api_route("/gradio_api/api/{path:path}", methods=["GET", "POST"])
    def private(path: str) -> None:
        raise HTTPException(404, "Use /api/predict and /api/search instead.")

    state.start()
    theme = gr.themes.Base(
        primary_hue="teal", neutral_hue="stone", font=["system-ui", "sans-serif"], font_mono=["monospace"]
    )
    theme.set(**COLORS, **{f"{name}_dark": value for name, value in COLORS.items()})
    page = create_page(state)
    page.state_session_capacity = MAX_SESSIONS
    mounted = gr.mount_gradio_app(
        app,
        page,
        path="/",
        theme=theme,
        favicon_path=str(Path(__file__).parent / "static/icon.svg"),
        show_error=False,
        max_file_size=MAX_UPLOAD_BYTES,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        allowed_paths=[],
        server_name=host,
    )
    # Gradio rejects paths that nobody uploaded only once it "has launched", a flag that mounting does not set.
    page.has_launched = True
    return mounted


def mounted_apps(app: fastapi.FastAPI) -> list[Any]:
    """Return the applications that Gradio mounted (only one)."""
    mounted = [getattr(route, "app", None) for route in app.routes]
    return [each for each in mounted if hasattr(each, "stop_event")]


class Server(uvicorn.Server):
    """Uvicorn server that prints its address once it listens, and ends the streams of open pages on shutdown."""

    def __init__(self, app: fastapi.FastAPI, host: str, port: int) -> None:
        self.app = app
        wait = STOP_SECONDS
        config = uvicorn.Config(app, host, port, log_config=None, access_log=False, timeout_graceful_shutdown=wait)
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host = f"[{self.config.host}]" if ":" in self.config.host else self.config.host
        print(f"http://{host}:{self.config.port}", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for app in mounted_apps(self.app):
            app.stop_event.set()
        await super().shutdown(sockets)


def listen(host: str, port: int) -> socket.socket:
    """Open the server's socket. Raises: OSError when the port is taken or the host is not this machine's."""
    family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    return socket.create_server((host, port), family=family, backlog=2048)


def serve(root: Path, host: str, port: int, engines: Mapping[str, Engine] | None = None, queue: Path = QUEUE) -> None:
    """Serve the page until SIGTERM or Ctrl-C; running requests may finish.

    Args:
        engines, queue: as `create_app`.

    Raises:
        OSError: the port is taken; nothing has been printed.
        ArtifactError: the pipeline below `root` has not been run.
    """
    log_as_json()
    stopped = threading.Event()
    # uvicorn raises the signal again once it has stopped: the default handler would exit with the signal's code.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopped.set())

    async def run(opened: socket.socket) -> None:
        app = await create_app(root, host, engines, queue)
        if not stopped.is_set():
            await Server(app, host, port).serve([opened])
        app.state.page.close(STOP_SECONDS)

    with listen(host, port) as opened:
        asyncio.run(run(opened))
