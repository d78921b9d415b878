"""The static page predicts the same as the pipeline, in the browser alone and without a network."""

from __future__ import annotations

import os
import re
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from serving import BROWSER

from vitrine.app import web
from vitrine.app.web import compressed_megabytes, package_web
from vitrine.artifacts import ArtifactError, read_json
from vitrine.inference.export import export_onnx
from vitrine.inference.predictor import Predictor
from vitrine.retrieval.index import Index

NPM = shutil.which("npm") or shutil.which("npm", path=str(Path(sys.executable).parent))


@pytest.fixture(scope="module")
def root(project_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished project with an exported mobilevit."""
    copied = shutil.copytree(project_folder, tmp_path_factory.mktemp("static") / "project")
    export_onnx("mobilevit", copied / "models", copied / "exports/mobilevit")
    return copied


@pytest.fixture
def without_npm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "fetch_runtime", lambda: dict.fromkeys(web.RUNTIME_FILES, b"runtime"))


@pytest.mark.usefixtures("without_npm")
def test_a_page_is_complete_and_names_no_other_host(root: Path, tmp_path: Path) -> None:
    paths = package_web(tmp_path / "page", "mobilevit", root)
    names = {path.relative_to(tmp_path / "page").as_posix() for path in paths}
    index = Index.load(root / "index/mobilevit")
    assert {"index.html", "app.js", "resize.js", "style.css", "sw.js", "icon.svg", "model.onnx"} < names
    assert sum(name.startswith("thumbnails/") for name in names) == len(index)
    kept = re.findall(
        r'"([^"]+)"', (tmp_path / "page/sw.js").read_text(encoding="utf-8").split("FILES = ")[1].split("]")[0]
    )
    assert set(kept) == names - {"sw.js"} | {"./"}
    for path in paths:
        if path.suffix in (".html", ".js", ".css"):
            assert not re.search(r"https?://", path.read_text(encoding="utf-8")), path
    document = read_json(tmp_path / "page/gallery.json")
    num, labels = len(index), index.probs.shape[0]
    stored = np.fromfile(tmp_path / "page/gallery.bin", dtype=np.uint8)
    assert len(document["photos"]) == num and len(stored) == num * (labels + index.embeddings.shape[1])
    np.testing.assert_allclose(stored[: num * labels].reshape(num, labels) / 255, index.probs.T, atol=0.5 / 255)
    embeddings = stored[num * labels :].view(np.int8).reshape(num, -1).astype(np.float64)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    assert (embeddings * index.embeddings).sum(axis=1).min() > 0.999
    exported = root / "exports/mobilevit/model.onnx"
    assert (tmp_path / "page/model.onnx").stat().st_size < 0.7 * exported.stat().st_size
    assert 0 < compressed_megabytes(paths) < 1


@pytest.mark.usefixtures("without_npm")
def test_a_large_gallery_is_sampled_evenly(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MAX_PHOTOS", 3)
    package_web(tmp_path / "page", "mobilevit", root)
    paths = Index.load(root / "index/mobilevit").image_paths
    picked = [photo["path"] for photo in read_json(tmp_path / "page/gallery.json")["photos"]]
    assert len(picked) == 3 and picked[0] == paths[0] and picked[-1] == paths[-1]


@pytest.mark.usefixtures("without_npm")
def test_errors_leave_nothing_behind(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ArtifactError, match=r"contains no export. Run: make export"):
        package_web(tmp_path / "page", "deit", root)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/mine.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="already exists"):
        package_web(tmp_path / "full", "mobilevit", root)
    monkeypatch.undo()
    monkeypatch.setattr(web.shutil, "which", lambda *_, **__: None)
    with pytest.raises(ArtifactError, match="npm is not installed"):
        package_web(tmp_path / "page", "mobilevit", root)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]


def fake_npm(folder: Path, script: str) -> str:
    path = folder / "npm"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'npm error network is unreachable' >&2; exit 1", "npm cannot fetch .* network is unreachable"),
        ("echo other > onnxruntime-web.tgz", "SHA-512 does not match the pinned one"),
    ],
)
def test_only_the_pinned_runtime_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str
) -> None:
    npm = fake_npm(tmp_path, script)
    monkeypatch.setattr(web.shutil, "which", lambda *_, **__: npm)
    with pytest.raises(ArtifactError, match=message):
        web.fetch_runtime()


# -- in a browser --------------------------------------------------------------------------------------------------


class Quiet(SimpleHTTPRequestHandler):
    """Serve files without logging."""

    def log_message(self, *_: object) -> None:
        pass


def in_browser(test: Callable[..., None]) -> Callable[..., None]:
    """Mark a test that opens the page in Chromium."""
    missing = BROWSER is None and "VITRINE_NEEDS_BROWSER" not in os.environ
    marks = [
        pytest.mark.browser,
        pytest.mark.slow,
        pytest.mark.enable_socket,
        pytest.mark.skipif(NPM is None, reason="no npm"),
        pytest.mark.skipif(missing, reason="no chromium; apt-get install chromium"),
    ]
    for mark in marks:
        test = mark(test)
    return test


@pytest.fixture(scope="module")
def address(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("site") / "page"
    package_web(folder, "mobilevit", root)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


@in_browser
def test_the_page_identifies_searches_and_works_offline(root: Path, address: str, tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    rng = np.random.default_rng(5)
    sizes = [(24, 24), (70, 50), (33, 90), (400, 300)]
    files = [tmp_path / f"{width}.png" for width, _ in sizes]
    for file, (width, height) in zip(files, sizes, strict=True):
        coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(file)
    expected = Predictor.load("mobilevit", root / "models", root / "exports").predict_files(files)
    elsewhere: list[str] = []
    errors: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        context = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
        page = context.new_page()
        page.set_default_timeout(90_000)
        page.on("request", lambda r: None if r.url.startswith((address, "blob:")) else elsewhere.append(r.url))
        page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
        page.goto(address)
        page.wait_for_selector("body[data-ready=yes]")
        for row, file in enumerate(files):
            page_probs = predicted(page, file)
            for task, probs in expected.probs.items():
                np.testing.assert_allclose(page_probs[task], probs[row], atol=0.01)
        page.set_input_files("#file", str(files[1]))
        page.wait_for_selector("#answer dl")
        best = expected.label_space.labels["class"][int(expected.predicted("class")[1])]
        assert page.locator("#answer .bar.first").first.inner_text().split("\n")[0] == best.replace("_", " ")
        assert "most similar first" in page.locator("#found").inner_text()
        page.locator("#gallery button").first.click()
        assert "similarity 100 %" in page.locator("#gallery li").first.inner_text()
        page.locator("#labels .chip").first.click()
        assert "best match first" in page.locator("#found").inner_text()
        axe_result = axe.Axe().run(page)
        assert axe_result.violations_count == 0, axe_result.generate_report()
        assert page.evaluate("document.documentElement.scrollWidth") == 390
        page.set_input_files("#file", {"name": "x.png", "mimeType": "image/png", "buffer": b"no photograph"})
        sync_api.expect(page.locator("#status")).to_contain_text("Can't read this image")
        errors.clear()  # the broken file is logged
        page.evaluate("navigator.serviceWorker.ready")
        context.set_offline(True)
        page.reload()
        page.wait_for_selector("body[data-ready=yes]")
        assert predicted(page, files[0])
        browser.close()
    assert elsewhere == [] and errors == []


@in_browser
def test_the_last_photograph_chosen_while_the_model_loads_is_identified(address: str, tmp_path: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api")
    for name, side in (("first.png", 60), ("last.png", 90)):
        Image.new("RGB", (side, side), "teal").save(tmp_path / name)
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_context().new_page()
        page.set_default_timeout(90_000)
        held: list[Any] = []
        page.route("**/model.onnx", lambda route: held.append(route))
        page.goto(address)
        for name in ("first.png", "last.png"):
            page.set_input_files("#file", str(tmp_path / name))
        sync_api.expect(page.locator("#status")).to_have_text("Loading the model…")
        while not held:
            page.wait_for_timeout(50)
        held[0].continue_()
        page.wait_for_selector("#answer dl")
        page.wait_for_timeout(1000)  # in case the first one comes later
        assert page.locator("#preview").evaluate("image => image.naturalWidth") == 90
        browser.close()


def predicted(page: Any, file: Path) -> dict[str, list[float]]:
    """Predict with the page's code. Returns: {task: [probability of every label]}"""
    script = """async (bytes) => {
      const page = await import("./app.js");
      return (await page.predict(new Blob([new Uint8Array(bytes)]))).probs;
    }"""
    probs: dict[str, list[float]] = page.evaluate(script, list(file.read_bytes()))
    return probs
