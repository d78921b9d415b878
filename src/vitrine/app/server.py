"""The web application: the page of all tabs, photographs and plots, headers that keep it to itself."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import fastapi
import gradio as gr
import uvicorn
from starlette.middleware.trustedhost import TrustedHostMiddleware

from vitrine.app import html
from vitrine.app.routes import add_page_routes, own_head
from vitrine.app.state import MAX_UPLOAD_BYTES, AppState
from vitrine.app.tabs import PRIVATE, IdentifyTab, SearchTab, accuracy_tab, labels_tab, restore

LOCAL_HOSTS = ("127.0.0.1", "localhost")
MAX_SESSIONS = 200
"""Visitors whose choices are remembered, 0.2 MB each; a call of an endpoint from a program counts as a visitor."""

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
"""Gradio's names for colors, and ours: page.css has their values, light and dark."""


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
            tab.select(None, js=f"() => vitrine.set({{tab: '{tab.id}'}})")
        address, go = gr.Textbox(visible="hidden", label="Address"), gr.Button("Go", visible="hidden", elem_id="go")
        search.connect(tabs, identify)
        page.load(lambda: html.banner(state.warning), None, warning, **PRIVATE, queue=False)
        for trigger in (page.load, go.click):
            outputs = [tabs, identify.model, *search.restored]
            read = "() => location.search"
            search.then_search(trigger(partial(restore, state), address, outputs, js=read, queue=False, **PRIVATE))
        page.queue(max_size=200)
    return page


async def create_app(root: Path, host: str) -> fastapi.FastAPI:
    """Make the web application; models load in the background.

    A coroutine, because outside of an event loop Gradio opens eight of its own and never closes them.

    Raises:
        ArtifactError: the pipeline below `root` has not been run.
    """
    local = host in LOCAL_HOSTS
    state = AppState(root, may_correct=local)
    app = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if local:
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL_HOSTS])

    @app.middleware("http")
    async def add_headers(request: fastapi.Request, call_next: Any) -> Any:
        response = await call_next(request)
        if request.url.path == "/" and response.headers.get("content-type", "").startswith("text/html"):
            page = b"".join([chunk async for chunk in response.body_iterator]).decode()
            response = fastapi.responses.HTMLResponse(own_head(page), response.status_code)
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        return response

    add_page_routes(app, state)
    threading.Thread(target=state.warm_up, daemon=True).start()
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
